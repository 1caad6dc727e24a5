//! Copies on a profiler's timeline, with a library that plays the profiler's.
#![cfg(all(target_os = "linux", not(crossbeam_sanitize)))]

#[path = "fake_cuda/driver.rs"]
#[expect(dead_code, reason = "shared with other tests, which use all of it")]
mod driver;
#[path = "fake_cuda/memory.rs"]
#[expect(dead_code, reason = "shared with other tests, which use all of it")]
mod memory;

use std::path::PathBuf;

use memory::{host, whole};
use parla_device::{Backend as _, CudaBackend, CudaOptions, ProfilerRange};

fn log(test: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(test)
}

/// What the profiler's library wrote: the names of ranges that began, `<` and the depth for each that ended.
fn written(test: &str) -> Vec<String> {
    let text = std::fs::read_to_string(log(test)).unwrap_or_default();
    let word = |line: &str| match line.split_once(": ") {
        Some((_, name)) => name.to_owned(),
        None => format!("<{}", line.rsplit_once(' ').expect("a depth").1),
    };
    text.lines().map(word).collect()
}

/// Runs `body` in a process of its own, with the library where a profiler would say it is.
fn with_profiler(test: &str, fake: &[(&str, &str)], body: impl FnOnce()) {
    let library = driver::directory().join("libcuda.so.1");
    let path = log(test);
    let _ = std::fs::remove_file(&path);
    let here = [
        ("NVTX", path.to_str().expect("a path in UTF-8")),
        (
            "NVTX_INJECTION64_PATH",
            library.to_str().expect("a path in UTF-8"),
        ),
    ];
    let fake: Vec<_> = here.iter().chain(fake).copied().collect();
    driver::with_driver(test, &fake, body);
}

#[test]
fn copies_are_ranges_whatever_becomes_of_them() {
    let test = "copies_are_ranges_whatever_becomes_of_them";
    with_profiler(test, &[("FAIL", "copy:2")], || {
        let gpu = CudaBackend::probe(&CudaOptions::default())
            .devices()
            .remove(0);
        let stream = gpu.stream().expect("a stream");
        let block = gpu.allocate(100).expect("memory");
        let copy = || whole((&host(&[7; 100]), None), (&block, Some(&gpu)));
        let outer = ProfilerRange::open(|| "a body, with a \0 in its name".to_owned());
        stream.copy(copy()).expect("the first one is done");
        stream.copy(copy()).expect_err("the second one is refused");
        drop(outer);
        stream.synchronize().expect("no more than refused");
        let copy = "copy host to gpu:0, 100 bytes";
        assert_eq!(
            written(test),
            ["a body, with a  in its name", copy, "<1", copy, "<1", "<0"]
        );
    });
}

#[test]
fn a_panic_ends_its_range() {
    let test = "a_panic_ends_its_range";
    with_profiler(test, &[], || {
        let body = || {
            let _range = ProfilerRange::open(|| "body".to_owned());
            panic!("a bug");
        };
        std::panic::catch_unwind(body).expect_err("it panicked");
        assert_eq!(written(test), ["body", "<0"]);
    });
}

#[test]
fn without_a_profiler_nobody_asks_for_the_name() {
    let test = "without_a_profiler_nobody_asks_for_the_name";
    driver::with_driver(test, &[], || {
        drop(ProfilerRange::open(|| panic!("no profiler is there")));
    });
    // Nor with a variable that names no such library.
    for path in ["", "/nowhere", "/dev/null"] {
        let (status, text) = driver::run_alone(
            "a_library_that_is_none_is_no_profiler",
            driver::directory(),
            &[("NVTX_INJECTION64_PATH", path)],
        );
        assert!(status.success() && text.contains("1 passed"), "{text}");
    }
}

#[test]
fn a_library_that_is_none_is_no_profiler() {
    // Nothing to see unless the test above runs it.
    drop(ProfilerRange::open(|| panic!("no profiler is there")));
}
