//! Where arrays are: allocation, copies, eviction.

use std::sync::Arc;

use parla_core::{DeviceId, MemoryId, Region};
use parla_device::{Event, Machine, Place};

use crate::{Array, DataError, Operand};

/// What is called when operands are in place, or cannot be brought there.
pub type StagedCallback = Box<dyn FnOnce(Result<Staged, DataError>) + Send>;

/// The memories of one machine and what arrays have in them. One per runtime.
#[derive(Debug)]
pub struct Store {
    machine: Arc<Machine>,
}

/// How a body ended, for the data it used.
#[derive(Clone, Debug)]
pub enum Ended {
    /// Well; what it put on its device's streams is done when these events are (none: it is done now).
    Well(Vec<Arc<dyn Event>>),
    /// It failed: what it was to write is valid nowhere, for this reason.
    Badly(String),
    /// It never started: nothing has changed.
    NotBegun,
}

/// What happened in one memory since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemoryStats {
    /// Bytes that copies of arrays take now.
    pub used: u64,
    /// The most they took.
    pub peak: u64,
    /// Copies given up to make room, clean and written back.
    pub evictions: u64,
    /// Bytes copied into this memory, by the memory they came from.
    pub bytes_from: Vec<u64>,
    /// Copies into this memory.
    pub n_copies: u64,
}

/// What happened since the start, by memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoreStats {
    /// By [`MemoryId`].
    pub memories: Vec<MemoryStats>,
}

impl Store {
    /// For the memories of this machine. Makes streams when they are first needed.
    #[must_use]
    pub fn new(machine: Arc<Machine>) -> Arc<Self> {
        Arc::new(Self { machine })
    }

    /// The machine.
    #[must_use]
    pub fn machine(&self) -> &Arc<Machine> {
        &self.machine
    }

    /// Whether the operands of one task can ever be on these devices (one per slot) together with `extra` reserved bytes each.
    ///
    /// # Errors
    /// [`DataError::TooLarge`].
    pub fn check_fits(
        &self,
        _operands: &[Operand],
        _devices: &[DeviceId],
        _extra: u64,
    ) -> Result<(), DataError> {
        todo!()
    }

    /// Bytes that would have to be copied for these operands to be on these devices: what a policy weighs.
    #[must_use]
    pub fn missing_bytes(&self, _operands: &[Operand], _devices: &[DeviceId]) -> u64 {
        todo!()
    }

    /// Nanoseconds that those copies take on idle links, one after another per destination.
    #[must_use]
    pub fn missing_ns(&self, _operands: &[Operand], _devices: &[DeviceId]) -> u64 {
        todo!()
    }

    /// Stages without a copy, an allocation or a wait, if none is needed: the fast path.
    #[must_use]
    pub fn try_stage(
        self: &Arc<Self>,
        _operands: &Arc<[Operand]>,
        _devices: &[DeviceId],
    ) -> Option<Staged> {
        todo!()
    }

    /// Brings the operands to the devices (one per slot) and reserves `extra` bytes in the memory of each. `done` is called, on any thread and possibly
    /// before this returns, when they can be used: on [stream-ordered](parla_device::Device::stream_ordered) devices once the copies are
    /// enqueued, on others once they are done.
    ///
    /// All memory of a task is reserved at once, evicting what has not been used for longest; if that is not enough, the request waits until
    /// others give something back, first come first served. It fails only if nothing is in use that could be.
    pub fn stage(
        self: &Arc<Self>,
        _operands: Arc<[Operand]>,
        _devices: &[DeviceId],
        _extra: u64,
        _done: StagedCallback,
    ) {
        todo!()
    }

    /// Begins to copy what is missing of one operand to a device, if there is free memory for it. Only a hint: correctness never depends on it.
    /// Returns the number of bytes on their way.
    pub fn prefetch(self: &Arc<Self>, _operand: &Operand, _device: DeviceId) -> u64 {
        todo!()
    }

    /// Blocks until the home of an array has the newest contents of `region`. If `write`, it is about to be changed there: no other copy stays valid.
    ///
    /// # Errors
    /// [`DataError::Invalid`] unless `write`; what a device says.
    pub fn to_host(
        self: &Arc<Self>,
        _array: &Array,
        _region: &Region,
        _write: bool,
    ) -> Result<(), DataError> {
        todo!()
    }

    /// Blocks until an array's copies in `memory` are gone; what is newest there goes home first. In the host's memory that means: nothing but to be
    /// current elsewhere, if `keep_one` is false and no other copy exists this is an error of the caller that is ignored.
    ///
    /// # Errors
    /// What a device says.
    pub fn evict(self: &Arc<Self>, _array: &Array, _memory: MemoryId) -> Result<(), DataError> {
        todo!()
    }

    /// Blocks until an array is at home and nowhere else.
    ///
    /// # Errors
    /// What a device says; the array is at home as far as that was possible, the rest is invalid.
    pub fn flush(self: &Arc<Self>, _array: &Array) -> Result<(), DataError> {
        todo!()
    }

    /// Flushes every array. Called when the runtime ends.
    ///
    /// # Errors
    /// The first error of each array.
    pub fn close(self: &Arc<Self>) -> Result<(), Vec<DataError>> {
        todo!()
    }

    /// Counts since the start.
    #[must_use]
    pub fn stats(&self) -> StoreStats {
        todo!()
    }
}

/// Operands in place. They stay there until this is [ended](Staged::end) (or dropped: as [`Ended::NotBegun`]).
#[derive(Debug)]
pub struct Staged {}

impl Staged {
    /// For each operand, where the first element of its region is on its device, with the strides there.
    #[must_use]
    pub fn places(&self) -> &[Place] {
        todo!()
    }

    /// What the body's streams have to wait for: copies under way to a stream-ordered device; by slot.
    #[must_use]
    pub fn events(&self) -> &[(usize, Arc<dyn Event>)] {
        todo!()
    }

    /// The body is about to start: from now on what it writes is newest on its device, and nowhere else.
    pub fn begin(&mut self) {
        todo!()
    }

    /// The body has ended.
    pub fn end(self, _how: Ended) {
        todo!()
    }
}
