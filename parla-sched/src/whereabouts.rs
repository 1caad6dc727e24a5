//! What a task that claims something, or was placed, is doing or waiting for when no worker runs its body.

use parla_core::{Region, TaskId, Vcus};

/// Where a placed task is between the end of its last dependency and its own, unless its body runs or waits for others.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Whereabouts {
    /// The policy has given it no device yet.
    Unplaced(Vec<Shortage>),
    /// It runs on the CPU, which has not enough left of what it claims.
    Unadmitted(Vec<Shortage>),
    /// Its data is being brought to its devices, or waits to be.
    Staging {
        /// Their names.
        devices: Vec<String>,
        /// Arrays of which something is not there.
        n_arrays: usize,
        /// Bytes that are not there.
        bytes: u64,
        /// Why they cannot be.
        waits: Vec<Shortage>,
    },
    /// Its data is in place; it waits for compute units, or a worker.
    Placed {
        /// The names of its devices.
        devices: Vec<String>,
        /// The units that are not free.
        waits: Vec<Shortage>,
    },
    /// Its body is over and its devices are at work.
    Draining {
        /// Their names.
        devices: Vec<String>,
    },
}

/// Something that a task cannot have, and the first of those who have it.
#[derive(Clone, Debug, PartialEq)]
pub struct Shortage {
    /// What.
    pub of: Resource,
    /// Tasks that have it, with bytes of memory where that is what is short.
    pub held_by: Vec<(TaskId, u64)>,
}

/// What there may be too little of.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Resource {
    /// Memory of a device.
    Memory {
        /// The device's name.
        device: String,
        /// Bytes wanted.
        requested: u64,
        /// Bytes that nobody has.
        free: u64,
        /// Bytes that the program has set aside for itself.
        reserved: u64,
        /// Bytes there are.
        capacity: u64,
    },
    /// Compute units of a device.
    Units {
        /// The device's name.
        device: String,
        /// How many are wanted.
        requested: Vcus,
        /// How many nobody has.
        free: Vcus,
    },
    /// A place among the tasks that a device has in preparation.
    Place {
        /// The device's name.
        device: String,
    },
    /// A part of an array that others use and that is to be written, by them or by this one.
    Data {
        /// The array's name.
        array: String,
        /// The part that both use.
        region: Region,
    },
}
