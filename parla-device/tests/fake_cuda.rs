//! The CUDA backend on a driver of our own (`parla-fake-cuda`). Each test runs in a process of its own, as a process has one driver.
// Not under ThreadSanitizer: a library that is loaded at run time has not been tried with it.
#![cfg(all(target_os = "linux", not(crossbeam_sanitize)))]
#![expect(
    clippy::unwrap_used,
    reason = "also in the functions that the tests share"
)]

#[path = "fake_cuda/driver.rs"]
mod driver;
#[path = "fake_cuda/memory.rs"]
mod memory;

use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

use driver::{live, with_driver, with_library};
use memory::{bytes, eventually, host, pattern, place, read, whole};
use parla_core::MemoryId;
use parla_device::{Backend as _, Copy, CudaBackend, CudaOptions, Device, Machine, MachineOptions};

const LIMIT: Duration = Duration::from_secs(30);

fn gpus(options: &CudaOptions) -> Vec<Arc<dyn Device>> {
    let backend = CudaBackend::probe(options);
    assert_eq!(backend.unavailable(), None);
    backend.devices()
}

fn first() -> Arc<dyn Device> {
    gpus(&CudaOptions::default()).remove(0)
}

#[test]
fn without_a_driver_there_are_no_devices_and_a_reason() {
    // On a machine with a real driver this says nothing.
    with_library(
        "without_a_driver_there_are_no_devices_and_a_reason",
        None,
        &[],
        || {
            let backend = CudaBackend::probe(&CudaOptions::default());
            assert_eq!(
                backend.devices().is_empty(),
                backend.unavailable().is_some()
            );
            if let Some(reason) = backend.unavailable() {
                let known = ["libcuda.so.1 not found", "no CUDA device", "driver too old"];
                assert!(
                    known.iter().any(|start| reason.starts_with(start)),
                    "{reason}"
                );
            }
        },
    );
}

fn unavailable(test: &str, fake: &[(&str, &str)], reason: &str) {
    with_driver(test, fake, || {
        let backend = CudaBackend::probe(&CudaOptions::default());
        assert_eq!(backend.unavailable().as_deref(), Some(reason));
        assert!(backend.devices().is_empty());
    });
}

#[test]
fn a_driver_without_devices_is_a_reason() {
    unavailable(
        "a_driver_without_devices_is_a_reason",
        &[("DEVICES", "0")],
        "no CUDA device",
    );
}

#[test]
fn an_old_driver_is_a_reason() {
    unavailable(
        "an_old_driver_is_a_reason",
        &[("VERSION", "11080")],
        "driver too old: for CUDA 11.8, 12.0 is needed",
    );
}

#[test]
fn a_probe_touches_nothing() {
    with_driver(
        "a_probe_touches_nothing",
        &[("DEVICES", "3"), ("VERSION", "13000")],
        || {
            let devices = gpus(&CudaOptions::default());
            let names: Vec<&str> = devices.iter().map(|device| device.name()).collect();
            assert_eq!(names, ["gpu:0", "gpu:1", "gpu:2"]);
            let ordinals: Vec<_> = devices.iter().map(|device| device.ordinal()).collect();
            assert_eq!(ordinals, [Some(0), Some(1), Some(2)]);
            assert_eq!(
                devices[0].memory_capacity(),
                1 << 29,
                "half of a small card"
            );
            assert!(devices[0].stream_ordered() && !devices[0].host_access());
            let nothing = driver::Live {
                streams: 0,
                events: 0,
                allocations: 0,
                pinned: 0,
                contexts: 0,
            };
            assert_eq!(live(), nothing);
            drop(devices[1].allocate(1));
            assert_eq!(live().contexts, 1, "only of the device that was used");
            drop(devices);
            eventually("everything given back", || live() == nothing);
        },
    );
}

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
fn the_machine_has_the_devices() {
    let fake = [("DEVICES", "2"), ("PEER", "0")];
    with_driver("the_machine_has_the_devices", &fake, || {
        let options = MachineOptions {
            cuda: CudaOptions {
                memory: vec![1 << 20, 1 << 21],
                ..CudaOptions::default()
            },
            ..MachineOptions::default()
        };
        let machine = Machine::probe(&options).unwrap();
        assert_eq!(machine.unavailable("gpu"), None);
        let model = machine.model();
        let memories = model.memories.iter().skip(1);
        let memories: Vec<_> = memories.map(|m| (m.name.as_str(), m.capacity)).collect();
        assert_eq!(memories, [("gpu:0", 1 << 20), ("gpu:1", 1 << 21)]);
        let gpu = machine.find("gpu", 1).expect("two");
        assert!(model.device(gpu).exclusive);
        assert!(!model.link(MemoryId(1), MemoryId(2)).direct);
        assert!(model.link(MemoryId(0), MemoryId(2)).direct);
    });
}

/// A kernel writes, another one doubles on a second stream, a third one adds up on a third; the first comes late. The sum, and
/// whether it was there before the first kernel was.
fn sum_of_a_pipeline() -> (u32, bool) {
    let gpu = first();
    let streams = [(); 3].map(|()| gpu.stream().unwrap());
    let raw = |i: usize| streams[i].raw().unwrap();
    let block = gpu.allocate(100).unwrap();
    streams[0].synchronize().unwrap();
    let (gate, opened) = channel::<()>();
    let (sender, sum) = channel();
    let wait = move || opened.recv_timeout(LIMIT).unwrap();
    streams[0].launch(Box::new(wait), 0).unwrap();
    driver::kernel(raw(0), block.address(), 100, |bytes| bytes.fill(1));
    streams[1].wait(&streams[0].record().unwrap()).unwrap();
    driver::kernel(raw(1), block.address(), 100, |bytes| {
        bytes
            .iter_mut()
            .for_each(|byte| *byte = byte.wrapping_mul(2));
    });
    streams[2].wait(&streams[1].record().unwrap()).unwrap();
    driver::kernel(raw(2), block.address(), 100, move |bytes| {
        let sum = bytes.iter().map(|&byte| u32::from(byte)).sum();
        sender.send(sum).unwrap();
    });
    let done = streams[2].record().unwrap();
    let early = match std::env::var("FAKE_CUDA_SKIP_WAIT") {
        Ok(_) => Some(sum.recv_timeout(LIMIT).unwrap()),
        Err(_) => None,
    };
    assert!(early.is_some() || !done.is_done().unwrap());
    gate.send(()).unwrap();
    let result = early.map_or_else(
        || (sum.recv_timeout(LIMIT).unwrap(), false),
        |sum| (sum, true),
    );
    for stream in &streams {
        stream.synchronize().unwrap();
    }
    result
}

#[test]
fn kernels_follow_one_another_through_events() {
    with_driver("kernels_follow_one_another_through_events", &[], || {
        assert_eq!(sum_of_a_pipeline(), (200, false));
    });
}

#[test]
fn without_one_of_the_waits_the_answer_is_wrong() {
    let test = "without_one_of_the_waits_the_answer_is_wrong";
    // The second wait of the pipeline is left out by the driver.
    with_driver(test, &[("SKIP_WAIT", "2")], || {
        let (sum, early) = sum_of_a_pipeline();
        assert!(early && sum != 200, "{sum}");
    });
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
fn nothing_is_left_after_many_copies_and_events() {
    let fake = [("DELAY_US", "0"), ("DEVICES", "2")];
    with_driver(
        "nothing_is_left_after_many_copies_and_events",
        &fake,
        || {
            let options = CudaOptions {
                virtual_gpus: Some(3),
                ..CudaOptions::default()
            };
            let devices = gpus(&options);
            let mut highest = None;
            for round in 0..10_000_usize {
                let (here, there) = (&devices[round % 3], &devices[(round + 1) % 3]);
                let stream = here.stream().unwrap();
                let block = here.allocate(500).unwrap();
                let other = there.allocate(500).unwrap();
                stream
                    .copy(whole((&host(&[1; 500]), None), (&block, Some(here))))
                    .unwrap();
                stream
                    .copy(whole((&block, Some(here)), (&other, Some(there))))
                    .unwrap();
                let event = stream.record().unwrap();
                event.on_done(Box::new(|result| result.unwrap()));
                if round % 100 == 99 {
                    event.synchronize().unwrap();
                }
                if round == 1000 {
                    highest = Some(live());
                }
            }
            eventually("memory given back", || {
                devices.iter().all(|device| device.memory_used() == 0)
            });
            let (then, now) = (highest.unwrap(), live());
            // Pools grow while there is more outstanding than ever before; by no means with the number of copies.
            assert!(
                now.streams <= 200 && now.events <= then.events + 500,
                "{then:?} {now:?}"
            );
            assert_eq!(now.contexts, 2);
            drop(devices);
            let nothing = driver::Live {
                streams: 0,
                events: 0,
                allocations: 0,
                pinned: 0,
                contexts: 0,
            };
            eventually("everything given back", || live() == nothing);
        },
    );
}

#[test]
fn several_gpus_share_a_card() {
    with_driver("several_gpus_share_a_card", &[("DEVICES", "1")], || {
        let options = CudaOptions {
            virtual_gpus: Some(4),
            ..CudaOptions::default()
        };
        let devices = gpus(&options);
        let names: Vec<&str> = devices.iter().map(|device| device.name()).collect();
        assert_eq!(names, ["gpu:0", "gpu:1", "gpu:2", "gpu:3"]);
        assert!(devices.iter().all(|device| device.ordinal() == Some(0)));
        let capacity: u64 = devices.iter().map(|device| device.memory_capacity()).sum();
        assert_eq!(capacity, 1 << 29);
        // Each has a budget and copies of its own.
        let data = pattern(1000, 1);
        let blocks: Vec<_> = devices
            .iter()
            .map(|gpu| gpu.allocate(1000).unwrap())
            .collect();
        let mut addresses: Vec<_> = blocks.iter().map(|block| block.address()).collect();
        addresses.sort_unstable();
        addresses.dedup();
        assert_eq!(addresses.len(), 4);
        let stream = devices[0].stream().unwrap();
        stream
            .copy(whole((&host(&data), None), (&blocks[0], Some(&devices[0]))))
            .unwrap();
        for i in 1..4 {
            let before = devices[i - 1].stream().unwrap();
            before.wait(&stream.record().unwrap()).unwrap();
            let (from, to) = (
                (&blocks[i - 1], Some(&devices[i - 1])),
                (&blocks[i], Some(&devices[i])),
            );
            before.copy(whole(from, to)).unwrap();
            stream.wait(&before.record().unwrap()).unwrap();
        }
        assert!(read(&stream, &devices[3], &blocks[3]) == data);
        // More is asked for than a card has: nobody gets more than a share.
        let options = CudaOptions {
            memory: vec![1 << 40],
            ..options
        };
        assert!(
            gpus(&options)
                .iter()
                .all(|gpu| gpu.memory_capacity() == 1 << 28)
        );
        // Lost together.
        driver::crash(stream.raw().unwrap());
        stream.synchronize().expect_err("crashed");
        let text = devices[2].failure().expect("the same card").to_string();
        assert!(text.starts_with("gpu:2 is lost"), "{text}");
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
