//! Making room: the least recently used copies are given up, those that are nowhere else after they were written back.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use parla_core::MemoryId;
use parla_device::{Block, DeviceError};

use super::Store;
use super::queue::After;
use crate::DataError;
use crate::array::Shared;
use crate::directory::InstanceId;
use crate::op::Op;

/// An instance that could be given up.
struct Victim {
    // Those that hold nothing first, then by last use.
    order: (bool, u64),
    array: Arc<Shared>,
    id: InstanceId,
    bytes: u64,
}

impl Store {
    /// Whether there is room for so many bytes more; if not, begins to make some.
    pub(super) fn make_room(
        &self,
        id: MemoryId,
        bytes: u64,
        after: &mut After,
    ) -> Result<bool, DataError> {
        let free = self.memory(id).free();
        if bytes <= free {
            return Ok(true);
        }
        let freed = self.give_up(id, bytes - free, after)?;
        Ok(freed >= bytes - free)
    }

    /// Memory of the device, of which there should be enough. `None`: it said there is not, and there is nothing to give up at once.
    pub(super) fn allocate(
        &self,
        id: MemoryId,
        bytes: u64,
        after: &mut After,
    ) -> Result<Arc<Block>, Option<DataError>> {
        let device = self.machine.device(self.machine.owner(id));
        loop {
            match device.allocate(bytes) {
                Ok(block) => return Ok(block),
                Err(error @ DeviceError::OutOfMemory { .. }) => {
                    // Somebody else has some of what we count as ours.
                    after.refused = Some(error);
                    if self.give_up(id, 1, after).map_err(Some)? == 0 {
                        return Err(None);
                    }
                }
                Err(error) => return Err(Some(error.into())),
            }
        }
    }

    /// Gives up instances until `wanted` bytes are free or will be. Returns those that are free now.
    fn give_up(&self, memory: MemoryId, wanted: u64, after: &mut After) -> Result<u64, DataError> {
        if let Some(error) = self.memory(memory).trouble.lock().take() {
            return Err(error.into());
        }
        let mut victims = self.victims(memory, after);
        victims.sort_by_key(|victim| victim.order);
        let (mut freed, mut coming) = (0, 0);
        let mut first_error = None;
        for victim in &victims {
            if freed + coming >= wanted {
                break;
            }
            match self.give_up_one(memory, victim, &mut after.ops) {
                Ok(true) => freed += victim.bytes,
                Ok(false) => coming += victim.bytes,
                Err(error) => first_error = first_error.or(Some(error)),
            }
        }
        after.arrays.extend(victims.into_iter().map(|v| v.array));
        match first_error {
            Some(error) if freed + coming < wanted => Err(error),
            _ => Ok(freed),
        }
    }

    /// Whether it is gone now; if not, it will be clean, or free of outstanding work, after some time.
    fn give_up_one(
        &self,
        memory: MemoryId,
        victim: &Victim,
        ops: &mut Vec<Arc<Op>>,
    ) -> Result<bool, DataError> {
        let mut state = victim.array.state.lock();
        match state.get(victim.id) {
            Some(instance) if instance.is_idle() => {}
            _ => return Ok(false),
        }
        let sole = state.directory.sole(victim.id);
        if sole.is_empty() {
            let instance = state.take(victim.id, "it was given up");
            victim.array.update_host_only(&state);
            drop(state);
            self.memory(memory)
                .evictions
                .fetch_add(1, Ordering::Relaxed);
            // The device needs the memory now. Only its own block is dropped: nothing of a user.
            if let Some(instance) = instance {
                instance.release();
            }
            return Ok(true);
        }
        if state.must_stay(&sole) {
            return Ok(false);
        }
        let begun = ops.len();
        let fetches = sole
            .iter()
            .map(|region| self.fetch(&victim.array, &mut state, InstanceId::HOME, region, ops));
        let fetched = fetches.collect::<Result<Vec<_>, _>>();
        for op in &ops[begun..] {
            // Nobody watches it yet, so this is for later.
            let me = self.me.clone();
            op.then(Box::new(move |error| {
                if let (Some(error), Some(store)) = (error, me.upgrade()) {
                    *store.memory(memory).trouble.lock() = Some(error.clone());
                }
            }));
        }
        fetched.map(|_| false)
    }

    fn victims(&self, memory: MemoryId, after: &mut After) -> Vec<Victim> {
        let mut victims = Vec::new();
        for array in self.arrays_here() {
            let mut state = array.state.lock();
            self.purge_lost(&mut state);
            for instance in &state.instances {
                if instance.memory != memory || !instance.is_of(&self.me) || instance.pins > 0 {
                    continue;
                }
                let valid = state.directory.n_valid(instance.id, &instance.region) > 0;
                victims.push(Victim {
                    order: (valid, instance.stamp),
                    array: Arc::clone(&array),
                    id: instance.id,
                    bytes: instance.bytes,
                });
            }
            drop(state);
            after.arrays.push(array);
        }
        victims
    }

    /// Whether something in this memory is going to be given back without our doing.
    pub(super) fn is_in_use(&self, memory: MemoryId, after: &mut After) -> bool {
        let account = self.memory(memory);
        let mut in_use = account.reserved.load(Ordering::SeqCst) > 0;
        let mut bytes = 0;
        for array in self.arrays_here() {
            let state = array.state.lock();
            for instance in &state.instances {
                if instance.memory == memory && instance.is_of(&self.me) {
                    in_use |=
                        !instance.is_idle() || state.must_stay(&state.directory.sole(instance.id));
                    bytes += instance.bytes;
                }
            }
            drop(state);
            after.arrays.push(array);
        }
        // What was released but is still needed by work under way.
        in_use || account.used.load(Ordering::SeqCst) > bytes
    }

    /// The arrays that have instances here. They may not be dropped while a lock is held.
    pub(super) fn arrays_here(&self) -> Vec<Arc<Shared>> {
        let mut arrays = self.arrays.lock();
        arrays.retain(|_, array| array.strong_count() > 0);
        arrays
            .values()
            .filter_map(std::sync::Weak::upgrade)
            .collect()
    }

    /// The memory of an instance is free again.
    pub(crate) fn freed(&self, memory: MemoryId, bytes: u64) {
        self.memory(memory).used.fetch_sub(bytes, Ordering::SeqCst);
        *self.closing.0.lock() += 1;
        self.closing.1.notify_all();
        self.given_back();
    }
}
