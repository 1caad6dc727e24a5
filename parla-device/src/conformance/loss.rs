//! Lost devices: everything ends, nothing hangs, the others go on.

use std::sync::mpsc::channel;

use super::{Gate, PATIENCE, Subject, all_of, copy_of_bytes, end_of, finish, good, host_block};
use crate::error::DeviceError;

fn assert_lost<T: std::fmt::Debug>(result: Result<T, DeviceError>) {
    assert!(
        matches!(result, Err(DeviceError::Lost { .. })),
        "{result:?}"
    );
}

/// Everything outstanding ends with the loss, every later call returns it, memory can still be given back.
pub fn a_lost_device_ends_all_waits(subject: &Subject) {
    let Some(lose) = &subject.lose else { return };
    let device = subject.device();
    let key = subject.key(&*device);
    let (stream, other) = (good(device.stream()), good(device.stream()));
    let (source, target) = (good(device.allocate(100)), host_block(vec![1; 100]));
    let gate = Gate::on(&stream);
    gate.wait_until_reached();
    good(stream.copy(copy_of_bytes(all_of(&source, key), all_of(&target, None))));
    let event = good(stream.record());
    good(other.wait(&event));
    let waiting = good(other.record());
    let (sender, receiver) = channel();
    event.on_done(Box::new(move |result| drop(sender.send(result))));
    let thread = std::thread::spawn(move || waiting.synchronize());

    lose(0);

    match receiver.recv_timeout(PATIENCE) {
        Ok(result) => assert_lost(result),
        Err(_) => panic!("the callback was not called"),
    }
    assert_lost(end_of(&event));
    match thread.join() {
        Ok(result) => assert_lost(result),
        Err(_) => panic!("the waiting thread panicked"),
    }
    assert!(device.failure().is_some());
    assert_lost(device.allocate(1));
    assert_lost(device.stream());
    assert_lost(stream.launch(Box::new(|| {}), 0));
    assert_lost(stream.record());
    assert_lost(stream.wait(&event));
    assert_lost(stream.synchronize());
    assert_lost(stream.is_idle());
    assert_lost(stream.copy(copy_of_bytes(all_of(&source, key), all_of(&target, None))));
    gate.open();
    drop((source, stream, other));
}

/// Streams of other devices that wait for a lost one's events, or copy from its memory, get an error for that and then go on.
pub fn other_devices_survive(subject: &Subject) {
    let devices = subject.backend.devices();
    let (Some(lose), [lost, well, ..]) = (&subject.lose, devices.as_slice()) else {
        return;
    };
    let (bad, stream) = (good(lost.stream()), good(well.stream()));
    let (there, here) = (good(lost.allocate(100)), good(well.allocate(100)));
    let gate = Gate::on(&bad);
    gate.wait_until_reached();
    good(stream.wait(&good(bad.record())));
    let from = all_of(&there, subject.key(&**lost));
    let to = all_of(&here, subject.key(&**well));
    good(stream.copy(copy_of_bytes(from.clone(), to.clone())));
    let event = good(stream.record());

    lose(0);
    assert!(
        end_of(&event).is_err(),
        "what was to be copied is not there"
    );
    gate.open();

    // A copy from there is refused, or fails.
    let refused = stream.copy(copy_of_bytes(from, to.clone()));
    let ended = stream.record().and_then(|event| end_of(&event));
    assert!(refused.and(ended).is_err());

    assert!(well.failure().is_none());
    let bytes = host_block(vec![3; 100]);
    good(stream.copy(copy_of_bytes(all_of(&bytes, None), to)));
    finish(&stream);
    assert_eq!(super::download(subject, well, &here), vec![3; 100]);
}
