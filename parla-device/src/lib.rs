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
//! * [`MachineOptions`] says what the user asked for, through `PARLA_*` environment variables or a YAML file; [`HostOptions`] is its part about the CPUs.
//! * [`Machine`] has all devices of the process behind one numbering, with a model of their memories and links.
//! * [`Backend`], [`Device`], [`Stream`], [`Event`] and [`Block`] are the contract that every kind of device keeps; the module
//!   `conformance` tests it on any of them ([`conformance!`]).
//! * [`HostBackend`] is this machine's CPUs, [`CudaBackend`] the GPUs of NVIDIA, [`SimBackend`] simulated ones.
//!
//! A program for several GPUs runs on a laptop:
//!
//! ```
//! use parla_device::{Machine, MachineOptions};
//!
//! let variables = |name: &str| (name == "PARLA_SIM_GPUS").then(|| "2".to_owned());
//! let machine = Machine::probe(&MachineOptions::from_env(variables)?)?;
//! let gpu = machine.device(machine.find("gpu", 1).expect("there are two"));
//! let block = gpu.allocate(1000)?;
//! assert_eq!((gpu.name(), gpu.memory_used()), ("gpu:1", 1000));
//! # drop(block);
//! # Ok::<(), parla_device::DeviceError>(())
//! ```
//!
//! **Limits of this process count, not those of the machine**: CPU affinity, the cgroup's CPU quota and
//! the cgroup's memory limit (v1 and v2) are respected, so that a container with two CPUs on a large
//! machine gets two workers.
//!
//! `unsafe` is confined to system calls (`affinity`, `memory`, one in `queue`), to CUDA's driver (`cuda`), to a profiler's library (`profiler`), to memory handed out (`heap`) and to copies of bytes (`copy`,
//! which checks that they stay inside their blocks).

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
mod links;
mod machine;
mod memory;
mod options;
mod profiler;
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
pub use links::Links;
pub use machine::{Machine, Part};
pub use memory::available_memory;
pub use options::{Gpus, LinkFile, MachineOptions};
pub use profiler::ProfilerRange;
pub use sim::{
    Fault, FaultKind, MAX_SIM_GPUS, SIM_FILL, SimBackend, SimDevice, SimLinks, SimOptions,
};
pub use topology::{Core, NumaNode, Source, Topology};
