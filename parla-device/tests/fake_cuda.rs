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

use std::sync::mpsc::channel;

use driver::{LIMIT, NOTHING, VISIBLE, first, gpus, live, with_driver, with_library};
use memory::{eventually, host, pattern, read, whole};
use parla_core::MemoryId;
use parla_device::{Backend as _, CudaBackend, CudaOptions, Machine, MachineOptions};

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
fn devices_that_the_program_is_not_to_see_are_a_reason() {
    unavailable(
        "devices_that_the_program_is_not_to_see_are_a_reason",
        &[(VISIBLE, "")],
        "no CUDA device: CUDA_VISIBLE_DEVICES is \"\"",
    );
}

#[test]
fn the_program_sees_some_of_the_devices() {
    let fake = [("DEVICES", "4"), (VISIBLE, "3,1,9,0")];
    with_driver("the_program_sees_some_of_the_devices", &fake, || {
        let devices = gpus(&CudaOptions::default());
        let names: Vec<&str> = devices.iter().map(|device| device.name()).collect();
        assert_eq!(names, ["gpu:0", "gpu:1"], "up to the first that is none");
    });
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
            assert_eq!(live(), NOTHING);
            drop(devices[1].allocate(1));
            assert_eq!(live().contexts, 1, "only of the device that was used");
            drop(devices);
            eventually("everything given back", || live() == NOTHING);
        },
    );
}

#[test]
fn any_device_knows_whose_memory_an_address_is() {
    with_driver("any_device_knows_whose_memory_an_address_is", &[], || {
        let devices = gpus(&CudaOptions::default());
        let blocks = [0, 1].map(|i: usize| devices[i].allocate(64).unwrap());
        for asked in &devices {
            let found = blocks
                .each_ref()
                .map(|block| asked.ordinal_of(block.address()));
            assert_eq!(found, [Some(0), Some(1)]);
            assert_eq!(asked.ordinal_of(host(&[1]).address()), None);
            assert_eq!(asked.ordinal_of(0), None);
        }
    });
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
                    drop((stream, block, other));
                    // Whoever notices the ends of copies keeps up, however busy this machine is.
                    eventually("memory given back", || {
                        devices.iter().all(|device| device.memory_used() == 0)
                    });
                }
            }
            let now = live();
            // There are as many as were outstanding at once, of a hundred rounds at most; not as many as there were copies.
            assert!(now.streams <= 200 && now.events <= 3000, "{now:?}");
            assert_eq!(now.contexts, 2);
            drop(devices);
            eventually("everything given back", || live() == NOTHING);
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
fn a_wait_is_for_the_record_before_it() {
    // Of our driver: as NVIDIA's, which is what lets the backend use events again while somebody still waits for them.
    with_driver("a_wait_is_for_the_record_before_it", &[], || {
        type OfTwo = unsafe extern "C" fn(usize, usize) -> i32;
        let gpu = first();
        let [held, free, waits] = [(); 3].map(|()| gpu.stream().unwrap());
        gpu.make_current().expect("a context");
        let create: unsafe extern "C" fn(*mut usize, u32) -> i32 =
            driver::function(c"cuEventCreate");
        let record: OfTwo = driver::function(c"cuEventRecord");
        let wait: unsafe extern "C" fn(usize, usize, u32) -> i32 =
            driver::function(c"cuStreamWaitEvent");
        let (gate, opened) = channel::<()>();
        let (sender, went_on) = channel();
        let blocks = move || opened.recv_timeout(LIMIT).unwrap();
        held.launch(Box::new(blocks), 0).unwrap();
        let mut event = 0;
        // SAFETY: writes one handle; the streams are alive.
        unsafe {
            assert_eq!(create(&raw mut event, 0), 0);
            assert_eq!(record(event, held.raw().unwrap()), 0);
            assert_eq!(wait(waits.raw().unwrap(), event, 0), 0);
            assert_eq!(record(event, free.raw().unwrap()), 0);
        }
        free.synchronize().unwrap();
        waits
            .launch(Box::new(move || sender.send(()).unwrap()), 0)
            .unwrap();
        // The time in which nothing is to happen.
        let early = went_on.recv_timeout(std::time::Duration::from_millis(50));
        assert!(early.is_err(), "it waited for the later record only");
        gate.send(()).unwrap();
        went_on.recv_timeout(LIMIT).unwrap();
        for stream in [&held, &waits] {
            stream.synchronize().unwrap();
        }
    });
}
