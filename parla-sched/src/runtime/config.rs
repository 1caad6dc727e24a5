//! What a runtime is told and what it tells: options, tasks, errors, counts.

use std::sync::Arc;

use parla_core::{Attrs, Claim, ClaimError, TaskId, Vcus};
use parla_data::{DataError, Store, StoreStats};
use thiserror::Error;

use crate::Placing;
use crate::mapper::PolicyFault;
use crate::policy::SchedulingPolicy;

/// The devices of a runtime and who decides what runs where.
pub struct Placement {
    /// The devices, and what arrays have in their memories.
    pub store: Arc<Store>,
    /// Decides.
    pub policy: Box<dyn SchedulingPolicy>,
    /// How many tasks a device has in staging or waiting for its compute units beside those that run, at least 1.
    pub depth: usize,
}

impl Placement {
    /// Whether there are devices whose tasks can run ahead.
    pub(super) fn is_stream_ordered(&self) -> bool {
        let machine = self.store.machine();
        let mut devices = machine.model().device_ids();
        devices.any(|device| machine.device(device).stream_ordered())
    }
}

/// How to set up a [`Runtime`](super::Runtime).
pub struct Options {
    /// Worker threads that run bodies at the same time, at least 1.
    pub workers: usize,
    /// What the CPU device has to give to claims.
    pub capacity: Claim,
    /// Keep a record of everything that happens.
    pub trace: bool,
    /// Threads are named `<name>-<number>`.
    pub name: String,
    /// Bind the worker of seat `k` to the `k`-th core; empty: not bound.
    pub bind: Vec<parla_device::Core>,
    /// For tasks with a [`Placing`]; `None`: there are none.
    pub placement: Option<Placement>,
}

impl Default for Options {
    /// One worker per physical core available to this process, all of its memory, no trace.
    fn default() -> Self {
        let workers = parla_device::Topology::detect().default_workers();
        // Where the system does not say how much memory there is, no claim is refused for its size.
        let memory = parla_device::available_memory().unwrap_or(u64::MAX);
        let capacity = Claim {
            vcus: Vcus::WHOLE,
            memory,
        };
        Self {
            workers,
            capacity,
            trace: false,
            name: "parla".to_owned(),
            bind: Vec::new(),
            placement: None,
        }
    }
}

/// Why a runtime could not be made or used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RuntimeError {
    /// Between 1 and 65 535 workers.
    #[error("a runtime has between 1 and 65535 workers, not {0}")]
    Workers(usize),
    /// The operating system gave no thread.
    #[error("cannot start worker thread {name}: {source}")]
    Thread {
        /// The thread's name.
        name: String,
        /// What the operating system said.
        source: std::io::Error,
    },
}

/// Why a task cannot be run where it was to run.
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum PlacingError {
    /// Every choice asks for more than its devices have; the reason of the first.
    #[error("{device}: {error}")]
    Claim {
        /// The device's name.
        device: String,
        /// What is too much.
        error: ClaimError,
    },
    /// No choice can be understood; the reason of the first.
    #[error("a choice of the task is wrong: {0}")]
    Choice(String),
    /// Its data cannot be brought there.
    #[error(transparent)]
    Data(#[from] DataError),
    /// A policy decided something impossible.
    #[error("policy '{policy}' {fault}")]
    Policy {
        /// The policy's name.
        policy: String,
        /// What it did.
        fault: String,
    },
}

impl From<PolicyFault> for PlacingError {
    fn from(fault: PolicyFault) -> Self {
        Self::Policy {
            policy: fault.policy,
            fault: fault.fault,
        }
    }
}

/// Why a task could not be spawned.
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum SpawnError {
    /// The runtime takes no more tasks.
    #[error("the runtime is closed")]
    Closed,
    /// The id was spawned before.
    #[error("{0} was spawned before")]
    Taken(TaskId),
    /// The claim can never be satisfied.
    #[error(transparent)]
    Claim(#[from] ClaimError),
    /// No choice can ever be served.
    #[error("{0}")]
    Placing(Arc<PlacingError>),
    /// The runtime was started without devices.
    #[error("the runtime has no devices to place tasks on")]
    NoDevices,
    /// No such worker.
    #[error("worker {wanted} does not exist: the runtime has {workers}")]
    Worker {
        /// The worker that the task asks for.
        wanted: u16,
        /// How many there are.
        workers: usize,
    },
}

/// A task to be spawned, but for its body.
#[derive(Clone, Debug, Default)]
pub struct Task<'a> {
    /// The id it was [declared](super::Runtime::declare) under, if it was.
    pub declared: Option<TaskId>,
    /// Tasks that must be done before; declared ones may be spawned later.
    pub dependencies: &'a [TaskId],
    /// Priority, claim, worker.
    pub attrs: Attrs,
    /// For a task that the policy places: its choices and data. The claim in `attrs` is then empty, the choices have theirs.
    pub placing: Option<Arc<Placing>>,
}

/// Counts since the runtime started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Tasks spawned.
    pub spawned: u64,
    /// Tasks that have ended, in whatever way.
    pub finished: u64,
    /// One entry per worker seat.
    pub workers: Vec<WorkerStats>,
    /// What is claimed at this moment.
    pub claimed: Claim,
    /// One entry per device; empty without devices.
    pub devices: Vec<DeviceStats>,
    /// What happened to data; `None` without devices.
    pub data: Option<StoreStats>,
}

/// Counts of one device, of tasks that a policy placed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceStats {
    /// The device's name.
    pub name: String,
    /// Tasks that ended there.
    pub tasks: u64,
    /// Nanoseconds from the start to the end of their bodies and of what these gave to the device, added up.
    pub busy_ns: u64,
}

/// Counts of one worker seat.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WorkerStats {
    /// Bodies run (an awaiting body counts each time it goes on).
    pub steps: u64,
    /// Batches of tasks taken from another worker.
    pub steals: u64,
    /// Times it went to sleep.
    pub parks: u64,
}
