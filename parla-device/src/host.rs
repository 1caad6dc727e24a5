//! The host backend: this machine's CPUs as devices.

use std::sync::Arc;
use std::time::Duration;

use crate::backend::{Backend, Block, Copy, Device, Event, Stream};
use crate::error::DeviceError;
use crate::heap::Account;
use crate::memory::available_memory;
use crate::queue::{Engines, Lane, Operation, Queues, Work};
use crate::topology::{Core, Topology};

pub(crate) mod options;

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
    account: Arc<Account>,
    queues: Arc<Queues>,
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
        let name = |index| format!("cpu:{index}");
        // Streams of the host have no engines: each goes on as fast as a thread can.
        let queues = Queues::new("cpu", (0..n_devices).map(name).collect(), 0);
        let queues = Arc::new(queues);
        let device = |(index, position): (u32, usize)| HostDevice {
            index,
            name: name(position),
            account: Account::new(&name(position), share),
            queues: Arc::clone(&queues),
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
        self.account.used()
    }

    fn host_access(&self) -> bool {
        true
    }

    fn stream_ordered(&self) -> bool {
        false
    }

    fn allocate(&self, bytes: u64) -> Result<Arc<Block>, DeviceError> {
        self.account.allocate(bytes, None)
    }

    fn stream(&self) -> Result<Arc<dyn Stream>, DeviceError> {
        let lane = self.queues.open(self.index as usize)?;
        Ok(Arc::new(HostStream(lane)))
    }

    fn failure(&self) -> Option<DeviceError> {
        self.queues.failure(self.index as usize)
    }
}

/// A stream of the host: a thread does what is on it, one after the other.
#[derive(Debug)]
struct HostStream(Lane);

impl HostStream {
    fn push(&self, work: Work) -> Result<(), DeviceError> {
        self.0.push(Operation {
            work,
            engines: Engines::new(),
            busy: Duration::ZERO,
            loses: None,
        })
    }
}

impl Stream for HostStream {
    fn copy(&self, copy: Copy) -> Result<(), DeviceError> {
        for place in [&copy.source, &copy.destination] {
            if let Some((architecture, index)) = place.device.filter(|key| key.0 != "cpu") {
                return Err(DeviceError::Driver {
                    device: self.0.device_name().to_owned(),
                    call: "copy",
                    reason: format!(
                        "copies to and from {architecture}:{index} belong on a stream of that device"
                    ),
                });
            }
        }
        self.push(Work::Copy(Box::new(copy)))
    }

    fn launch(&self, kernel: Box<dyn FnOnce() + Send>, _busy_ns: u64) -> Result<(), DeviceError> {
        self.push(Work::Kernel(kernel))
    }

    fn record(&self) -> Result<Arc<dyn Event>, DeviceError> {
        self.0.record()
    }

    fn wait(&self, event: &Arc<dyn Event>) -> Result<(), DeviceError> {
        self.0.wait(event)
    }

    fn is_idle(&self) -> Result<bool, DeviceError> {
        self.0.is_idle()
    }
}

#[cfg(test)]
mod tests;
