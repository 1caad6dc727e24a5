//! Events of queues: points in a stream that threads and other streams can wait for.

use std::any::Any;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use parla_core::lock::{Condvar, Mutex};

use crate::backend::{Callback, Event};
use crate::error::DeviceError;

/// A point in a queue.
pub(crate) struct QueueEvent {
    /// The process that it was recorded in: its threads do not exist in a fork.
    process: u32,
    state: Mutex<State>,
    done: Condvar,
}

#[derive(Default)]
struct State {
    // Set once.
    end: Option<End>,
    // Empty once there is an end.
    callbacks: Vec<Callback>,
}

/// How and when an event came about. The time is that of the model, which may be a little earlier than when it was noticed.
#[derive(Clone, Debug)]
pub(super) struct End {
    pub(super) result: Result<(), DeviceError>,
    pub(super) at: Instant,
}

impl QueueEvent {
    pub(super) fn new(process: u32) -> Self {
        Self {
            process,
            state: Mutex::default(),
            done: Condvar::new(),
        }
    }

    pub(super) fn end(&self) -> Option<End> {
        self.state.lock().end.clone()
    }

    /// Makes it done and returns who has to be called. Threads that wait go on.
    pub(super) fn complete(&self, end: End) -> Vec<Callback> {
        let mut state = self.state.lock();
        debug_assert!(state.end.is_none(), "an event comes about once");
        state.end = Some(end);
        let callbacks = std::mem::take(&mut state.callbacks);
        drop(state);
        self.done.notify_all();
        callbacks
    }

    fn check_process(&self) -> Result<(), DeviceError> {
        super::check_process(self.process)
    }
}

/// Calls `callback`, which may panic without harm to the thread.
pub(super) fn call(callback: Callback, result: Result<(), DeviceError>) {
    // The panic hook has reported it; there is nobody here to tell.
    let _ = catch_unwind(AssertUnwindSafe(|| callback(result)));
}

impl Event for QueueEvent {
    fn is_done(&self) -> Result<bool, DeviceError> {
        match self.end() {
            Some(end) => end.result.map(|()| true),
            None => self.check_process().map(|()| false),
        }
    }

    fn synchronize(&self) -> Result<(), DeviceError> {
        let mut state = self.state.lock();
        if state.end.is_none() {
            self.check_process()?;
        }
        loop {
            if let Some(end) = &state.end {
                return end.result.clone();
            }
            self.done.wait(&mut state);
        }
    }

    fn on_done(&self, callback: Callback) {
        if let Err(error) = self.check_process() {
            return callback(self.end().map_or(Err(error), |end| end.result));
        }
        let mut state = self.state.lock();
        match state.end.clone() {
            None => state.callbacks.push(callback),
            Some(end) => {
                drop(state);
                callback(end.result);
            }
        }
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl fmt::Debug for QueueEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QueueEvent")
            .field("end", &self.end().map(|end| end.result))
            .finish_non_exhaustive()
    }
}
