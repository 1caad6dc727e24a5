//! Free slots: a cache for each thread, in front of one list for all.

use super::TaskGraph;
use super::node::Slot;
use super::word::Phase;
use crate::slab::CHUNK;
use crate::sync::Ordering;

/// Free slots at hand for one spawning thread or worker.
#[derive(Debug, Default)]
pub struct SlotCache {
    free: Vec<u32>,
}

/// How many slots travel between a cache and the common list at once.
const SLOT_BATCH: usize = if CHUNK < 64 { CHUNK } else { 64 };

impl<B> TaskGraph<B> {
    /// A slot that nobody else knows.
    #[inline]
    pub(super) fn allocate(&self, cache: &mut SlotCache) -> (u32, &Slot<B>) {
        let index = match cache.free.pop() {
            Some(index) => index,
            None => self.refill(cache),
        };
        let slot = self.slots.get(index).expect("free slots have been made");
        debug_assert_eq!(slot.word().phase(), Phase::Free);
        (index, slot)
    }

    #[cold]
    fn refill(&self, cache: &mut SlotCache) -> u32 {
        {
            let mut free = self.free.lock();
            let keep = free.len().saturating_sub(SLOT_BATCH);
            cache.free.extend(free.drain(keep..));
        }
        cache.free.pop().unwrap_or_else(|| {
            let first = self.fresh.fetch_add(SLOT_BATCH as u32, Ordering::Relaxed);
            self.slots.ensure(first); // SLOT_BATCH divides the slab's chunk size: one chunk holds the whole batch
            cache
                .free
                .extend((first + 1..first + SLOT_BATCH as u32).rev());
            first
        })
    }

    #[inline]
    pub(super) fn give_back(&self, cache: &mut SlotCache, index: u32) {
        cache.free.push(index);
        if cache.free.len() >= 2 * SLOT_BATCH {
            self.give_back_many(cache);
        }
    }

    #[cold]
    fn give_back_many(&self, cache: &mut SlotCache) {
        let keep = cache.free.len() - SLOT_BATCH;
        self.free.lock().extend(cache.free.drain(keep..));
    }
}
