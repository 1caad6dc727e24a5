//! A card: its context, its pools of streams and events, and whether it is lost.

use std::ffi::c_uint;
use std::fmt::{self, Debug};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use parla_core::lock::Mutex;

use super::driver::{Driver, Failure, Handle, NOT_READY, check};
use super::staging::Staging;
use super::words::Words;
use super::{occupy, pinning};
use crate::DeviceError;

/// What the driver calls `CU_STREAM_NON_BLOCKING`: not ordered with stream 0.
const NON_BLOCKING: c_uint = 1;
/// `CU_EVENT_BLOCKING_SYNC | CU_EVENT_DISABLE_TIMING`: who waits sleeps, and nobody asks for the time.
const PLAIN_EVENT: c_uint = 1 | 2;
/// Attributes of devices.
const MAX_PITCH: i32 = 11;
const MEMORY_POOLS_SUPPORTED: i32 = 115;
/// Unused events and streams kept for later.
const KEPT_EVENTS: usize = 4096;
const KEPT_STREAMS: usize = 64;

/// One card.
pub(super) struct Physical {
    pub(super) driver: &'static Driver,
    pub(super) ordinal: i32,
    pub(super) total: u64,
    pub(super) max_pitch: usize,
    /// What NVIDIA calls it.
    pub(super) model: String,
    /// The primary context, once somebody needed it and the driver gave it.
    context: OnceLock<Handle>,
    /// The first failure that left the context unusable.
    lost: OnceLock<String>,
    streams: Mutex<Vec<Handle>>,
    events: Mutex<Vec<Handle>>,
    pub(super) staging: Mutex<Staging>,
    pub(super) words: Mutex<Words>,
    /// A pool of every logical GPU on this card, with the stream on which its memory is freed: their unused memory is one another's last
    /// resort.
    pub(super) pools: Mutex<Vec<(Handle, Handle)>>,
    /// The kernel that takes a given time, once somebody needed it.
    occupying: OnceLock<Handle>,
    /// Whether the driver lets streams wait for a word of memory, as far as is known.
    pub(super) can_wait_for_value: AtomicBool,
}

impl Debug for Physical {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "CUDA device {} ({}, {} bytes)",
            self.ordinal, self.model, self.total
        )
    }
}

/// Makes a context the calling thread's current one, for as long as it lives.
pub(super) struct Current<'a>(&'a Physical);

impl Drop for Current<'_> {
    fn drop(&mut self) {
        let mut popped = 0;
        // SAFETY: takes off what `enter` put on, on the same thread (`Current` is not sent: it borrows for one call).
        unsafe { (self.0.driver.context_pop)(&raw mut popped) };
    }
}

impl Physical {
    /// Asks the driver about a card; `None` when it is not usable. Makes no context.
    pub(super) fn find(driver: &'static Driver, ordinal: i32) -> Option<Self> {
        if driver.attribute(MEMORY_POOLS_SUPPORTED, ordinal) == 0 {
            return None;
        }
        Some(Self {
            driver,
            ordinal,
            total: driver.total_memory(ordinal).ok()?,
            max_pitch: usize::try_from(driver.attribute(MAX_PITCH, ordinal)).ok()?,
            model: driver.name(ordinal),
            context: OnceLock::new(),
            lost: OnceLock::new(),
            streams: Mutex::new(Vec::new()),
            events: Mutex::new(Vec::new()),
            staging: Mutex::new(Staging::default()),
            words: Mutex::new(Words::default()),
            pools: Mutex::new(Vec::new()),
            occupying: OnceLock::new(),
            can_wait_for_value: AtomicBool::new(true),
        })
    }

    /// The context, made at the first call. That there is none now, for want of memory say, does not mean that there will be none.
    pub(super) fn context(&self) -> Result<Handle, Failure> {
        if let Some(&context) = self.context.get() {
            return Ok(context);
        }
        let mut context = 0;
        // SAFETY: writes one handle; released when this is dropped.
        let code = unsafe { (self.driver.primary_retain)(&raw mut context, self.ordinal) };
        check("cuDevicePrimaryCtxRetain", code)?;
        if self.context.set(context).is_err() {
            // Another thread was faster: it is the same context, retained once too often.
            // SAFETY: gives back what was taken above.
            unsafe { (self.driver.primary_release)(self.ordinal) };
        }
        Ok(context)
    }

    /// Makes the context current on this thread until the result is dropped.
    pub(super) fn enter(&self) -> Result<Current<'_>, Failure> {
        self.driver.check_process("cuCtxPushCurrent")?;
        let context = self.context()?;
        // SAFETY: a context that is not released before `self` is dropped.
        check("cuCtxPushCurrent", unsafe {
            (self.driver.context_push)(context)
        })?;
        Ok(Current(self))
    }

    /// Makes the context current on this thread; the thread's stack of contexts as it was, for `restore_current`.
    pub(super) fn make_current(&self) -> Result<Vec<Handle>, Failure> {
        self.driver.check_process("cuCtxSetCurrent")?;
        let context = self.context()?;
        let before = self.take_contexts();
        self.put_contexts(&before);
        // SAFETY: makes a context current that is not released before `self` is dropped.
        check("cuCtxSetCurrent", unsafe {
            (self.driver.context_set)(context)
        })?;
        Ok(before)
    }

    /// Undoes `make_current` on the same thread, and whatever else was put on the stack since.
    pub(super) fn restore_current(&self, before: &[Handle]) {
        if self.driver.check_process("cuCtxPopCurrent").is_err() {
            return;
        }
        self.take_contexts();
        self.put_contexts(before);
    }

    /// Takes all contexts off this thread's stack; the top one is the last of them.
    fn take_contexts(&self) -> Vec<Handle> {
        let mut found = Vec::new();
        let mut top = 0;
        // SAFETY: both write one handle. Nothing is popped off an empty stack, which tools would report as an error.
        while unsafe {
            (self.driver.context_get)(&raw mut top) == 0
                && top != 0
                && (self.driver.context_pop)(&raw mut top) == 0
        } {
            found.push(top);
        }
        found.reverse();
        found
    }

    fn put_contexts(&self, contexts: &[Handle]) {
        for &context in contexts {
            // SAFETY: it was on the stack once; a context that is gone by now is refused.
            unsafe { (self.driver.context_push)(context) };
        }
    }

    /// Why the card is lost, if it is.
    pub(super) fn loss(&self) -> Option<&str> {
        self.lost.get().map(String::as_str)
    }

    /// Notes that the context cannot be used any more.
    pub(super) fn lose(&self, failure: Failure) {
        self.lost.get_or_init(|| {
            format!(
                "{} failed: {}",
                failure.call,
                self.driver.explain(failure.code)
            )
        });
    }

    /// A failure as an error of the device that users know as `name`.
    pub(super) fn error(&self, name: &str, failure: Failure) -> DeviceError {
        if failure.is_final() {
            self.lose(failure);
        }
        match self.loss() {
            Some(reason) => DeviceError::Lost {
                device: name.to_owned(),
                reason: reason.to_owned(),
            },
            None => DeviceError::Driver {
                device: name.to_owned(),
                call: failure.call,
                reason: self.driver.explain(failure.code),
            },
        }
    }

    /// Enqueues a kernel that takes `ns` nanoseconds and fills one of `n_parts` of this card; the context is current.
    pub(super) fn occupy(&self, stream: Handle, ns: u64, n_parts: u32) -> Result<(), Failure> {
        let kernel = match self.occupying.get() {
            Some(&kernel) => kernel,
            // Loaded twice if two threads are here: no harm done.
            None => {
                let kernel = occupy::load(self.driver)?;
                *self.occupying.get_or_init(|| kernel)
            }
        };
        let blocks = occupy::blocks(self.driver, self.ordinal).div_ceil(n_parts);
        occupy::launch(self.driver, kernel, blocks, stream, ns)
    }

    /// An idle stream.
    pub(super) fn take_stream(&self) -> Result<Handle, Failure> {
        let _current = self.enter()?;
        let mut kept = self.streams.lock();
        // SAFETY: streams of this card that nobody else has.
        let is_idle = |&stream: &Handle| unsafe { (self.driver.stream_query)(stream) } == 0;
        if let Some(i) = kept.iter().position(is_idle) {
            return Ok(kept.swap_remove(i));
        }
        drop(kept);
        let mut stream = 0;
        // SAFETY: the context is current; writes one handle.
        let code = unsafe { (self.driver.stream_create)(&raw mut stream, NON_BLOCKING) };
        check("cuStreamCreate", code).map(|()| stream)
    }

    /// Gives a stream back, which may have work left.
    pub(super) fn put_stream(&self, stream: Handle) {
        let mut kept = self.streams.lock();
        if kept.len() < KEPT_STREAMS {
            kept.push(stream);
            return;
        }
        drop(kept);
        if let Ok(_current) = self.enter() {
            // SAFETY: the last handle of this stream; the driver finishes its work first.
            unsafe { (self.driver.stream_destroy)(stream) };
        }
    }

    /// An event that nobody else has.
    pub(super) fn take_event(&self) -> Result<Handle, Failure> {
        if let Some(event) = self.events.lock().pop() {
            return Ok(event);
        }
        let _current = self.enter()?;
        let mut event = 0;
        // SAFETY: the context is current; writes one handle.
        let code = unsafe { (self.driver.event_create)(&raw mut event, PLAIN_EVENT) };
        check("cuEventCreate", code).map(|()| event)
    }

    /// Gives an event back, which may be outstanding: waits that were enqueued for it are not affected by later records.
    pub(super) fn put_event(&self, event: Handle) {
        let mut kept = self.events.lock();
        if kept.len() < KEPT_EVENTS {
            kept.push(event);
            return;
        }
        drop(kept);
        if let Ok(_current) = self.enter() {
            // SAFETY: the last handle of this event; the driver allows that it is outstanding.
            unsafe { (self.driver.event_destroy)(event) };
        }
    }

    /// Whether an event is done.
    pub(super) fn query_event(&self, event: Handle) -> Result<bool, Failure> {
        let _current = self.enter()?;
        // SAFETY: an event of this card that its owner keeps.
        match unsafe { (self.driver.event_query)(event) } {
            NOT_READY => Ok(false),
            code => match check("cuEventQuery", code) {
                // It cannot be known at this moment.
                Err(failure) if failure.is_forbidden_by_capture() => Ok(false),
                known => known.map(|()| true),
            },
        }
    }

    /// Waits for an event.
    pub(super) fn synchronize_event(&self, event: Handle) -> Result<(), Failure> {
        let _current = self.enter()?;
        // SAFETY: an event of this card that its owner keeps.
        check("cuEventSynchronize", unsafe {
            (self.driver.event_synchronize)(event)
        })
    }

    /// Waits for a stream of anybody's. 1 and 2 are the driver's names for its two default streams.
    pub(super) fn synchronize_stream(&self, stream: Handle) -> Result<(), Failure> {
        let _current = self.enter()?;
        // SAFETY: the caller vouches for the stream.
        check("cuStreamSynchronize", unsafe {
            (self.driver.stream_synchronize)(stream)
        })
    }

    /// The device whose memory an address is in.
    pub(super) fn ordinal_of(&self, address: usize) -> Option<i32> {
        let _current = self.enter().ok()?;
        self.driver.ordinal_of(address)
    }

    /// What is enqueued on `stream` from now on waits for what was on `other` until now.
    pub(super) fn join(&self, stream: Handle, other: Handle) -> Result<(), Failure> {
        let event = self.take_event()?;
        let joined = self
            .record(event, other)
            .and_then(|()| self.wait(stream, event));
        self.put_event(event);
        joined
    }

    /// Records an event of ours; the context is current.
    pub(super) fn record(&self, event: Handle, stream: Handle) -> Result<(), Failure> {
        // SAFETY: both belong to this card and are alive.
        check("cuEventRecord", unsafe {
            (self.driver.event_record)(event, stream)
        })
    }

    /// Lets a stream of ours wait for an event of any card; the context is current.
    pub(super) fn wait(&self, stream: Handle, event: Handle) -> Result<(), Failure> {
        // SAFETY: both are alive; the flags must be 0.
        check("cuStreamWaitEvent", unsafe {
            (self.driver.stream_wait_event)(stream, event, 0)
        })
    }

    /// Gives all memory that its pools keep and nobody uses back to the card; the context is current. The driver counts memory as used until
    /// somebody has waited for the stream on which it was freed.
    pub(super) fn trim_pools(&self) {
        for &(pool, stream) in self.pools.lock().iter() {
            // SAFETY: pools in the list are alive, and so are their streams.
            unsafe {
                (self.driver.stream_synchronize)(stream);
                (self.driver.pool_trim)(pool, 0);
            }
        }
    }

    /// Marks that the driver cannot let streams wait for a word.
    pub(super) fn cannot_wait_for_value(&self) {
        self.can_wait_for_value.store(false, Ordering::Relaxed);
    }
}

impl Drop for Physical {
    fn drop(&mut self) {
        if self.context.get().is_none() || self.driver.check_process("").is_err() {
            return;
        }
        pinning::forget(self);
        let staging = std::mem::take(self.staging.get_mut());
        let words = std::mem::take(self.words.get_mut());
        let streams = std::mem::take(self.streams.get_mut());
        let events = std::mem::take(self.events.get_mut());
        if let Ok(_current) = self.enter() {
            staging.free(self.driver);
            words.free(self.driver);
            // SAFETY: nobody else has these handles any more; results do not matter now, as the context goes.
            unsafe {
                for stream in streams {
                    (self.driver.stream_destroy)(stream);
                }
                for event in events {
                    (self.driver.event_destroy)(event);
                }
            }
        }
        // SAFETY: gives back what `context` took, once.
        unsafe { (self.driver.primary_release)(self.ordinal) };
    }
}
