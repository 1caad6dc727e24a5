//! Making room: the least recently used copies are given up, those that are nowhere else after they were written back.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use parla_core::MemoryId;
use parla_device::{Block, DeviceError};

use super::queue::After;
use super::{Rank, Store};
use crate::DataError;
use crate::array::Shared;
use crate::directory::InstanceId;
use crate::history::DataEvent;
use crate::op::Op;

/// What came of an instance that was to be given up.
enum Outcome {
    /// So many bytes are free now.
    Gone(u64),
    /// It will be clean, or free of outstanding work, after some time.
    Going(u64),
    /// It is in use, or was used lately.
    Stays,
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
        let (mut freed, mut coming) = (0, 0);
        let mut first_error = None;
        let mut at = None;
        while freed + coming < wanted {
            let Some((rank, array, id)) = self.next_to_go(memory, at) else {
                break;
            };
            at = Some(rank);
            // Otherwise its array is being dropped, and gives it back itself.
            let Some(array) = array.upgrade() else {
                continue;
            };
            match self.give_up_one(&array, id, rank, &mut after.ops) {
                Ok(Outcome::Gone(bytes)) => freed += bytes,
                Ok(Outcome::Going(bytes)) => coming += bytes,
                Ok(Outcome::Stays) => {}
                Err(error) => first_error = first_error.or(Some(error)),
            }
            after.arrays.push(array);
        }
        match first_error {
            Some(error) if freed + coming < wanted => Err(error),
            _ => Ok(freed),
        }
    }

    /// Gives up an instance that was found at a rank, if it still belongs there.
    fn give_up_one(
        &self,
        array: &Arc<Shared>,
        id: InstanceId,
        rank: Rank,
        ops: &mut Vec<Arc<Op>>,
    ) -> Result<Outcome, DataError> {
        let mut state = array.state.lock();
        self.purge_lost(&mut state);
        // It may have been used, or taken out, since it was entered.
        if self
            .rank(array, &mut state, id)
            .is_none_or(|now| now > rank)
        {
            return Ok(Outcome::Stays);
        }
        let (memory, bytes) = match state.get(id) {
            Some(instance) if instance.is_idle() => (instance.memory, instance.bytes),
            Some(instance) => return Ok(Outcome::Going(instance.bytes)),
            None => return Ok(Outcome::Stays),
        };
        let sole = state.directory.sole(id);
        if sole.is_empty() {
            let instance = state.take(id, "it was given up");
            array.update_host_only(&state);
            drop(state);
            self.memory(memory)
                .evictions
                .fetch_add(1, Ordering::Relaxed);
            // The device needs the memory now. Only its own block is dropped: nothing of a user.
            if let Some(instance) = instance {
                instance.release();
            }
            return Ok(Outcome::Gone(bytes));
        }
        if state.must_stay(&sole) {
            return Ok(Outcome::Going(bytes));
        }
        state.note(id, None, DataEvent::WrittenBack);
        let begun = ops.len();
        let fetches = sole
            .iter()
            .map(|region| self.fetch(array, &mut state, InstanceId::HOME, region, ops));
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
        fetched.map(|_| Outcome::Going(bytes))
    }

    /// Whether something in this memory is going to be given back without our doing.
    pub(super) fn is_in_use(&self, memory: MemoryId, after: &mut After) -> bool {
        let account = self.memory(memory);
        // Instances that are not entered are in use, or were released and are still needed by work under way.
        if account.reserved.load(Ordering::SeqCst) > 0
            || account.used.load(Ordering::SeqCst) > account.recency.lock().bytes()
        {
            return true;
        }
        // Those that are being written back are among the first.
        let mut at = None;
        while let Some((rank, array, id)) = self.next_to_go(memory, at) {
            at = Some(rank);
            let Some(array) = array.upgrade() else {
                return true; // it is being dropped
            };
            let state = array.state.lock();
            let in_use = state.get(id).is_none_or(|instance| {
                !instance.is_idle() || state.must_stay(&state.directory.sole(id))
            });
            drop(state);
            after.arrays.push(array);
            if in_use {
                return true;
            }
        }
        false
    }

    /// An array has an instance here.
    pub(super) fn remember(&self, array: &Arc<Shared>) {
        let mut arrays = self.arrays.lock();
        if arrays.len() == arrays.capacity() {
            // Those that are gone make room first; it grows by as much as is left, so that this is rare.
            arrays.retain(|_, array| array.strong_count() > 0);
            let n_left = arrays.len();
            arrays.reserve(n_left + 1);
        }
        arrays.insert(array.id, Arc::downgrade(array));
    }

    /// The arrays that have instances here. They may not be dropped while a lock is held.
    pub(super) fn arrays_here(&self) -> Vec<Arc<Shared>> {
        let mut arrays = self.arrays.lock();
        arrays.retain(|_, array| array.strong_count() > 0);
        arrays.values().filter_map(Weak::upgrade).collect()
    }

    /// The memory of an instance is free again.
    pub(crate) fn freed(&self, memory: MemoryId, bytes: u64) {
        self.memory(memory).used.fetch_sub(bytes, Ordering::SeqCst);
        *self.closing.0.lock() += 1;
        self.closing.1.notify_all();
        self.given_back();
    }
}
