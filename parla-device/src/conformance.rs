//! What every backend promises, as tests that run on any of them: `parla_device::conformance!(subject)` in an integration test makes one
//! test of each promise.
//!
//! Nothing here knows a backend: device memory is reached through copies, and work is held up by a function of the host that waits. Every wait has a
//! time limit.

use std::fmt::Debug;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use smallvec::SmallVec;

use crate::backend::{Backend, Block, Copy, Device, DeviceKey, Event, Place, Stream};
use crate::error::DeviceError;
use crate::host::{HostBackend, HostOptions};

pub mod copies;
pub mod events;
pub mod loss;
pub mod memory;
pub mod streams;

/// How long anything may take before it counts as hung.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A backend to test.
pub struct Subject {
    /// The backend, with at least one device.
    pub backend: Arc<dyn Backend>,
    /// Makes the device with this index lose its context at once, if there is a way.
    pub lose: Option<Box<dyn Fn(u32) + Send + Sync>>,
    /// Whether the devices' memory is the host's, which copies name `None`.
    pub in_host_memory: bool,
}

impl Subject {
    /// The first device.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn device(&self) -> Arc<dyn Device> {
        Arc::clone(&self.backend.devices()[0])
    }

    /// How copies name a device's memory.
    #[must_use]
    pub fn key(&self, device: &dyn Device) -> Option<DeviceKey> {
        (!self.in_host_memory).then(|| (self.backend.architecture(), device.index()))
    }
}

/// A backend of the host to have streams of another backend.
pub(crate) fn host() -> HostBackend {
    let options = HostOptions {
        workers: Some(1),
        memory: Some(1 << 30),
        ..HostOptions::default()
    };
    good(HostBackend::probe(&options))
}

/// The value of a call that must succeed.
#[track_caller]
pub fn good<T, E: Debug>(result: Result<T, E>) -> T {
    match result {
        Ok(value) => value,
        Err(error) => panic!("a call failed that should not: {error:?}"),
    }
}

/// The end of an event, which must come about in time. Asks in all three ways, which must agree.
#[track_caller]
pub fn end_of(event: &Arc<dyn Event>) -> Result<(), DeviceError> {
    let (sender, receiver) = channel();
    event.on_done(Box::new(move |result| {
        let _ = sender.send(result);
    }));
    let result = match receiver.recv_timeout(PATIENCE) {
        Ok(result) => result,
        Err(_) => panic!("an event did not come about in time: {event:?}"),
    };
    assert_eq!(result.is_ok(), event.synchronize().is_ok());
    assert_eq!(result.is_ok(), matches!(event.is_done(), Ok(true)));
    result
}

/// Waits until everything on a stream is done, which must be without an error and in time.
#[track_caller]
pub fn finish(stream: &Arc<dyn Stream>) {
    good(end_of(&good(stream.record())));
}

/// Holds up a stream until it is opened, or dropped.
#[derive(Debug)]
pub struct Gate {
    open: Sender<()>,
    reached: Receiver<()>,
}

impl Gate {
    /// A function on the stream that does not end before the gate is opened.
    pub fn on(stream: &Arc<dyn Stream>) -> Self {
        let (open, opened) = channel();
        let (reach, reached) = channel();
        let kernel = Box::new(move || {
            let _ = reach.send(());
            // A gate that nobody opens ends the wait too.
            let _ = opened.recv_timeout(PATIENCE);
        });
        good(stream.launch(kernel, 0));
        Self { open, reached }
    }

    /// Blocks until the stream has come to the gate.
    #[track_caller]
    pub fn wait_until_reached(&self) {
        assert_ne!(
            self.reached.recv_timeout(PATIENCE),
            Err(RecvTimeoutError::Timeout),
            "nothing runs on the stream"
        );
    }

    /// Lets the stream go on.
    pub fn open(self) {
        let _ = self.open.send(());
    }
}

/// Bytes of the host that a copy can use.
#[must_use]
pub fn host_block(bytes: Vec<u8>) -> Arc<Block> {
    let bytes = bytes.into_boxed_slice();
    let (address, n_bytes) = (bytes.as_ptr() as usize, bytes.len() as u64);
    Arc::new(Block::foreign(address, n_bytes, bytes))
}

/// What is in a block of the host, which no copy uses now.
#[must_use]
pub fn contents(block: &Arc<Block>) -> Vec<u8> {
    let n_bytes = usize::try_from(block.bytes()).unwrap_or(0);
    if n_bytes == 0 {
        return Vec::new();
    }
    // SAFETY: the block is memory of the host of this size, made by `host_block`; the caller waited for the copies that use it.
    unsafe { std::slice::from_raw_parts(block.address() as *const u8, n_bytes) }.to_vec()
}

/// All of a block, as bytes one after the other.
#[must_use]
pub fn all_of(block: &Arc<Block>, device: Option<DeviceKey>) -> Place {
    Place {
        block: Arc::clone(block),
        offset: 0,
        strides: SmallVec::from_slice(&[1]),
        device,
    }
}

/// A copy of as many bytes as the source has.
#[must_use]
pub fn copy_of_bytes(source: Place, destination: Place) -> Copy {
    Copy {
        item: 1,
        shape: SmallVec::from_slice(&[usize::try_from(source.block.bytes()).unwrap_or(0)]),
        source,
        destination,
    }
}

/// Brings bytes to a device.
#[track_caller]
pub fn upload(subject: &Subject, device: &Arc<dyn Device>, bytes: Vec<u8>) -> Arc<Block> {
    let block = good(device.allocate(bytes.len() as u64));
    let stream = good(device.stream());
    let to = all_of(&block, subject.key(&**device));
    good(stream.copy(copy_of_bytes(all_of(&host_block(bytes), None), to)));
    finish(&stream);
    block
}

/// What is in a block of a device.
#[track_caller]
pub fn download(subject: &Subject, device: &Arc<dyn Device>, block: &Arc<Block>) -> Vec<u8> {
    let host = host_block(vec![0; usize::try_from(block.bytes()).unwrap_or(0)]);
    let stream = good(device.stream());
    let from = all_of(block, subject.key(&**device));
    good(stream.copy(copy_of_bytes(from, all_of(&host, None))));
    finish(&stream);
    contents(&host)
}

/// Runs a test where it is.
pub fn here(_test: &str, body: impl FnOnce()) {
    body();
}

/// Makes a test of each promise, for the backend that `$subject()` returns. `$around(name, body)` runs each, in a process of its own
/// perhaps; without it they run where they are.
#[macro_export]
macro_rules! conformance {
    ($subject:path) => {
        $crate::conformance!($subject, $crate::conformance::here);
    };
    ($subject:path, $around:path) => {
        $crate::conformance!(@ $subject, $around:
            memory: devices_are_what_they_say, blocks_are_aligned_and_accounted,
                too_much_is_refused_with_numbers, blocks_in_use_by_a_copy_may_be_dropped,
                who_hears_of_the_end_of_a_copy_may_have_its_memory;
            streams: first_in_first_out, streams_overlap, nothing_blocks_the_caller,
                streams_are_pooled, a_dropped_stream_finishes, idle_means_nothing_is_outstanding;
            events: an_event_is_done_when_what_is_before_it_is, callbacks_are_called_once_and_elsewhere,
                callbacks_may_call_anything, streams_wait_for_streams, streams_wait_across_backends,
                a_stream_may_wait_for_itself, many_threads_wait;
            copies: random_boxes_in_all_directions, large_boxes, copies_of_nothing;
            loss: a_lost_device_ends_all_waits, other_devices_survive;
        );
    };
    (@ $subject:path, $around:path: $($module:ident: $($test:ident),+;)+) => {
        $crate::conformance!(@@ $subject, $around: $($($module $test),+),+);
    };
    (@@ $subject:path, $around:path: $($module:ident $test:ident),+) => {
        $(
            #[test]
            fn $test() {
                $around(stringify!($test), || $crate::conformance::$module::$test(&$subject()));
            }
        )+
    };
}
