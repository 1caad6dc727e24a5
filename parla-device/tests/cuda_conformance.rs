//! What every backend promises, on the CUDA backend with a driver of our own: several cards, and several GPUs on one card.
// Not under ThreadSanitizer: a library that is loaded at run time has not been tried with it.
#![cfg(all(target_os = "linux", not(crossbeam_sanitize)))]

#[path = "fake_cuda/driver.rs"]
#[expect(dead_code, reason = "shared with other tests, which use all of it")]
mod driver;

use std::sync::Arc;

use parla_device::conformance::Subject;
use parla_device::{Backend as _, CudaBackend, CudaOptions};

/// Three cards, the first two of which hold two GPUs each: copies inside a card and between cards.
fn subject() -> Subject {
    let options = CudaOptions {
        virtual_gpus: Some(5),
        ..CudaOptions::default()
    };
    let backend = Arc::new(CudaBackend::probe(&options));
    assert_eq!(backend.unavailable(), None);
    let devices = backend.devices();
    let lose = move |index: u32| {
        let stream = devices[index as usize].stream().expect("not lost yet");
        driver::crash(stream.raw().expect("streams of the driver have handles"));
        stream.synchronize().expect_err("the stream crashed");
    };
    Subject {
        backend,
        lose: Some(Box::new(lose)),
        in_host_memory: false,
    }
}

fn on_three_cards(test: &str, body: impl FnOnce()) {
    driver::with_driver(test, &[("DEVICES", "3")], body);
}

parla_device::conformance!(subject, on_three_cards);

/// Then copies between them take the way that the driver has for that.
#[test]
fn cards_that_do_not_reach_each_other_copy_all_boxes() {
    let fake = [("DEVICES", "3"), ("PEER", "0")];
    assert!(!fails("random_boxes_in_all_directions", &fake));
    assert!(!fails("large_boxes", &fake));
}

/// Whether a promise is seen to be broken on the machine that `fake` describes.
fn fails(test: &str, fake: &[(&str, &str)]) -> bool {
    let (status, text) = driver::run_alone(test, driver::directory(), fake);
    let ran = text.contains("1 passed") || text.contains("1 failed");
    assert!(ran, "{test} is not a test of this program: {text}");
    !status.success()
}

/// With a driver that leaves one wait out, the promise about waits is seen to be broken. On a busy machine what should have waited may come late enough
/// by chance.
#[test]
fn one_wait_less_is_noticed() {
    let fails = |test: &str, fake: &[(&str, &str)]| (0..5).any(|_| fails(test, fake));
    for left_out in ["1", "4", "17"] {
        let fake = [("DEVICES", "3"), ("SKIP_WAIT", left_out)];
        assert!(fails("streams_wait_for_streams", &fake));
    }
    // Nor do copies work without any.
    let fake = [("DEVICES", "3"), ("SKIP_WAIT", "all")];
    assert!(fails("random_boxes_in_all_directions", &fake));
}
