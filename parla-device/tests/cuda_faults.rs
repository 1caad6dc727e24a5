//! What goes wrong on a GPU, and what the CUDA backend makes of it, on a driver of our own.
// Not under ThreadSanitizer: a library that is loaded at run time has not been tried with it.
#![cfg(all(target_os = "linux", not(crossbeam_sanitize)))]

#[path = "fake_cuda/driver.rs"]
#[expect(dead_code, reason = "shared with other tests, which use all of it")]
mod driver;
#[path = "fake_cuda/memory.rs"]
mod memory;

use std::sync::Arc;
use std::sync::mpsc::channel;

use driver::{LIMIT, first, gpus, with_driver};
use memory::{eventually, host, pattern, read, whole};
use parla_device::{CudaOptions, Device, DeviceError, Event};

/// The result of an event's callback.
fn called(event: &Arc<dyn Event>) -> Result<(), DeviceError> {
    let (sender, receiver) = channel();
    event.on_done(Box::new(move |result| {
        sender.send(result).expect("the test waits")
    }));
    receiver.recv_timeout(LIMIT).expect("callbacks are called")
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
            let (gate, opened) = channel::<()>();
            let wait = move || opened.recv_timeout(LIMIT).unwrap();
            stream.launch(Box::new(wait), 0).unwrap();
            driver::crash(stream.raw().unwrap());
            let event = stream.record().unwrap();
            gate.send(()).unwrap();
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
            let relied = stream.synchronize();
            lost(relied.expect_err("it relied on the lost one"));
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
fn memory_runs_out_with_numbers() {
    with_driver(
        "memory_runs_out_with_numbers",
        &[("MEMORY", "1000000")],
        || {
            let options = CudaOptions {
                memory: vec![900_000],
                ..CudaOptions::default()
            };
            let gpu = gpus(&options).remove(0);
            let first = gpu.allocate(600_000).unwrap();
            let refused = |bytes| gpu.allocate(bytes).expect_err("too much").to_string();
            assert_eq!(
                refused(300_001),
                "gpu:0 is out of memory: 300001 bytes requested, 300000 free of 900000"
            );
            assert_eq!(
                refused(u64::MAX),
                "gpu:0 is out of memory: 18446744073709551615 bytes requested, 300000 free of 900000"
            );
            let rest = gpu.allocate(300_000).unwrap();
            assert_eq!(gpu.memory_used(), 900_000);
            drop((first, rest));
            assert_eq!(gpu.memory_used(), 0);
            // All of it again, again and again: what is freed is waited for.
            for _ in 0..100 {
                drop(gpu.allocate(900_000).unwrap());
            }
        },
    );
}

#[test]
fn the_driver_refuses_memory() {
    let fake = [("FAIL", "alloc:2,alloc:3")];
    with_driver("the_driver_refuses_memory", &fake, || {
        let gpu = first();
        let block = gpu.allocate(1 << 20).unwrap();
        // It is asked twice.
        let error = gpu.allocate(5).expect_err("refused");
        let (free, total) = ((1 << 30) - (1 << 20), 1 << 30);
        let expected = format!("gpu:0 is out of memory: 5 bytes requested, {free} free of {total}");
        assert_eq!(error.to_string(), expected);
        assert_eq!(gpu.memory_used(), 1 << 20);
        drop(gpu.allocate(5).unwrap());
        drop(block);
    });
}

/// Memory of the card that is none of ours.
fn of_another_library(gpu: &Arc<dyn Device>, bytes: usize) -> u64 {
    let allocate: unsafe extern "C" fn(*mut u64, usize) -> i32 = driver::function(c"cuMemAlloc_v2");
    let before = gpu.make_current().expect("a context");
    let mut address = 0;
    // SAFETY: writes one address.
    assert_eq!(unsafe { allocate(&raw mut address, bytes) }, 0);
    gpu.restore_current(&before);
    address
}

#[test]
fn what_one_gpu_of_a_card_does_not_use_another_one_can_have() {
    let fake = [("MEMORY", "1000000"), ("DEVICES", "1")];
    let test = "what_one_gpu_of_a_card_does_not_use_another_one_can_have";
    with_driver(test, &fake, || {
        let devices = gpus(&CudaOptions {
            virtual_gpus: Some(2),
            memory: vec![500_000],
        });
        // Its pool keeps what it had.
        drop(devices[0].allocate(400_000).unwrap());
        of_another_library(&devices[0], 300_000);
        let block = devices[1].allocate(450_000).unwrap();
        let error = devices[0].allocate(400_000).expect_err("there is no more");
        assert_eq!(
            error.to_string(),
            "gpu:0 is out of memory: 400000 bytes requested, 250000 free of 1000000"
        );
        drop(block);
        drop(devices[0].allocate(400_000).unwrap());
    });
}

#[test]
fn a_card_that_was_full_is_used_when_there_is_room() {
    let test = "a_card_that_was_full_is_used_when_there_is_room";
    with_driver(test, &[("FAIL", "context:1,context:2")], || {
        let gpu = first();
        let error = gpu.allocate(5).expect_err("no context").to_string();
        let total = 1_u64 << 30;
        let expected = format!("gpu:0 is out of memory: 5 bytes requested, 0 free of {total}");
        assert_eq!(error, expected);
        assert_eq!(gpu.memory_used(), 0);
        drop(gpu.allocate(5).expect("there is a context now"));
        assert!(gpu.failure().is_none());
    });
}

#[test]
fn a_stream_that_could_not_stage_copies_can_later() {
    let test = "a_stream_that_could_not_stage_copies_can_later";
    // The first is the memory's, the second the test's, the third is for pieces of memory that is not page-locked.
    with_driver(test, &[("FAIL", "stream:3")], || {
        let gpu = first();
        let data = pattern(5000, 1);
        let block = gpu.allocate(5000).unwrap();
        let stream = gpu.stream().unwrap();
        let copy = || whole((&host(&data), None), (&block, Some(&gpu)));
        let error = stream.copy(copy()).expect_err("refused").to_string();
        assert!(
            error.contains("cuStreamCreate failed: CUDA_ERROR_OUT_OF_MEMORY"),
            "{error}"
        );
        stream.copy(copy()).unwrap();
        assert!(read(&stream, &gpu, &block) == data);
    });
}

#[test]
fn a_refused_copy_is_an_error_and_no_more() {
    let fake = [("FAIL", "copy:1,launch:1")];
    with_driver("a_refused_copy_is_an_error_and_no_more", &fake, || {
        let gpu = first();
        let stream = gpu.stream().unwrap();
        let (a, b) = (gpu.allocate(100).unwrap(), gpu.allocate(100).unwrap());
        let copy = || whole((&a, Some(&gpu)), (&b, Some(&gpu)));
        let error = stream.copy(copy()).expect_err("refused").to_string();
        assert_eq!(
            error,
            "gpu:0: cuMemcpyDtoDAsync failed: CUDA_ERROR_INVALID_VALUE (invalid argument)"
        );
        let error = stream.launch(Box::new(|| panic!("refused")), 0);
        let error = error.expect_err("refused").to_string();
        assert!(error.contains("cuLaunchHostFunc failed"), "{error}");
        stream.copy(copy()).unwrap();
        stream.synchronize().unwrap();
        assert!(gpu.failure().is_none());
    });
}

#[test]
fn a_copy_of_an_illegal_address_loses_the_device() {
    let fake = [("FAIL", "copy:3=illegal"), ("DEVICES", "1")];
    with_driver(
        "a_copy_of_an_illegal_address_loses_the_device",
        &fake,
        || {
            let gpu = first();
            let stream = gpu.stream().unwrap();
            let source = host(&pattern(3 << 20, 1));
            let block = gpu.allocate(3 << 20).unwrap();
            let copied = stream.copy(whole((&source, None), (&block, Some(&gpu))));
            let end = copied.and_then(|()| stream.synchronize());
            assert!(matches!(end, Err(DeviceError::Lost { .. })), "{end:?}");
            drop((stream, block));
            eventually("what the copy kept is let go", || {
                Arc::strong_count(&source) == 1
            });
            assert_eq!(gpu.memory_used(), 0);
        },
    );
}

#[test]
fn a_process_with_a_lost_device_and_work_left_exits() {
    let test = "a_process_with_a_lost_device_and_work_left_exits";
    with_driver(test, &[], || {
        let devices = gpus(&CudaOptions::default());
        for gpu in &devices {
            let stream = gpu.stream().unwrap();
            let block = gpu.allocate(1 << 20).unwrap();
            driver::crash(stream.raw().unwrap());
            for _ in 0..100 {
                // Some are refused: the device may be lost already.
                let _ = stream.copy(whole((&block, Some(gpu)), (&host(&vec![0; 1 << 20]), None)));
            }
            std::mem::forget(stream);
        }
    });
}

#[test]
fn a_copy_from_a_lost_card_is_not_the_end_of_the_other() {
    let test = "a_copy_from_a_lost_card_is_not_the_end_of_the_other";
    with_driver(test, &[], || {
        let devices = gpus(&CudaOptions::default());
        let (there, here) = (&devices[0], &devices[1]);
        let from = there.allocate(100).unwrap();
        let to = here.allocate(100).unwrap();
        let (crashed, stream) = (there.stream().unwrap(), here.stream().unwrap());
        driver::crash(crashed.raw().unwrap());
        // Nobody has told the backend yet.
        let synchronize: unsafe extern "C" fn(usize) -> i32 =
            driver::function(c"cuStreamSynchronize");
        let before = there.make_current().unwrap();
        // SAFETY: a live stream, whose context is current.
        assert_eq!(unsafe { synchronize(crashed.raw().unwrap()) }, 700);
        there.restore_current(&before);
        assert!(there.failure().is_none());
        let copied = stream.copy(whole((&from, Some(there)), (&to, Some(here))));
        let text = copied.expect_err("from a lost card").to_string();
        assert!(text.contains("gpu:0 is lost"), "{text}");
        assert!(there.failure().is_some());
        let data = pattern(100, 1);
        let again = here.stream().unwrap();
        again
            .copy(whole((&host(&data), None), (&to, Some(here))))
            .unwrap();
        assert!(read(&again, here, &to) == data);
        assert!(here.failure().is_none());
    });
}

#[test]
fn what_one_gpu_freed_is_there_for_the_others_of_its_card_and_for_other_libraries() {
    let test = "what_one_gpu_freed_is_there_for_the_others_of_its_card_and_for_other_libraries";
    let fake = [("DEVICES", "1"), ("MEMORY", "1000000")];
    with_driver(test, &fake, || {
        let options = CudaOptions {
            virtual_gpus: Some(2),
            memory: vec![500_000],
        };
        let devices = gpus(&options);
        let take: unsafe extern "C" fn(*mut u64, usize) -> i32 = driver::function(c"cuMemAlloc_v2");
        let take = |bytes| {
            let before = devices[0].make_current().unwrap();
            let mut address = 0;
            // SAFETY: writes one address; a context is current.
            let code = unsafe { take(&raw mut address, bytes) };
            devices[0].restore_current(&before);
            code
        };
        assert_eq!(take(300_000), 0, "a library of the program's");
        drop(devices[0].allocate(400_000).unwrap());
        let block = devices[1].allocate(400_000).unwrap();
        drop(block);
        // Both keep what was freed, until they are told not to.
        assert_eq!(take(400_000), 2, "out of memory");
        devices[0].release_unused();
        assert_eq!(take(400_000), 0);
    });
}
