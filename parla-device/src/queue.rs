//! Streams that threads of this process work off: what the host and simulated GPUs have in common.
//!
//! All streams of a backend are *lanes* of one [`State`], a machine without threads or clock: things are pushed onto lanes, operations
//! finish, awaited events come about, and it says what to do next. An operation that is first on its lane *starts* once all engines
//! that it occupies are free; a **worker** thread then does its work, and if that is done before the operation's modelled time is over, the
//! **timer** thread finishes it then. Times are those of the model: an operation starts when what it waited for ended, not when
//! a thread noticed, so wake-ups of threads do not add up along a stream.
//!
//! Threads are started when there is something for them to do, as many as there are operations to work on, and end after a while without
//! work, or when the last handle goes; nobody joins them, so the last handle may go anywhere, a callback included.
//!
//! Locks: that of the state, and below it that of an event. Neither is held while an operation's work, a callback or the drop of either runs:
//! such things are collected as [`Effects`] and done once the lock is free.
//!
//! The child of a fork has none of the threads, and a lock may be held there for ever: it gets an error instead.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use parla_core::lock::{Condvar, Mutex};

use crate::backend::Event;
use crate::copy;
use crate::error::DeviceError;

mod event;
mod state;
mod threads;

use event::QueueEvent;
use state::{Effects, Item, State};
pub(crate) use state::{Engines, Operation, Work};

/// All streams of one backend. The last handle lets the threads go.
pub(crate) struct Queues(Arc<Shared>);

struct Shared {
    process: u32,
    /// What threads are called: `parla-gpu`.
    name: String,
    // By device.
    device_names: Vec<String>,
    max_workers: usize,
    state: Mutex<Threaded>,
    work: Condvar,
    timer: Condvar,
}

/// The state and the threads that work on it.
struct Threaded {
    state: State,
    /// Workers there are, those that are about to start included.
    n_workers: usize,
    /// Workers that sleep and nobody has woken.
    n_asleep: usize,
    /// Wake-ups that no worker has taken yet.
    n_wakeups: usize,
    /// Workers that are started and have not arrived yet.
    n_starting: usize,
    timer_runs: bool,
    closing: bool,
}

/// Says why nothing can be done in this process, if it is a fork of `process`.
fn check_process(process: u32) -> Result<(), DeviceError> {
    if std::process::id() == process {
        return Ok(());
    }
    Err(DeviceError::Lost {
        device: "every device".to_owned(),
        reason: "this process is a fork of the one that found the devices, whose threads do not exist here".to_owned(),
    })
}

impl Queues {
    /// For devices with these names and so many engines each. Starts no thread.
    pub(crate) fn new(architecture: &str, device_names: Vec<String>, n_engines: usize) -> Self {
        let state = State::new(device_names.len(), n_engines, Instant::now());
        Self(Arc::new(Shared {
            process: std::process::id(),
            name: format!("parla-{architecture}"),
            max_workers: (device_names.len() * n_engines.max(4)).max(8),
            device_names,
            state: Mutex::new(Threaded {
                state,
                n_workers: 0,
                n_asleep: 0,
                n_wakeups: 0,
                n_starting: 0,
                timer_runs: false,
                closing: false,
            }),
            work: Condvar::new(),
            timer: Condvar::new(),
        }))
    }

    /// The error that left a device unusable.
    pub(crate) fn failure(&self, device: usize) -> Option<DeviceError> {
        match check_process(self.0.process) {
            Err(error) => Some(error),
            Ok(()) => self.0.state.lock().state.failure(device).cloned(),
        }
    }

    /// From now on every call on this device fails; what is outstanding ends.
    pub(crate) fn lose(&self, device: usize, reason: &str) {
        if check_process(self.0.process).is_err() {
            return;
        }
        let error = DeviceError::Lost {
            device: self.0.device_names[device].clone(),
            reason: reason.to_owned(),
        };
        self.0.change(|state, effects| {
            state.lose(device, error, Instant::now(), effects);
        });
    }

    /// A stream of a device.
    pub(crate) fn open(self: &Arc<Self>, device: usize) -> Result<Lane, DeviceError> {
        check_process(self.0.process)?;
        let number = self.0.state.lock().state.open(device, Instant::now())?;
        Ok(Lane {
            queues: Arc::clone(self),
            device,
            number,
        })
    }

    /// How many streams there have been at one time.
    pub(crate) fn n_lanes(&self) -> usize {
        self.0.state.lock().state.n_lanes()
    }
}

impl Drop for Queues {
    fn drop(&mut self) {
        // In a fork there are no threads, and one of the parent may have held the lock.
        if check_process(self.0.process).is_ok() {
            self.0.state.lock().closing = true;
            self.0.work.notify_all();
            self.0.timer.notify_all();
        }
    }
}

impl fmt::Debug for Queues {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queues").finish_non_exhaustive()
    }
}

/// A stream: the handle of one lane.
#[derive(Debug)]
pub(crate) struct Lane {
    queues: Arc<Queues>,
    device: usize,
    number: usize,
}

impl Lane {
    pub(crate) fn push(&self, operation: Operation) -> Result<(), DeviceError> {
        if let Work::Copy(copy) = &operation.work {
            copy::check(copy).map_err(|reason| DeviceError::Driver {
                device: self.device_name().to_owned(),
                call: "copy",
                reason,
            })?;
        }
        self.push_item(Item::Operation(operation))
    }

    pub(crate) fn record(&self) -> Result<Arc<dyn Event>, DeviceError> {
        let event = Arc::new(QueueEvent::new(self.queues.0.process));
        self.push_item(Item::Record(Arc::clone(&event)))?;
        Ok(event)
    }

    pub(crate) fn wait(&self, event: &Arc<dyn Event>) -> Result<(), DeviceError> {
        self.push_item(Item::Wait(Arc::clone(event)))
    }

    pub(crate) fn is_idle(&self) -> Result<bool, DeviceError> {
        check_process(self.queues.0.process)?;
        self.queues.0.state.lock().state.is_idle(self.number)
    }

    pub(crate) fn device_name(&self) -> &str {
        &self.queues.0.device_names[self.device]
    }

    fn push_item(&self, item: Item) -> Result<(), DeviceError> {
        check_process(self.queues.0.process)?;
        let now = Instant::now();
        let push =
            |state: &mut State, effects: &mut Effects| state.push(self.number, item, now, effects);
        self.queues.0.change(push)
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        if check_process(self.queues.0.process).is_ok() {
            self.queues.0.state.lock().state.abandon(self.number);
        }
    }
}
