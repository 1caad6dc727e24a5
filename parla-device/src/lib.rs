//! The machine a Parla program runs on: which cores and how much memory this process may use, and the
//! devices that tasks are placed on.
//!
//! ```
//! use parla_device::{Device, HostBackend, HostOptions, available_memory, Topology};
//!
//! let topology = Topology::detect();
//! let options = HostOptions { workers: Some(2), ..HostOptions::default() };
//! let host = HostBackend::new(&options, &topology, available_memory()?)?;
//! assert_eq!(host.n_workers(), 2);
//! assert_eq!(host.host_devices()[0].name(), "cpu:0");
//! # Ok::<(), parla_device::DeviceError>(())
//! ```
//!
//! * [`Topology`] is plain data, read from hwloc (feature `hwloc`, on by default), else from sysfs.
//! * [`HostOptions`] says what the user asked for, mostly through `PARLA_*` environment variables.
//! * [`HostBackend`] turns both into [`HostDevice`]s. [`Backend`] and [`Device`] are the contract that
//!   every kind of device keeps.
//!
//! **Limits of this process count, not those of the machine**: CPU affinity, the cgroup's CPU quota and
//! the cgroup's memory limit (v1 and v2) are respected, so that a container with two CPUs on a large
//! machine gets two workers.
//!
//! `unsafe` is confined to `affinity` (two system calls) and `memory` (one).

mod affinity;
mod backend;
mod cgroup;
#[doc(hidden)]
pub mod conformance;
mod copy;
mod cuda;
mod error;
mod files;
mod heap;
mod host;
mod machine;
mod memory;
mod options;
mod queue;
mod sim;
mod topology;

pub use affinity::bind_current_thread;
pub use backend::{
    Backend, Block, Callback, Copy, Device, DeviceKey, Event, Place, Reclaim, Stream,
};
pub use cuda::{CudaBackend, CudaOptions};
pub use error::DeviceError;
pub use host::{CpuArchitecture, HostBackend, HostDevice, HostOptions, MAX_WORKERS};
pub use machine::{Machine, Part};
pub use memory::available_memory;
pub use options::{Gpus, MachineOptions};
pub use sim::{
    Fault, FaultKind, MAX_SIM_GPUS, SIM_FILL, SimBackend, SimDevice, SimLinks, SimOptions,
};
pub use topology::{Core, NumaNode, Source, Topology};
