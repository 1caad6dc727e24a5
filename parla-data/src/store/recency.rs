//! In which order the instances in a memory can go: those that hold nothing first, then those that were not used for longest.
//!
//! Who looks for room walks along this order and takes a few steps for each instance that goes, however many there are. The order is kept lazily: using an
//! instance changes nothing but its stamp. It is entered when its last user lets it go. Whoever comes across an entry enters it anew if the instance was used since, and
//! takes it out if it is in use; then the last user enters it again. So each step that finds nothing to give up is paid for by a use.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, Weak};

use parla_core::{MemoryId, Region};

use super::Store;
use crate::array::Shared;
use crate::directory::InstanceId;
use crate::instance::State;

/// Whether it holds anything, and when it was last used; no two are equal.
pub(crate) type Rank = (bool, u64);

/// The instances of a memory that nobody used when they were last looked at.
#[derive(Debug, Default)]
pub(super) struct Recency {
    // Each instance knows its rank here (`Instance::rank`, guarded by its array's lock, which is taken before that of this).
    entries: BTreeMap<Rank, Entry>,
    // Of all entries.
    bytes: u64,
    #[cfg(test)]
    pub(super) n_steps: u64,
}

#[derive(Debug)]
struct Entry {
    array: Weak<Shared>,
    id: InstanceId,
    bytes: u64,
}

impl Recency {
    /// The first instance in order, or the one that follows a rank.
    fn after(&mut self, rank: Option<Rank>) -> Option<(Rank, Weak<Shared>, InstanceId)> {
        #[cfg(test)]
        {
            self.n_steps += 1;
        }
        let from = rank.map_or(Bound::Unbounded, Bound::Excluded);
        let mut rest = self.entries.range((from, Bound::Unbounded));
        let (&rank, entry) = rest.next()?;
        Some((rank, Weak::clone(&entry.array), entry.id))
    }

    /// Bytes of all instances that are entered.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    fn remove(&mut self, rank: Rank) {
        if let Some(entry) = self.entries.remove(&rank) {
            self.bytes -= entry.bytes;
        }
    }

    fn insert(&mut self, rank: Rank, entry: Entry) {
        self.bytes += entry.bytes;
        self.entries.insert(rank, entry);
    }
}

impl Store {
    /// The instance of a memory that is to go first, or after the one of a rank.
    pub(super) fn next_to_go(
        &self,
        memory: MemoryId,
        at: Option<Rank>,
    ) -> Option<(Rank, Weak<Shared>, InstanceId)> {
        self.memory(memory).recency.lock().after(at)
    }

    /// An instance was taken out of its array.
    pub(crate) fn gone(&self, memory: MemoryId, rank: Rank) {
        self.memory(memory).recency.lock().remove(rank);
    }

    /// A user of an instance lets it go.
    pub(super) fn unpin(&self, array: &Arc<Shared>, state: &mut State, id: InstanceId) {
        if id == InstanceId::HOME {
            return;
        }
        if let Some(instance) = state.get_mut(id) {
            instance.pins -= 1;
            if instance.pins == 0 && instance.rank.is_none() {
                self.rank(array, state, id);
            }
        }
    }

    /// Enters an instance where it belongs now, or takes it out if it is in use. Returns its rank.
    pub(super) fn rank(
        &self,
        array: &Arc<Shared>,
        state: &mut State,
        id: InstanceId,
    ) -> Option<Rank> {
        let directory = &state.directory;
        let at = state.instances.binary_search_by_key(&id, |i| i.id).ok()?;
        let instance = &mut state.instances[at];
        let holds = || directory.n_valid(id, &instance.region) > 0;
        let rank = (instance.pins == 0).then(|| (holds(), instance.stamp));
        if instance.rank != rank && instance.is_of(&self.me) {
            let mut recency = self.memory(instance.memory).recency.lock();
            if let Some(old) = instance.rank {
                recency.remove(old);
            }
            if let Some(rank) = rank {
                let entry = Entry {
                    array: Arc::downgrade(array),
                    id,
                    bytes: instance.bytes,
                };
                recency.insert(rank, entry);
            }
            instance.rank = rank;
        }
        rank
    }

    /// A box was written: what others had of it is worth nothing, and they may be left with nothing.
    pub(super) fn outdated(&self, array: &Arc<Shared>, state: &mut State, region: &Region) {
        for at in 1..state.instances.len() {
            let instance = &state.instances[at];
            if instance.rank.is_some_and(|(holds, _)| holds)
                && instance.region.intersection(region).is_some()
            {
                self.rank(array, state, instance.id);
            }
        }
    }
}
