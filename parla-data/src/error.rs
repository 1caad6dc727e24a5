//! What can go wrong with data.

use parla_core::Region;
use parla_device::DeviceError;

/// Why data is not where it is wanted.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// A device failed.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The operands of one task are larger than the memory.
    #[error(
        "the operands and the memory reserved beside them need {needed} bytes in the memory of {memory} at the same time, which has {capacity} in all"
    )]
    TooLarge {
        /// The memory's name.
        memory: String,
        /// Bytes for all operands of the task there.
        needed: u64,
        /// Bytes there are.
        capacity: u64,
    },
    /// Memory is full of what is in use, and nothing is going to be given back.
    #[error(
        "{memory} is out of memory: {requested} bytes requested, {free} free of {capacity}, the rest is in use"
    )]
    OutOfMemory {
        /// The memory's name.
        memory: String,
        /// Bytes asked for.
        requested: u64,
        /// Bytes free.
        free: u64,
        /// Bytes there are.
        capacity: u64,
    },
    /// Memory is set aside for the program's own use, or should have been, and there is too little.
    #[error(
        "{memory} has no room for {requested} bytes: {held} bytes are reserved and {in_use} in use, of {capacity} in all"
    )]
    Reserved {
        /// The memory's name.
        memory: String,
        /// Bytes asked for.
        requested: u64,
        /// Bytes set aside before.
        held: u64,
        /// Bytes that tasks use and nobody can give up now.
        in_use: u64,
        /// Bytes there are.
        capacity: u64,
    },
    /// An array whose home must not be changed was to be written.
    #[error("{array} is read-only: it can be an input, not an output")]
    ReadOnly {
        /// The array's name.
        array: String,
    },
    /// Two devices of one task were to write the same elements, or boxes around their elements that overlap.
    #[error("{array}{region} is written on two devices by the same task")]
    WrittenTwice {
        /// The array's name.
        array: String,
        /// Where the two overlap.
        region: Region,
    },
    /// Nobody knows these elements any more: who wrote them last failed half-way, or the device that had them is lost.
    #[error("{array}{region} has no valid contents: {because}")]
    Invalid {
        /// The array's name.
        array: String,
        /// Which part.
        region: Region,
        /// What happened to it.
        because: String,
    },
}
