//! All devices of this process, of every backend, with the model of how they are linked.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use parla_core::{DeviceId, DeviceModel, Link, MachineModel, MemoryId, MemoryModel};

use crate::backend::{Backend, Device, DeviceKey};
use crate::cuda::CudaBackend;
use crate::error::DeviceError;
use crate::host::HostBackend;
use crate::options::{Gpus, LinkFile, MachineOptions};
use crate::sim::SimBackend;

/// The devices of all backends behind one numbering.
#[derive(Clone, Debug)]
pub struct Machine {
    model: Arc<MachineModel>,
    // By DeviceId.
    devices: Vec<Arc<dyn Device>>,
    // By DeviceId.
    keys: Vec<DeviceKey>,
    no_gpu: Option<String>,
    sim: Option<Arc<SimBackend>>,
    link_file: Option<PathBuf>,
    links_are_measured: bool,
}

const SIMULATE: &str = "set PARLA_SIM_GPUS=2 to simulate two";

/// What a machine is assembled from, for one backend.
#[derive(Debug)]
pub struct Part<'a> {
    /// The backend.
    pub backend: &'a dyn Backend,
    /// Workers of each of its devices.
    pub n_workers: &'a [u32],
    /// Whether all its devices share the host's memory (CPUs), or have one each.
    pub in_host_memory: bool,
}

impl Machine {
    /// Numbers the devices of `parts`, in this order; the first part is the host's. `link` says what a copy between two memories costs.
    ///
    /// # Panics
    /// When the first part is not in the host's memory, or there are more than 64 memories.
    #[must_use]
    pub fn assemble(parts: &[Part<'_>], link: impl Fn(MemoryId, MemoryId) -> Link) -> Self {
        assert!(
            parts.first().is_some_and(|part| part.in_host_memory),
            "memory 0 is the host's"
        );
        let mut model = MachineModel::default();
        let mut devices = Vec::new();
        let mut keys = Vec::new();
        for part in parts {
            for (i, device) in part.backend.devices().into_iter().enumerate() {
                let next = u32::try_from(model.memories.len()).unwrap_or(u32::MAX);
                let memory = if part.in_host_memory {
                    MachineModel::HOST
                } else {
                    MemoryId(next)
                };
                if memory.0 == next {
                    let name = if part.in_host_memory {
                        "host"
                    } else {
                        device.name()
                    };
                    model.memories.push(MemoryModel {
                        name: name.to_owned(),
                        capacity: device.memory_capacity(),
                    });
                } else {
                    model.memories[memory.0 as usize].capacity += device.memory_capacity();
                }
                model.devices.push(DeviceModel {
                    architecture: part.backend.architecture().to_owned(),
                    index: device.index(),
                    name: device.name().to_owned(),
                    memory,
                    n_workers: part.n_workers.get(i).copied().unwrap_or(1),
                    exclusive: !part.in_host_memory,
                });
                keys.push((part.backend.architecture(), device.index()));
                devices.push(device);
            }
        }
        let n = u32::try_from(model.memories.len()).unwrap_or(u32::MAX);
        assert!(n <= 64, "a machine has at most 64 memories, not {n}");
        model.links = (0..n)
            .map(|from| {
                (0..n)
                    .map(|to| link(MemoryId(from), MemoryId(to)))
                    .collect()
            })
            .collect();
        Self {
            model: Arc::new(model),
            devices,
            keys,
            no_gpu: None,
            sim: None,
            link_file: None,
            links_are_measured: false,
        }
    }

    /// The devices of this process: its CPUs, and GPUs, which are simulated if the options say so, else those that are found.
    ///
    /// # Errors
    /// Options that cannot be met. That no GPU is found is none: [`unavailable`](Self::unavailable) says why.
    pub fn probe(options: &MachineOptions) -> Result<Self, DeviceError> {
        let host = HostBackend::probe(&options.host)?;
        let workers =
            |device: &Arc<crate::HostDevice>| u32::try_from(device.n_workers()).unwrap_or(u32::MAX);
        let workers: Vec<u32> = host.host_devices().iter().map(workers).collect();
        let cpus = Part {
            backend: &host,
            n_workers: &workers,
            in_host_memory: true,
        };
        match &options.gpus {
            Gpus::Simulated(options) => {
                let sim = Arc::new(SimBackend::new(options)?);
                let gpus = Part {
                    backend: &*sim,
                    n_workers: &[],
                    in_host_memory: false,
                };
                let link = |from: MemoryId, to: MemoryId| {
                    // Memory 0 is the host's, each GPU has the next.
                    options
                        .links
                        .between(from.0.checked_sub(1), to.0.checked_sub(1))
                };
                let mut machine = Self::assemble(&[cpus, gpus], link);
                machine.no_gpu = sim.unavailable();
                machine.sim = Some(sim);
                Ok(machine)
            }
            Gpus::Real => {
                let cuda = CudaBackend::probe(&options.cuda);
                let gpus = Part {
                    backend: &cuda,
                    n_workers: &[],
                    in_host_memory: false,
                };
                let link = |from: MemoryId, to: MemoryId| {
                    cuda.link(from.0.checked_sub(1), to.0.checked_sub(1))
                };
                let mut machine = Self::assemble(&[cpus, gpus], link);
                machine.no_gpu = cuda.unavailable().map(|why| format!("{why}; {SIMULATE}"));
                let Some(LinkFile { path, named }) = &options.link_file else {
                    return Ok(machine);
                };
                machine.link_file = Some(path.clone());
                match machine.load_links(path) {
                    Err(error) if *named => Err(error),
                    Ok(Some(measured)) => Ok(measured),
                    _ => Ok(machine),
                }
            }
        }
    }

    /// Why there are no devices of an architecture, for people; `None` if there are some.
    #[must_use]
    pub fn unavailable(&self, architecture: &str) -> Option<String> {
        let devices = &self.model.devices;
        if devices.iter().any(|d| d.architecture == architecture) {
            return None;
        }
        match (architecture, &self.no_gpu) {
            ("gpu", Some(reason)) => Some(reason.clone()),
            _ => Some(format!("this machine has no devices called {architecture}")),
        }
    }

    /// The simulated GPUs, to inject faults, if that is what this machine has.
    #[must_use]
    pub fn sim(&self) -> Option<&Arc<SimBackend>> {
        self.sim.as_ref()
    }

    /// Where the links of this machine are kept once they are measured; `None`: nowhere (simulated GPUs have those that they are given).
    #[must_use]
    pub fn link_file(&self) -> Option<&Path> {
        self.link_file.as_deref()
    }

    /// Whether the links are measured ones.
    #[must_use]
    pub fn links_are_measured(&self) -> bool {
        self.links_are_measured
    }

    pub(crate) fn set_links(&mut self, links: Vec<Vec<Link>>) {
        self.change_model(|model| model.links = links);
        self.links_are_measured = true;
    }

    /// Nobody has the model yet, or gets another one.
    pub(crate) fn change_model(&mut self, change: impl FnOnce(&mut MachineModel)) {
        change(Arc::make_mut(&mut self.model));
    }

    /// Devices, memories and links as data.
    #[must_use]
    pub fn model(&self) -> &Arc<MachineModel> {
        &self.model
    }

    /// A device.
    ///
    /// # Panics
    /// When there is no such device.
    #[must_use]
    pub fn device(&self, id: DeviceId) -> &Arc<dyn Device> {
        &self.devices[id.0 as usize]
    }

    /// The device that owns a memory; for the host's, the first CPU.
    ///
    /// # Panics
    /// When there is no such memory.
    #[must_use]
    pub fn owner(&self, memory: MemoryId) -> DeviceId {
        let owned = |id: &DeviceId| self.model.memory_of(*id) == memory;
        self.model
            .device_ids()
            .find(owned)
            .expect("every memory was made for a device")
    }

    /// How backends tell the owner of a memory; `None` for the host's.
    #[must_use]
    pub fn key(&self, memory: MemoryId) -> Option<DeviceKey> {
        (memory != MachineModel::HOST).then(|| self.keys[self.owner(memory).0 as usize])
    }

    /// The device with this architecture and index.
    #[must_use]
    pub fn find(&self, architecture: &str, index: u32) -> Option<DeviceId> {
        let wanted = |id: &DeviceId| {
            let device = self.model.device(*id);
            device.architecture == architecture && device.index == index
        };
        self.model.device_ids().find(wanted)
    }
}

#[cfg(test)]
mod tests;
