//! Memory set aside for the program: what users allocate themselves and keep over tasks.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use parla_core::{DeviceId, MachineModel, MemoryId};

use super::Store;
use super::home::wait;
use super::queue::After;
use crate::DataError;
use crate::op::Op;

/// Bytes of a device's memory that neither arrays nor claims of tasks can have, until this is dropped.
#[derive(Debug)]
pub struct Held {
    store: Weak<Store>,
    memory: MemoryId,
    bytes: u64,
}

impl Held {
    /// How many.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(store) = self.store.upgrade() {
            let held = &store.memory(self.memory).held;
            held.fetch_sub(self.bytes, Ordering::SeqCst);
            store.given_back();
        }
    }
}

impl Store {
    /// Bytes of a device's memory that are set aside; of the host's memory none ever are.
    #[must_use]
    pub fn held(&self, device: DeviceId) -> u64 {
        let memory = self.memory(self.model().memory_of(device));
        memory.held.load(Ordering::SeqCst)
    }

    /// Sets bytes of a device's memory aside. Copies of arrays that nobody uses are given up for them, those that are nowhere else after they were
    /// written back; blocks for as long as that takes, but not until somebody ends who uses the rest.
    ///
    /// # Errors
    /// [`DataError::Reserved`]: there are not so many; what a device says of a copy that was to be written back.
    ///
    /// # Panics
    /// For the memory of the host: its arrays are the user's own, the store has no account of it.
    pub fn set_aside(self: &Arc<Self>, device: DeviceId, bytes: u64) -> Result<Held, DataError> {
        let id = self.model().memory_of(device);
        assert!(
            id != MachineModel::HOST,
            "the host's memory has no account here"
        );
        let memory = self.memory(id);
        loop {
            let mut after = After::default();
            let tried = {
                // Who holds it decides about memory.
                let _queue = self.queue.lock();
                let held = memory.held.load(Ordering::SeqCst);
                if bytes > memory.capacity.saturating_sub(held) {
                    Ok(false)
                } else {
                    let room = self.make_room(id, bytes, &mut after);
                    if let Ok(true) = room {
                        memory.held.fetch_add(bytes, Ordering::SeqCst);
                    }
                    room
                }
            };
            let mut moving = after.ops.clone();
            after.run();
            self.pump_on();
            if tried? {
                // Requests that wait may have become impossible.
                self.given_back();
                return Ok(Held {
                    store: Arc::downgrade(self),
                    memory: id,
                    bytes,
                });
            }
            moving.extend(self.leaving(id));
            if moving.is_empty() {
                return Err(self.no_room(id, bytes));
            }
            let moving: Vec<_> = moving.into_iter().map(|op| (op, false)).collect();
            wait(&moving)?;
        }
    }

    /// What is outstanding on instances that no task uses any more.
    fn leaving(&self, memory: MemoryId) -> Vec<Arc<Op>> {
        let held = self.memory(memory).held.load(Ordering::SeqCst);
        if held >= self.memory(memory).capacity {
            return Vec::new();
        }
        let mut ops = Vec::new();
        let arrays = self.arrays_here();
        for array in &arrays {
            let state = array.state.lock();
            let unused = (state.instances.iter())
                .filter(|i| i.memory == memory && i.is_of(&self.me) && i.pins == 0);
            let outstanding = unused.flat_map(|instance| &instance.outstanding);
            ops.extend(outstanding.map(|o| Arc::clone(&o.op)));
        }
        ops
    }

    fn no_room(&self, id: MemoryId, requested: u64) -> DataError {
        let memory = self.memory(id);
        let held = memory.held.load(Ordering::SeqCst);
        let in_use = memory.capacity.saturating_sub(held + memory.free());
        DataError::Reserved {
            memory: memory.name.clone(),
            requested,
            held,
            in_use,
            capacity: memory.capacity,
        }
    }
}
