//! The pure heart of Parla: what tasks are, how they depend on each other and what they claim.
//!
//! Nothing here starts a thread, reads a clock or does I/O, and there is no `unsafe`. What
//! synchronises is the short per-task lock inside [`TaskGraph`], see [`graph`](TaskGraph) for why it suffices, and the [`Combiner`].
//!
//! * [`TaskGraph`]: states and edges of all tasks; completion yields the newly ready ones.
//! * [`Claim`] and [`Ledger`]: exact integer accounting of a device's virtual compute units and memory.
//! * [`Region`]: a box of an array's elements; [`Access`]: what a task does with it.
//! * [`Combiner`]: state that whoever comes by works on, and notes for it.
//! * [`MachineModel`]: devices, memories and links as plain data.
//! * [`TraceRecord`]: what happened to a task, as plain data.
#![forbid(unsafe_code)]

mod combine;
mod diagnosis;
mod graph;
mod ids;
pub mod lock;
mod machine;
mod region;
mod resources;
mod slab;
mod state;
mod sync;
mod trace;

pub use combine::Combiner;
pub use diagnosis::{Blocked, Diagnosis, Reason};
pub use graph::{
    Attrs, Cancelled, Completed, Ready, SlotCache, Spawned, Started, Suspended, TaskGraph,
};
pub use ids::{DeviceId, MemoryId, TaskId};
pub use machine::{DeviceModel, Link, MachineModel, MemoryModel};
pub use region::{Access, Region};
pub use resources::{Claim, ClaimError, Ledger, Vcus};
pub use state::TaskState;
pub use trace::{TraceEvent, TraceRecord, TraceUse};
