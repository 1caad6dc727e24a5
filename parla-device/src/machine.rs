//! All devices of this process, of every backend, with the model of how they are linked.

use std::sync::Arc;

use parla_core::{DeviceId, DeviceModel, Link, MachineModel, MemoryId, MemoryModel};

use crate::backend::{Backend, Device, DeviceKey};

/// The devices of all backends behind one numbering.
#[derive(Debug)]
pub struct Machine {
    model: Arc<MachineModel>,
    // By DeviceId.
    devices: Vec<Arc<dyn Device>>,
    // By DeviceId.
    keys: Vec<DeviceKey>,
}

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
        }
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
