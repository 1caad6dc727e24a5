//! What can go wrong between the runtime and a device.

use std::io;
use std::sync::Arc;

/// An error of a device, of its configuration, or of the machine below it.
/// Clonable: one loss of a device is reported to everybody who waits for it.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// An environment variable has a value that means nothing.
    #[error("environment variable {name} is {value:?}, expected {allowed}")]
    BadVariable {
        /// The variable's name.
        name: &'static str,
        /// What it was set to.
        value: String,
        /// What it may be set to, in words.
        allowed: &'static str,
    },

    /// A number of workers that no runtime can be made of.
    #[error("{requested} workers were requested, expected 1 to {max}")]
    WorkerCount {
        /// The number asked for.
        requested: usize,
        /// The largest number allowed.
        max: usize,
    },

    /// A limit of zero cores, which leaves nothing to run on.
    #[error("the cores to use are limited to 0, expected at least 1")]
    NoCores,

    /// The memory is too small to give every device at least one byte.
    #[error("{memory} bytes of host memory cannot be shared by {n_devices} devices")]
    NoMemory {
        /// The bytes to share.
        memory: u64,
        /// The devices sharing it.
        n_devices: usize,
    },

    /// Neither the system nor the user said how much memory there is.
    #[error(
        "the size of this machine's memory cannot be read: set PARLA_CPU_MEM to a number of bytes"
    )]
    UnknownMemory,

    /// The operating system refused to bind the thread.
    #[error("cannot bind the current thread to core {core} (PUs {pus:?}): {reason}")]
    Bind {
        /// The core's index in its topology.
        core: u32,
        /// The OS indices of the core's PUs.
        pus: Vec<u32>,
        /// What the operating system said.
        #[source]
        reason: Arc<io::Error>,
    },

    /// The memory of a device is used up.
    #[error("{device} is out of memory: {requested} bytes requested, {free} free of {total}")]
    OutOfMemory {
        /// The device's name.
        device: String,
        /// Bytes asked for.
        requested: u64,
        /// Bytes free, all pieces together.
        free: u64,
        /// Bytes there are.
        total: u64,
    },

    /// The device cannot be used any more in this process.
    #[error("{device} is lost: {reason}")]
    Lost {
        /// The device's name.
        device: String,
        /// The error that made it so.
        reason: String,
    },

    /// The driver refused a call; the device can still be used.
    #[error("{device}: {call} failed: {reason}")]
    Driver {
        /// The device's name.
        device: String,
        /// What was asked of it.
        call: &'static str,
        /// The driver's name of the error and what it says.
        reason: String,
    },

    /// Simulated GPUs that cannot be made.
    #[error("simulated GPUs: {problem}")]
    SimulatedGpus {
        /// What is wrong with what was asked for.
        problem: String,
    },

    /// A file that describes devices cannot be used.
    #[error("device file {path}: {problem}")]
    DeviceFile {
        /// The file.
        path: String,
        /// What is wrong with it, with the line where that is known.
        problem: String,
    },
}
