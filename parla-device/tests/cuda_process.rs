//! The CUDA backend beside other users of the driver in a process: their contexts, their graphs, forks, and libraries that are no
//! driver; on a driver of our own (`parla-fake-cuda`).
// Not under ThreadSanitizer: a library that is loaded at run time has not been tried with it.
#![cfg(all(target_os = "linux", not(crossbeam_sanitize)))]

#[path = "fake_cuda/driver.rs"]
mod driver;
#[path = "fake_cuda/memory.rs"]
#[expect(dead_code, reason = "shared with other tests, which use all of it")]
mod memory;

use std::sync::Arc;
use std::sync::mpsc::channel;

use driver::{LIMIT, first, function, gpus, with_driver, with_library};
use memory::{host, pattern, read, whole};
use parla_device::{Backend as _, CudaOptions, HostBackend, HostOptions, Stream};

/// The calling thread's context.
fn current() -> usize {
    let get: unsafe extern "C" fn(*mut usize) -> i32 = function(c"cuCtxGetCurrent");
    let mut context = 0;
    // SAFETY: writes one handle.
    assert_eq!(unsafe { get(&raw mut context) }, 0);
    context
}

/// The context that everybody who uses a device shares.
fn primary(ordinal: i32) -> usize {
    let retain: unsafe extern "C" fn(*mut usize, i32) -> i32 =
        function(c"cuDevicePrimaryCtxRetain");
    let mut context = 0;
    // SAFETY: writes one handle.
    assert_eq!(unsafe { retain(&raw mut context, ordinal) }, 0);
    context
}

#[test]
fn the_current_context_is_as_before_after_every_call() {
    let test = "the_current_context_is_as_before_after_every_call";
    with_driver(test, &[], || {
        let devices = gpus(&CudaOptions::default());
        let (primaries, set) = (
            [primary(0), primary(1)],
            function::<unsafe extern "C" fn(usize) -> i32>(c"cuCtxSetCurrent"),
        );
        let push: unsafe extern "C" fn(usize) -> i32 = function(c"cuCtxPushCurrent_v2");
        for before in [0, primaries[0], primaries[1]] {
            // SAFETY: a live context, or none.
            assert_eq!(unsafe { set(before) }, 0);
            for (gpu, own) in devices.iter().zip(primaries) {
                let stream = gpu.stream().expect("a stream");
                let block = gpu.allocate(100).expect("memory");
                let copy = whole((&host(&[1; 100]), None), (&block, Some(gpu)));
                stream.copy(copy).expect("a copy");
                let event = stream.record().expect("an event");
                event.synchronize().expect("no error");
                assert!(event.is_done().expect("no error"));
                drop((event, block, stream));
                assert_eq!(current(), before);
                let kept = gpu.make_current().expect("there is a context");
                let top = kept.last().copied().unwrap_or(0);
                assert_eq!((top, current()), (before, own));
                // What a library of the user's leaves there goes, too.
                // SAFETY: a context of this process.
                assert_eq!(unsafe { push(own) }, 0);
                gpu.restore_current(&kept);
                assert_eq!(current(), before);
                let again = gpu.make_current().expect("there is a context");
                assert_eq!(again, kept, "nothing below it has changed");
                gpu.restore_current(&again);
            }
        }
    });
}

#[test]
fn streams_of_others_are_waited_for() {
    let test = "streams_of_others_are_waited_for";
    with_driver(test, &[], || {
        let gpu = first();
        let stream = gpu.stream().expect("a stream");
        let (sender, done) = channel();
        let slowly = move || {
            std::thread::yield_now();
            sender.send(()).expect("the test waits");
        };
        stream.launch(Box::new(slowly), 0).expect("launched");
        let raw = stream.raw().expect("a handle");
        gpu.synchronize_raw(raw).expect("no error");
        assert_eq!(done.try_recv(), Ok(()));
        driver::crash(raw);
        let error = gpu.synchronize_raw(raw).expect_err("crashed").to_string();
        assert!(error.contains("gpu:0 is lost"), "{error}");
    });
}

#[test]
fn a_wait_for_another_backend_does_not_hold_up_those_who_wait_for_events() {
    // As page-locked memory that is given back would: the driver waits for all streams then.
    let test = "a_wait_for_another_backend_does_not_hold_up_those_who_wait_for_events";
    with_driver(test, &[], || {
        let options = HostOptions {
            workers: Some(1),
            memory: Some(1 << 30),
            ..HostOptions::default()
        };
        let cpu = HostBackend::probe(&options).expect("a CPU").devices();
        let (gpu, before) = (first(), cpu[0].stream().expect("a stream"));
        let block = gpu.allocate(8).expect("memory");
        let [held, waits] = [(); 2].map(|()| gpu.stream().expect("a stream"));
        let gate_on = |stream: &Arc<dyn Stream>| {
            let (open, opened) = channel::<()>();
            let raw = stream.raw().expect("a handle");
            driver::kernel(raw, block.address(), 8, move |_| {
                opened.recv_timeout(LIMIT).expect("it is opened");
            });
            open
        };
        let last = gate_on(&held);
        let (open, opened) = channel::<()>();
        let wait = move || opened.recv_timeout(LIMIT).expect("it is opened");
        before.launch(Box::new(wait), 0).expect("launched");
        let event = before.record().expect("an event");
        waits.wait(&event).expect("a wait");
        open.send(()).expect("the stream waits");
        event.synchronize().expect("no error");
        let gate = gate_on(&waits);
        let event = waits.record().expect("an event");
        let (sender, called) = channel();
        event.on_done(Box::new(move |end| {
            sender.send(end).expect("the test waits")
        }));
        gate.send(()).expect("the stream waits");
        let end = called.recv_timeout(LIMIT).expect("it is noticed");
        end.expect("it went well");
        last.send(()).expect("the stream waits");
        held.synchronize().expect("no error");
    });
}

#[test]
fn while_somebody_records_a_graph_events_are_neither_lost_nor_an_error() {
    let test = "while_somebody_records_a_graph_events_are_neither_lost_nor_an_error";
    with_driver(test, &[], || {
        let records: unsafe extern "C" fn(i32) -> i32 = function(c"fakeCudaCapture");
        let gpu = first();
        let stream = gpu.stream().expect("a stream");
        let event = stream.record().expect("an event");
        // SAFETY: sets one number.
        assert_eq!(unsafe { records(1) }, 0);
        // This thread may not ask; the one that notices events may.
        assert!(!event.is_done().expect("no error"));
        let (sender, called) = channel();
        event.on_done(Box::new(move |end| {
            sender.send(end).expect("the test waits")
        }));
        let end = called.recv_timeout(LIMIT).expect("it is noticed");
        end.expect("it went well");
        assert!(gpu.failure().is_none());
        // SAFETY: sets one number.
        assert_eq!(unsafe { records(0) }, 0);
        stream.synchronize().expect("no error");
        assert!(gpu.failure().is_none());
    });
}

#[test]
fn a_fork_does_not_call_the_driver() {
    let test = "a_fork_does_not_call_the_driver";
    with_driver(test, &[], || {
        let gpu = first();
        let block = gpu.allocate(100).expect("memory");
        let stream = gpu.stream().expect("a stream");
        let allocations = driver::live().allocations;
        // SAFETY: the child does little, and ends with `_exit`.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let refused = gpu.allocate(1).is_err() && stream.record().is_err();
            drop((block, stream, gpu));
            let same = driver::live().allocations == allocations;
            // SAFETY: ends the child.
            unsafe { libc::_exit(if refused && same { 0 } else { 1 }) };
        }
        let mut status = -1;
        // SAFETY: our own child, a place for its status.
        assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
        assert_eq!(status, 0, "the child ended well");
        assert!(gpu.failure().is_none());
        drop(block);
        assert_eq!(gpu.memory_used(), 0);
    });
}

/// A library that is no driver: the C library, wherever it is.
fn a_library() -> std::path::PathBuf {
    let mut about = std::mem::MaybeUninit::<libc::Dl_info>::zeroed();
    // SAFETY: asks about a function that is there; what is written names the library by a text that lives as long as it.
    let name = unsafe {
        assert_ne!(
            libc::dladdr(libc::getpid as *const _, about.as_mut_ptr()),
            0
        );
        std::ffi::CStr::from_ptr(about.assume_init().dli_fname)
    };
    name.to_str().expect("a path in UTF-8").into()
}

#[test]
fn a_stub_for_linkers_is_not_taken_for_the_driver() {
    // `libcuda.so` of a toolkit is a library without a driver behind it; the driver's name has a number.
    let test = "a_stub_for_linkers_is_not_taken_for_the_driver";
    let directory = std::path::PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("stub-cuda");
    std::fs::create_dir_all(&directory).expect("a writable target directory");
    let links = [
        ("libcuda.so.1", driver::directory().join("libcuda.so.1")),
        ("libcuda.so", a_library()),
    ];
    for (name, target) in links {
        let link = directory.join(name);
        let mine = directory.join(format!("{name}.{}", std::process::id()));
        let _ = std::fs::remove_file(&mine);
        std::os::unix::fs::symlink(target, &mine).expect("a writable target directory");
        std::fs::rename(&mine, &link).expect("a writable target directory");
    }
    with_library(test, Some(directory), &[], || {
        let gpu = first();
        let stream = gpu.stream().expect("a stream");
        let (data, block) = (pattern(1000, 1), gpu.allocate(1000).expect("memory"));
        let copy = whole((&host(&data), None), (&block, Some(&gpu)));
        stream.copy(copy).expect("a copy");
        assert!(read(&stream, &gpu, &block) == data);
    });
}
