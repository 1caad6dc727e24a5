//! Events: when they are done, who is told, who waits.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::thread::ThreadId;
use std::time::{Duration, Instant};

use parla_core::lock::Mutex;

use super::{Gate, PATIENCE, Subject, end_of, finish, good, host};
use crate::backend::{Backend, Event, Stream};

/// Not before, not much later, and for good; on an empty stream it is done.
pub fn an_event_is_done_when_what_is_before_it_is(subject: &Subject) {
    let stream = good(subject.device().stream());
    good(end_of(&good(stream.record())));
    let first = Gate::on(&stream);
    let (a, also_a) = (good(stream.record()), good(stream.record()));
    let second = Gate::on(&stream);
    let b = good(stream.record());
    first.wait_until_reached();
    assert!(!good(a.is_done()) && !good(b.is_done()));
    first.open();
    good(end_of(&a));
    good(end_of(&also_a));
    second.wait_until_reached();
    assert!(good(a.is_done()) && !good(b.is_done()));
    second.open();
    good(end_of(&b));
}

/// Each callback is called once: on a thread of the backend, or at once if the event is done already.
pub fn callbacks_are_called_once_and_elsewhere(subject: &Subject) {
    let stream = good(subject.device().stream());
    let gate = Gate::on(&stream);
    gate.wait_until_reached();
    let event = good(stream.record());
    let calls: Arc<Mutex<Vec<ThreadId>>> = Arc::default();
    let (sender, receiver) = channel();
    for _ in 0..10 {
        let (calls, sender) = (Arc::clone(&calls), sender.clone());
        event.on_done(Box::new(move |result| {
            good(result);
            calls.lock().push(std::thread::current().id());
            let _ = sender.send(());
        }));
    }
    assert!(calls.lock().is_empty());
    gate.open();
    for _ in 0..10 {
        assert_eq!(receiver.recv_timeout(PATIENCE), Ok(()));
    }
    good(end_of(&event));
    let me = std::thread::current().id();
    assert_eq!(calls.lock().len(), 10);
    assert!(!calls.lock().contains(&me));
    let called = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&called);
    event.on_done(Box::new(move |result| {
        good(result);
        count.fetch_add(1, Ordering::SeqCst);
    }));
    assert_eq!(called.load(Ordering::SeqCst), 1, "done: called at once");
}

/// A callback may allocate, make streams, enqueue, ask events, and drop the last handle of a stream.
pub fn callbacks_may_call_anything(subject: &Subject) {
    let device = subject.device();
    let stream = good(device.stream());
    let gate = Gate::on(&stream);
    let event = good(stream.record());
    let (sender, receiver) = channel();
    let (again, last) = (Arc::clone(&event), good(device.stream()));
    let elsewhere = Arc::clone(&device);
    event.on_done(Box::new(move |_| {
        let block = elsewhere.allocate(100);
        let other = good(elsewhere.stream());
        good(other.wait(&again));
        good(last.wait(&again));
        good(last.launch(Box::new(|| {}), 0));
        let done = (good(again.is_done()), good(last.record()));
        drop((block, last, other));
        let _ = sender.send(done);
    }));
    gate.open();
    let Ok((true, last)) = receiver.recv_timeout(PATIENCE) else {
        panic!("the callback did not get through");
    };
    good(end_of(&last));
    finish(&stream);
    assert_eq!(device.memory_used(), 0);
}

/// What is enqueued after a wait is done after the event, what was before is not held up.
pub fn streams_wait_for_streams(subject: &Subject) {
    let devices = subject.backend.devices();
    let first = good(devices[0].stream());
    let second = good(devices[devices.len() - 1].stream());
    let order = Order::default();
    for round in 0..20 {
        let gate = Gate::on(&first);
        order.note(&first, "first");
        let event = good(first.record());
        if round % 2 == 0 {
            gate.wait_until_reached();
        }
        good(second.wait(&event));
        order.note(&second, "second");
        let last = good(second.record());
        stays_open(&last);
        assert_eq!(order.take(), NOTHING);
        gate.open();
        good(end_of(&last));
        assert_eq!(order.take(), ["first", "second"]);
        // Done already.
        good(second.wait(&event));
        finish(&second);
    }
}

/// Events of another backend hold streams up, and ours hold up those of another backend.
pub fn streams_wait_across_backends(subject: &Subject) {
    let host = host();
    let there = good(host.devices()[0].stream());
    let here = good(subject.device().stream());
    for (first, second) in [(&here, &there), (&there, &here)] {
        let order = Order::default();
        let gate = Gate::on(first);
        order.note(first, "first");
        good(second.wait(&good(first.record())));
        order.note(second, "second");
        let last = good(second.record());
        gate.wait_until_reached();
        stays_open(&last);
        assert_eq!(order.take(), NOTHING);
        gate.open();
        good(end_of(&last));
        assert_eq!(order.take(), ["first", "second"]);
    }
}

/// A wait for an event of the same stream is over when it is reached.
pub fn a_stream_may_wait_for_itself(subject: &Subject) {
    let stream = good(subject.device().stream());
    let gate = Gate::on(&stream);
    let event = good(stream.record());
    good(stream.wait(&event));
    good(stream.launch(Box::new(|| {}), 0));
    gate.open();
    finish(&stream);
}

/// Any number of threads wait for one event; each goes on.
pub fn many_threads_wait(subject: &Subject) {
    let stream = good(subject.device().stream());
    let gate = Gate::on(&stream);
    let event = good(stream.record());
    let (sender, receiver) = channel();
    let threads: Vec<_> = (0..8)
        .map(|_| {
            let (event, sender) = (Arc::clone(&event), sender.clone());
            std::thread::spawn(move || sender.send(event.synchronize().is_ok()))
        })
        .collect();
    gate.open();
    for _ in &threads {
        assert_eq!(receiver.recv_timeout(PATIENCE), Ok(true));
    }
    for thread in threads {
        assert!(thread.join().is_ok());
    }
}

const NOTHING: [&str; 0] = [];

/// Asks for a while whether an event is done that must not be: what does not wait although it should gets the time to show.
#[track_caller]
fn stays_open(event: &Arc<dyn Event>) {
    let until = Instant::now() + Duration::from_millis(10);
    while Instant::now() < until {
        assert!(!good(event.is_done()), "it did not wait");
        std::thread::yield_now();
    }
}

/// In which order functions were called.
#[derive(Default)]
struct Order(Arc<Mutex<Vec<&'static str>>>);

impl Order {
    fn note(&self, stream: &Arc<dyn Stream>, what: &'static str) {
        let order = Arc::clone(&self.0);
        good(stream.launch(Box::new(move || order.lock().push(what)), 1000));
    }

    fn take(&self) -> Vec<&'static str> {
        std::mem::take(&mut self.0.lock())
    }
}
