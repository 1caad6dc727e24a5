//! The host backend: this machine's CPUs as devices.

use std::sync::Arc;

use crate::backend::{Backend, Block, Device, Stream};
use crate::error::DeviceError;
use crate::memory::available_memory;
use crate::topology::{Core, Topology};

mod options;

pub use options::{CpuArchitecture, HostOptions, MAX_WORKERS};

/// The CPUs of this machine: one device with all workers, or one device per worker.
#[derive(Debug)]
pub struct HostBackend {
    // devices[i].index == i
    devices: Vec<Arc<HostDevice>>,
}

/// A CPU device: a number of workers on some cores, and a share of the host's memory.
#[derive(Debug, Clone)]
pub struct HostDevice {
    index: u32,
    name: String,
    n_workers: usize,
    // Never empty.
    cores: Vec<Core>,
    memory: u64,
}

impl HostBackend {
    /// Finds the devices of the machine that this process runs on.
    ///
    /// # Errors
    ///
    /// As [`HostBackend::new`], and [`DeviceError::UnknownMemory`] when neither the system nor the options
    /// say how much memory there is.
    pub fn probe(options: &HostOptions) -> Result<Self, DeviceError> {
        let memory = options.memory.map_or_else(available_memory, Ok)?;
        Self::new(options, &Topology::detect(), memory)
    }

    /// The devices of the machine `topology` with `available_memory` bytes, as `options` has them.
    ///
    /// `options.cores` bounds the cores that are used and so the workers, which are otherwise
    /// [`Topology::default_workers`]; `options.workers` sets the workers exactly, and more of them than
    /// cores share the cores. `options.memory` replaces `available_memory`.
    ///
    /// # Errors
    ///
    /// When the options ask for no workers or more than [`MAX_WORKERS`], for no cores, or for memory that
    /// is less than a byte per device.
    pub fn new(
        options: &HostOptions,
        topology: &Topology,
        available_memory: u64,
    ) -> Result<Self, DeviceError> {
        let mut cores = topology.usable_cores();
        let mut default_workers = topology.default_workers();
        if let Some(n_cores) = options.cores {
            if n_cores == 0 {
                return Err(DeviceError::NoCores);
            }
            cores.truncate(n_cores);
            default_workers = default_workers.min(n_cores);
        }
        let n_workers = options.workers.unwrap_or(default_workers.min(MAX_WORKERS));
        if !(1..=MAX_WORKERS).contains(&n_workers) {
            return Err(DeviceError::WorkerCount {
                requested: n_workers,
                max: MAX_WORKERS,
            });
        }

        let n_devices = match options.architecture {
            CpuArchitecture::Whole => 1,
            CpuArchitecture::Cores => n_workers,
        };
        let memory = options.memory.unwrap_or(available_memory);
        let share = memory / n_devices as u64;
        if share == 0 {
            return Err(DeviceError::NoMemory { memory, n_devices });
        }
        let device = |(index, position): (u32, usize)| HostDevice {
            index,
            name: format!("cpu:{index}"),
            n_workers: n_workers / n_devices,
            cores: match options.architecture {
                CpuArchitecture::Whole => cores.clone(),
                CpuArchitecture::Cores => vec![cores[position % cores.len()].clone()],
            },
            memory: share,
        };
        Ok(Self {
            devices: (0_u32..)
                .zip(0..n_devices)
                .map(device)
                .map(Arc::new)
                .collect(),
        })
    }

    /// The devices, as what they are.
    #[must_use]
    pub fn host_devices(&self) -> &[Arc<HostDevice>] {
        &self.devices
    }

    /// The workers of all devices together.
    #[must_use]
    pub fn n_workers(&self) -> usize {
        self.devices.iter().map(|device| device.n_workers).sum()
    }
}

impl Backend for HostBackend {
    fn architecture(&self) -> &'static str {
        "cpu"
    }

    fn devices(&self) -> Vec<Arc<dyn Device>> {
        self.devices
            .iter()
            .map(|device| Arc::clone(device) as Arc<dyn Device>)
            .collect()
    }
}

impl HostDevice {
    /// The number of workers that run this device's tasks, at least 1.
    #[must_use]
    pub fn n_workers(&self) -> usize {
        self.n_workers
    }

    /// The cores that its workers run on, at least one.
    #[must_use]
    pub fn cores(&self) -> &[Core] {
        &self.cores
    }

    /// The core for the worker numbered `worker` on this device: neighbouring workers on neighbouring
    /// cores, round and round when there are more workers than cores.
    #[must_use]
    pub fn core_of_worker(&self, worker: usize) -> &Core {
        &self.cores[worker % self.cores.len()]
    }
}

impl Device for HostDevice {
    fn index(&self) -> u32 {
        self.index
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn memory_capacity(&self) -> u64 {
        self.memory
    }

    fn memory_used(&self) -> u64 {
        0
    }

    fn host_access(&self) -> bool {
        true
    }

    fn stream_ordered(&self) -> bool {
        false
    }

    fn allocate(&self, bytes: u64) -> Result<Arc<Block>, DeviceError> {
        Err(self.not_yet("allocate", bytes))
    }

    fn stream(&self) -> Result<Arc<dyn Stream>, DeviceError> {
        Err(self.not_yet("stream", 0))
    }
}

impl HostDevice {
    fn not_yet(&self, call: &'static str, _bytes: u64) -> DeviceError {
        DeviceError::Driver {
            device: self.name.clone(),
            call,
            reason: "not built yet".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests;
