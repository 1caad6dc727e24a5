//! Names for tasks and devices: small copyable newtypes.

use std::fmt;

/// Names one task of one [`TaskGraph`](crate::TaskGraph).
///
/// The slot of a finished task is used again; the generation tells the old task from the new one, so an id never
/// comes to mean another task. An id whose generation has passed names a task that finished without error.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TaskId {
    generation: u32,
    index: u32,
}

/// Generations use 31 bits, so that an edge can carry its kind in the remaining one.
pub(crate) const GENERATION_MASK: u32 = u32::MAX >> 1;

impl TaskId {
    pub(crate) fn new(index: u32, generation: u32) -> Self {
        debug_assert!(generation <= GENERATION_MASK);
        Self { generation, index }
    }

    pub(crate) fn index(self) -> u32 {
        self.index
    }

    pub(crate) fn generation(self) -> u32 {
        self.generation
    }

    /// The id as one number, unique within its graph (traces and foreign handles use it).
    #[must_use]
    pub fn as_u64(self) -> u64 {
        (u64::from(self.generation) << 32) | u64::from(self.index)
    }

    /// The inverse of [`as_u64`](Self::as_u64).
    #[must_use]
    pub fn from_u64(bits: u64) -> Self {
        let generation =
            u32::try_from((bits >> 32) & u64::from(GENERATION_MASK)).unwrap_or(GENERATION_MASK);
        let index = u32::try_from(bits & u64::from(u32::MAX)).unwrap_or(u32::MAX);
        Self { generation, index }
    }
}

impl fmt::Debug for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "task {}.{}", self.index, self.generation)
    }
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// Names one device of a machine, counted from 0 over all architectures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeviceId(pub u32);

/// Names one memory of a machine; 0 is that of the host. A machine has at most 64.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MemoryId(pub u32);
