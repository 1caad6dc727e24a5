//! Streams: order, overlap, life.

use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Instant;

use parla_core::lock::Mutex;

use super::{
    Gate, PATIENCE, Subject, all_of, copy_of_bytes, download, end_of, finish, good, host_block,
    upload,
};

/// What is on one stream is done in order: functions, copies, both mixed.
pub fn first_in_first_out(subject: &Subject) {
    let device = subject.device();
    let stream = good(device.stream());
    let seen = Arc::new(Mutex::new(Vec::new()));
    for k in 0..200 {
        let seen = Arc::clone(&seen);
        // Uneven, so that what is not in order gets out of it.
        let busy_ns = if k % 50 == 0 { 2_000_000 } else { 0 };
        good(stream.launch(Box::new(move || seen.lock().push(k)), busy_ns));
    }
    finish(&stream);
    assert_eq!(*seen.lock(), (0..200).collect::<Vec<_>>());

    // Each copy overwrites what the one before brought.
    let key = subject.key(&*device);
    let block = good(device.allocate(1 << 16));
    let pieces: Vec<_> = (0..20).map(|k| host_block(vec![k; 1 << 16])).collect();
    // The first one may wait for the device.
    good(stream.occupy(0));
    let gate = Gate::on(&stream);
    let results: Vec<_> = pieces
        .iter()
        .map(|piece| {
            let result = host_block(vec![0xff; 1 << 16]);
            good(stream.copy(copy_of_bytes(all_of(piece, None), all_of(&block, key))));
            good(stream.occupy(1000));
            good(stream.copy(copy_of_bytes(all_of(&block, key), all_of(&result, None))));
            result
        })
        .collect();
    gate.open();
    finish(&stream);
    for (piece, result) in pieces.iter().zip(&results) {
        assert_eq!(super::contents(piece), super::contents(result));
    }
}

/// While a function holds one stream up, another one of the same device copies.
pub fn streams_overlap(subject: &Subject) {
    let device = subject.device();
    let (held, free) = (good(device.stream()), good(device.stream()));
    let gate = Gate::on(&held);
    gate.wait_until_reached();
    let event = good(held.record());
    let key = subject.key(&*device);
    let block = good(device.allocate(1000));
    let source = host_block(vec![5; 1000]);
    good(free.copy(copy_of_bytes(all_of(&source, None), all_of(&block, key))));
    good(end_of(&good(free.record())));
    assert!(!good(event.is_done()));
    gate.open();
    good(end_of(&event));
    assert_eq!(download(subject, &device, &block), vec![5; 1000]);
}

/// Enqueueing returns at once, whatever is in front.
pub fn nothing_blocks_the_caller(subject: &Subject) {
    let device = subject.device();
    let (held, second) = (good(device.stream()), good(device.stream()));
    let key = subject.key(&*device);
    let block = good(device.allocate(100));
    let source = host_block(vec![1; 100]);
    let (sender, receiver) = channel();
    let gate = Gate::on(&held);
    let thread = std::thread::spawn(move || {
        good(held.launch(Box::new(|| {}), 0));
        good(held.copy(copy_of_bytes(all_of(&source, None), all_of(&block, key))));
        let event = good(held.record());
        good(second.wait(&event));
        good(second.launch(Box::new(|| {}), 0));
        let last = good(second.record());
        assert!(!good(second.is_idle()) && !good(last.is_done()));
        let _ = sender.send((held, last));
    });
    let (_held, last) = match receiver.recv_timeout(PATIENCE) {
        Ok(streams) => streams,
        Err(_) => panic!("enqueueing did not return while the stream was held up"),
    };
    gate.open();
    good(end_of(&last));
    assert!(thread.join().is_ok());
}

/// Making and dropping streams is cheap and never runs out.
pub fn streams_are_pooled(subject: &Subject) {
    let device = subject.device();
    for _ in 0..5_000 {
        drop(good(device.stream()));
    }
    // A pooled stream owes nothing to who had it before.
    let streams: Vec<_> = (0..32).map(|_| good(device.stream())).collect();
    for stream in &streams {
        assert!(good(stream.is_idle()));
        finish(stream);
    }
}

/// What is on a stream when its handle goes is still done.
pub fn a_dropped_stream_finishes(subject: &Subject) {
    let device = subject.device();
    let stream = good(device.stream());
    let gate = Gate::on(&stream);
    let (sender, receiver) = channel();
    good(stream.launch(Box::new(move || sender.send(()).unwrap_or(())), 0));
    let event = good(stream.record());
    drop(stream);
    // Whoever gets a stream now does not get that one's place in the queue.
    let other = good(device.stream());
    good(other.wait(&event));
    gate.open();
    assert_eq!(receiver.recv_timeout(PATIENCE), Ok(()));
    finish(&other);
    good(end_of(&event));
}

/// A stream is idle before anything is on it and after all of it is done, not in between.
pub fn idle_means_nothing_is_outstanding(subject: &Subject) {
    let device = subject.device();
    let stream = good(device.stream());
    assert!(good(stream.is_idle()));
    let gate = Gate::on(&stream);
    assert!(!good(stream.is_idle()));
    gate.open();
    good(stream.synchronize());
    // Drivers may be a moment late to say so, and no event tells when.
    let began = Instant::now();
    while !good(stream.is_idle()) {
        let late = began.elapsed() > PATIENCE;
        assert!(!late, "a stream that is done does not become idle");
        std::thread::yield_now();
    }
    let _ = upload(subject, &device, vec![1]);
}
