//! What happened, as plain data. Times are arguments: whoever records them owns the clock.

use crate::{Access, Claim, DeviceId, MemoryId, Region, TaskId};

/// One step in the life of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TraceEvent {
    /// It was spawned.
    Spawned,
    /// Its last dependency (or awaited task) ended.
    Ready,
    /// A policy chose its devices; its data is brought there.
    Placed,
    /// A worker began to run its body.
    Running,
    /// Its body gave up the worker to await other tasks.
    Suspended,
    /// Its body has returned, its devices are still at work.
    Draining,
    /// A worker goes on with its body.
    Resumed,
    /// Its body learnt that other tasks have ended, without being suspended for it; no tasks: a thread outside of bodies learnt that it has.
    Waited,
    /// It ended without error.
    Done,
    /// Its body raised an error.
    Failed,
    /// It was cancelled.
    Cancelled,
}

impl TraceEvent {
    /// The event's name in trace files and in Python.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Spawned => "spawned",
            Self::Ready => "ready",
            Self::Placed => "placed",
            Self::Running => "running",
            Self::Suspended => "suspended",
            Self::Draining => "draining",
            Self::Resumed => "resumed",
            Self::Waited => "waited",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

/// How a body used one operand, when it began or went on. A version is the number of a write, 0 that of the contents with which the array came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceUse {
    /// The array's number.
    pub array: u64,
    /// The array's name.
    pub name: String,
    /// The box it uses.
    pub region: Region,
    /// What for.
    pub access: Access,
    /// Whether it uses every element of the box.
    pub exact: bool,
    /// The memory where it does that.
    pub memory: MemoryId,
    /// What it finds there, if it reads: the boxes and their versions; `None`: nobody ever wrote there or copied anything to it.
    pub finds: Vec<(Region, Option<u64>)>,
    /// The version of what it writes once it has ended well; before, it is one less.
    pub writes: Option<u64>,
}

/// One line of a trace.
#[derive(Clone, Debug, PartialEq)]
pub struct TraceRecord {
    /// The task it happened to.
    pub task: TaskId,
    /// What happened.
    pub event: TraceEvent,
    /// When, in nanoseconds since the runtime started.
    pub time_ns: u64,
    /// On which worker; `None` for a thread that is no worker.
    pub worker: Option<u32>,
    /// For [`TraceEvent::Spawned`]: the dependencies; for [`TraceEvent::Suspended`] and [`TraceEvent::Waited`]: the awaited tasks.
    pub tasks: Vec<TaskId>,
    /// For [`TraceEvent::Spawned`]: the task whose body spawned it, if one did.
    pub parent: Option<TaskId>,
    /// For [`TraceEvent::Running`] and [`TraceEvent::Resumed`]: the arrays it uses from here on.
    pub uses: Vec<TraceUse>,
    /// For [`TraceEvent::Placed`]: the chosen devices.
    pub devices: Vec<DeviceId>,
    /// For [`TraceEvent::Placed`]: why there, in words; empty if the policy does not say.
    pub note: String,
    /// For [`TraceEvent::Spawned`]: what it will claim.
    pub claim: Claim,
    /// Nanoseconds that an exclusive resource of the host language (Python's GIL) was held since the body last started.
    pub held_ns: u64,
}
