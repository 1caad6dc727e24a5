//! The CUDA backend on a driver of our own (`parla-fake-cuda`). Each test runs in a process of its own, as a process has one driver.
#![cfg(target_os = "linux")]
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
use memory::{bytes, called, eventually, host, pattern, place, read, whole};
use parla_core::MemoryId;
use parla_device::{
    Backend as _, Copy, CudaBackend, CudaOptions, Device, DeviceError, Machine, MachineOptions,
};

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
fn an_illegal_address_is_the_end_of_the_device_and_of_nothing_else() {
    with_driver(
        "an_illegal_address_is_the_end_of_the_device_and_of_nothing_else",
        &[],
        || {
            let devices = gpus(&CudaOptions::default());
            let (gpu, other) = (&devices[0], &devices[1]);
            let stream = gpu.stream().unwrap();
            let block = gpu.allocate(100).unwrap();
            driver::crash(stream.raw().unwrap());
            let event = stream.record().unwrap();
            let lost = |error: DeviceError| {
                let text = error.to_string();
                assert!(matches!(error, DeviceError::Lost { .. }), "{text}");
                assert!(
                    text.contains("gpu:0 is lost") && text.contains("CUDA_ERROR_ILLEGAL_ADDRESS"),
                    "{text}"
                );
            };
            lost(called(&event).expect_err("the stream did not get there"));
            lost(event.synchronize().expect_err("lost"));
            lost(event.is_done().expect_err("lost"));
            lost(gpu.failure().expect("lost"));
            lost(gpu.allocate(1).expect_err("lost"));
            lost(gpu.stream().expect_err("lost"));
            lost(
                stream
                    .copy(whole((&host(&[0; 100]), None), (&block, Some(gpu))))
                    .expect_err("lost"),
            );
            lost(
                stream
                    .launch(Box::new(|| panic!("on a lost device")), 0)
                    .expect_err("lost"),
            );
            lost(stream.record().expect_err("lost"));
            lost(stream.synchronize().expect_err("lost"));
            lost(stream.is_idle().expect_err("lost"));
            // The other one lives, also when it waits for what will never be done.
            let data = pattern(5000, 1);
            let (stream, there) = (other.stream().unwrap(), other.allocate(5000).unwrap());
            stream.wait(&event).unwrap();
            stream
                .copy(whole((&host(&data), None), (&there, Some(other))))
                .unwrap();
            assert!(read(&stream, other, &there) == data);
            assert!(other.failure().is_none());
            drop(block);
            assert_eq!(gpu.memory_used(), 0);
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
