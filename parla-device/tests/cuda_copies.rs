//! Copies of the CUDA backend, on a driver of our own (`parla-fake-cuda`).
// Not under ThreadSanitizer: a library that is loaded at run time has not been tried with it.
#![cfg(all(target_os = "linux", not(crossbeam_sanitize)))]

#[path = "fake_cuda/driver.rs"]
#[expect(dead_code, reason = "shared with other tests, which use all of it")]
mod driver;
#[path = "fake_cuda/memory.rs"]
mod memory;

use std::sync::mpsc::channel;

use driver::{LIMIT, first, gpus, live, with_driver};
use memory::{bytes, eventually, host, pattern, place, read, whole};
use parla_device::{Copy, CudaOptions};

#[test]
fn bytes_go_there_and_back() {
    with_driver("bytes_go_there_and_back", &[], || {
        let gpu = first();
        let stream = gpu.stream().unwrap();
        for n in [1, 7, 1000, 1 << 16, (1 << 16) + 1, 3 << 20, 40 << 20] {
            let data = pattern(n, 3);
            let block = gpu.allocate(n as u64).unwrap();
            stream
                .copy(whole((&host(&data), None), (&block, Some(&gpu))))
                .unwrap();
            assert!(read(&stream, &gpu, &block) == data, "{n} bytes");
        }
        assert!(stream.is_idle().unwrap());
        assert!(stream.raw().is_some_and(|raw| raw != 0));
        eventually("blocks are let go", || gpu.memory_used() == 0);
    });
}

/// There are fewer pieces of page-locked memory than copies under way.
#[test]
fn copies_on_many_streams_at_once_do_not_mix() {
    let test = "copies_on_many_streams_at_once_do_not_mix";
    with_driver(test, &[("DELAY_US", "300")], || {
        let gpu = first();
        let streams = [(); 12].map(|()| gpu.stream().unwrap());
        let data: Vec<_> = (0..=255).map(|salt| pattern(3000, salt)).collect();
        for round in 0..8 {
            let blocks: Vec<_> = data.iter().map(|_| gpu.allocate(3000).unwrap()).collect();
            for (i, (data, block)) in data.iter().zip(&blocks).enumerate() {
                let copy = whole((&host(data), None), (block, Some(&gpu)));
                streams[i % streams.len()].copy(copy).unwrap();
            }
            for stream in &streams {
                stream.synchronize().unwrap();
            }
            for (i, (data, block)) in data.iter().zip(&blocks).enumerate() {
                assert!(
                    read(&streams[0], &gpu, block) == *data,
                    "copy {i} of round {round}"
                );
            }
        }
    });
}

#[test]
fn boxes_go_there_and_back_with_any_strides() {
    with_driver(
        "boxes_go_there_and_back_with_any_strides",
        &[("DELAY_US", "5")],
        || {
            let gpu = first();
            let stream = gpu.stream().unwrap();
            // A box of 4 x 5 x 6 elements of 8 bytes in something larger: as rows, columns, reversed, broadcast.
            let layouts: [[isize; 3]; 5] = [
                [1600, 160, 8],
                [8, 32, 160],
                [-1600, 160, -8],
                [160, 1600, 16],
                [8, 400, 64],
            ];
            let room = 16_000;
            for from in layouts.iter().chain(&[[0, 8, 48], [8, 8, 8]]) {
                for to in &layouts {
                    let copy = |source, destination| Copy {
                        item: 8,
                        shape: [4, 5, 6][..].into(),
                        source,
                        destination,
                    };
                    let data = pattern(room, 9);
                    let (source, middle, target) = (
                        host(&data),
                        gpu.allocate(room as u64).unwrap(),
                        host(&vec![0; room]),
                    );
                    let offset = 8000;
                    stream
                        .copy(copy(
                            place(&source, offset, from, None),
                            place(&middle, offset, to, Some(&gpu)),
                        ))
                        .unwrap();
                    stream
                        .copy(copy(
                            place(&middle, offset, to, Some(&gpu)),
                            place(&target, 0, &[240, 48, 8], None),
                        ))
                        .unwrap();
                    stream.synchronize().unwrap();
                    let mut expected = vec![0; room];
                    for (i, j, k) in (0..120).map(|e| (e / 30, e / 6 % 5, e % 6)) {
                        let at =
                            (offset as isize + from[0] * i + from[1] * j + from[2] * k) as usize;
                        let to = (240 * i + 48 * j + 8 * k) as usize;
                        expected[to..to + 8].copy_from_slice(&data[at..at + 8]);
                    }
                    assert!(bytes(&target) == expected, "{from:?} {to:?}");
                }
            }
        },
    );
}

#[test]
fn a_copy_reads_what_the_copy_before_it_wrote() {
    // Memory of the host that is not page-locked, which the driver would read at the call.
    with_driver("a_copy_reads_what_the_copy_before_it_wrote", &[], || {
        let gpu = first();
        let streams = [gpu.stream().unwrap(), gpu.stream().unwrap()];
        for n in [100, 1 << 20] {
            let (a, b) = (gpu.allocate(n).unwrap(), gpu.allocate(n).unwrap());
            let (first, middle) = (pattern(n as usize, 7), host(&vec![0; n as usize]));
            let there = whole((&host(&first), None), (&a, Some(&gpu)));
            streams[0].copy(there).unwrap();
            let (gate, opened) = channel::<()>();
            let wait = move || opened.recv_timeout(LIMIT).unwrap();
            streams[0].launch(Box::new(wait), 0).unwrap();
            streams[0]
                .copy(whole((&a, Some(&gpu)), (&middle, None)))
                .unwrap();
            streams[1].wait(&streams[0].record().unwrap()).unwrap();
            streams[1]
                .copy(whole((&middle, None), (&b, Some(&gpu))))
                .unwrap();
            assert!(bytes(&middle).iter().all(|&byte| byte == 0));
            gate.send(()).unwrap();
            assert!(read(&streams[1], &gpu, &b) == first, "{n} bytes");
        }
    });
}

#[test]
fn page_locked_memory_is_copied_directly_and_let_go() {
    with_driver(
        "page_locked_memory_is_copied_directly_and_let_go",
        &[],
        || {
            let gpu = first();
            let stream = gpu.stream().unwrap();
            let n = 4 << 20;
            let (data, back) = (pattern(n, 5), host(&vec![0; n]));
            let source = host(&data);
            let before = live().pinned;
            for block in [&source, &back] {
                gpu.pin_host(block);
                gpu.pin_host(block);
            }
            gpu.pin_host(&host(&[0; 100]));
            eventually("page-locked", || live().pinned == before + 2);
            let block = gpu.allocate(n as u64).unwrap();
            stream
                .copy(whole((&source, None), (&block, Some(&gpu))))
                .unwrap();
            stream
                .copy(whole((&block, Some(&gpu)), (&back, None)))
                .unwrap();
            // The copies keep both, and need no other pieces.
            drop(source);
            stream.synchronize().unwrap();
            assert!(bytes(&back) == data);
            assert!(live().pinned <= before + 2);
            drop(back);
            eventually("let go", || live().pinned == before);
        },
    );
}

#[test]
fn memory_that_others_page_locked_is_copied_directly() {
    let test = "memory_that_others_page_locked_is_copied_directly";
    with_driver(test, &[], || {
        let gpu = first();
        let stream = gpu.stream().unwrap();
        let n = 300_000;
        let (source, data) = (host(&pattern(n, 2)), pattern(n, 2));
        let register: unsafe extern "C" fn(usize, usize, u32) -> i32 =
            driver::function(c"cuMemHostRegister_v2");
        let block = gpu.allocate(n as u64).unwrap();
        let context: unsafe extern "C" fn(*mut usize, i32) -> i32 =
            driver::function(c"cuDevicePrimaryCtxRetain");
        let push: unsafe extern "C" fn(usize) -> i32 = driver::function(c"cuCtxPushCurrent_v2");
        let mut handle = 0;
        // SAFETY: writes one handle, which becomes the current context; the memory lives to the end of the test.
        unsafe {
            assert_eq!(context(&raw mut handle, 0), 0);
            assert_eq!(push(handle), 0);
            assert_eq!(register(source.address(), n, 0), 0);
        }
        let before = live().pinned;
        stream
            .copy(whole((&source, None), (&block, Some(&gpu))))
            .unwrap();
        stream.synchronize().unwrap();
        assert_eq!(live().pinned, before, "no pieces");
        assert!(read(&stream, &gpu, &block) == data);
        assert!(
            live().pinned > before,
            "pieces for memory that is not page-locked"
        );
    });
}

#[test]
fn a_reversed_copy_inside_a_card_goes_through_the_host() {
    let test = "a_reversed_copy_inside_a_card_goes_through_the_host";
    with_driver(test, &[], || {
        let gpu = first();
        let stream = gpu.stream().unwrap();
        // Which the driver would do element by element.
        for n in [1000_usize, 100_000] {
            let data = pattern(n * 8, 4);
            let a = gpu.allocate(n as u64 * 8).unwrap();
            let b = gpu.allocate(n as u64 * 8).unwrap();
            stream
                .copy(whole((&host(&data), None), (&a, Some(&gpu))))
                .unwrap();
            stream
                .copy(Copy {
                    item: 8,
                    shape: [n][..].into(),
                    source: place(&a, (n - 1) * 8, &[-8], Some(&gpu)),
                    destination: place(&b, 0, &[8], Some(&gpu)),
                })
                .unwrap();
            let expected: Vec<u8> = data.chunks_exact(8).rev().flatten().copied().collect();
            assert!(read(&stream, &gpu, &b) == expected, "{n}");
        }
    });
}

#[test]
fn cards_that_do_not_reach_each_other_copy_too() {
    let fake = [("DEVICES", "2"), ("PEER", "0")];
    with_driver("cards_that_do_not_reach_each_other_copy_too", &fake, || {
        let devices = gpus(&CudaOptions::default());
        let data = pattern(10_000, 1);
        let (a, b) = (
            devices[0].allocate(10_000).unwrap(),
            devices[1].allocate(10_000).unwrap(),
        );
        let (first, second) = (devices[0].stream().unwrap(), devices[1].stream().unwrap());
        first
            .copy(whole((&host(&data), None), (&a, Some(&devices[0]))))
            .unwrap();
        second.wait(&first.record().unwrap()).unwrap();
        second
            .copy(whole((&a, Some(&devices[0])), (&b, Some(&devices[1]))))
            .unwrap();
        assert!(read(&second, &devices[1], &b) == data);
    });
}
