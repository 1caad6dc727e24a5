//! The runtime that runs a [task graph](parla_core::TaskGraph) on worker threads.
//!
//! * [`Runtime`] owns the workers; an [`Executor`] says what a task's body is and how to run it (the Python binding has
//!   one, [`native`] has the one for Rust closures).
//! * Ready tasks go the *fast path*: onto the deque of the worker that made them ready, where idle workers steal
//!   them. Tasks with a priority or a claim on resources go through admission, under a lock.
//! * Tasks that may run on several devices, or on a GPU, or use data, go by way of the mapper, where a [`policy`] chooses
//!   their devices, and are staged there ([`Placing`], [`Placement`]).
//! * Workers with nothing to do sleep; `sleep/README.md` has the protocol and why no wake-up is lost.
//! * A wait that can never end is found when it begins to be one, and reported as a stall with its reasons.
#![forbid(unsafe_code)]

#[cfg(not(loom))]
mod admission;
#[cfg(not(loom))]
pub mod cost;
#[cfg(not(loom))]
mod mapper;
#[cfg(not(loom))]
pub mod native;
#[cfg(not(loom))]
mod placing;
#[cfg(not(loom))]
pub mod policy;
#[cfg(not(loom))]
mod prefetch;
#[cfg(not(loom))]
mod runtime;
#[cfg_attr(
    loom,
    allow(dead_code, reason = "loom looks at the sleep protocol alone")
)]
mod sleep;
mod sync;
#[cfg(not(loom))]
mod whereabouts;

#[cfg(not(loom))]
pub use placing::{Assigned, Choice, Placing, Runahead};
#[cfg(not(loom))]
pub use runtime::{
    Cx, DeviceStats, Executor, Options, PlacedState, Placement, PlacingError, Reservation, Runtime,
    RuntimeError, SpawnError, Stats, Step, Task, Tick, Waited, WorkerStats,
};
#[cfg(not(loom))]
pub use whereabouts::{Resource, Shortage, Whereabouts};
