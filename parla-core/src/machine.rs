//! The machine as plain data: devices, memories, and the links between memories.

use crate::{DeviceId, MemoryId};

/// One device.
#[derive(Clone, Debug, PartialEq)]
pub struct DeviceModel {
    /// `cpu`, `gpu`: what users write in placements.
    pub architecture: String,
    /// Position among the devices of its architecture.
    pub index: u32,
    /// For people: `gpu:0`.
    pub name: String,
    /// The memory its tasks work in. CPU devices share one.
    pub memory: MemoryId,
    /// How many bodies it runs at the same time, each without a claim: the workers of a CPU device, 1 for a GPU.
    pub n_workers: u32,
    /// Whether tasks that state no `vcus` take the whole device (GPUs) or none of it (CPUs).
    pub exclusive: bool,
}

/// One memory.
#[derive(Clone, Debug, PartialEq)]
pub struct MemoryModel {
    /// For people: the name of the device that owns it, `host` for that of the CPUs.
    pub name: String,
    /// Bytes that tasks and arrays may use.
    pub capacity: u64,
}

/// What a copy from one memory to another costs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Link {
    /// Nanoseconds before the first byte.
    pub latency_ns: u64,
    /// Bytes per second once it runs.
    pub bytes_per_second: f64,
    /// `false`: there is no direct way, the bytes go through the host (the other numbers are those of the whole way).
    pub direct: bool,
}

impl Link {
    /// Nanoseconds that a copy of so many bytes takes on an idle link.
    #[must_use]
    pub fn transfer_ns(&self, bytes: u64) -> u64 {
        if bytes == 0 {
            return 0;
        }
        // Rounds towards zero; far beyond any real transfer it saturates.
        self.latency_ns
            .saturating_add((bytes as f64 / self.bytes_per_second * 1e9) as u64)
    }
}

/// The machine. `devices[i]` is the device with [`DeviceId`] `i`, likewise for memories; memory 0 is that of the host.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MachineModel {
    /// All devices, CPUs first.
    pub devices: Vec<DeviceModel>,
    /// All memories; at most 64.
    pub memories: Vec<MemoryModel>,
    /// `links[from][to]`; the entries from a memory to itself are copies inside it.
    pub links: Vec<Vec<Link>>,
}

impl MachineModel {
    /// The memory of the CPUs, where arrays come from.
    pub const HOST: MemoryId = MemoryId(0);

    /// The memory that a device's tasks work in.
    ///
    /// # Panics
    /// When there is no such device.
    #[must_use]
    pub fn memory_of(&self, device: DeviceId) -> MemoryId {
        self.device(device).memory
    }

    /// A device.
    ///
    /// # Panics
    /// When there is no such device.
    #[must_use]
    pub fn device(&self, device: DeviceId) -> &DeviceModel {
        &self.devices[device.0 as usize]
    }

    /// A device as users write it: `gpu(1)`.
    ///
    /// # Panics
    /// When there is no such device.
    #[must_use]
    pub fn device_text(&self, device: DeviceId) -> String {
        let model = self.device(device);
        format!("{}({})", model.architecture, model.index)
    }

    /// All ids of devices, in order.
    pub fn device_ids(&self) -> impl Iterator<Item = DeviceId> + use<> {
        (0..u32::try_from(self.devices.len()).unwrap_or(u32::MAX)).map(DeviceId)
    }

    /// The link between two memories.
    ///
    /// # Panics
    /// When there is no such memory.
    #[must_use]
    pub fn link(&self, from: MemoryId, to: MemoryId) -> &Link {
        &self.links[from.0 as usize][to.0 as usize]
    }
}
