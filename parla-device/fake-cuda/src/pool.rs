//! Memory pools. What is freed stays with its pool, and is the card's again only once the host has waited for it.
//!
//! As with the real driver, a piece counts as in use until a function that waits for the stream has returned on which it was freed:
//! before that, trimming the pool does not give it back to the card. The stream itself may use it again at once.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use parla_core::lock::Mutex;

use crate::memory::Device;

/// A pool of a device's memory.
pub(crate) struct Pool {
    pub(crate) device: &'static Device,
    books: Mutex<Books>,
    /// Ordinals of the other devices that may use the pool's memory.
    shared_with: Mutex<BTreeSet<usize>>,
    destroyed: AtomicBool,
}

#[derive(Default)]
struct Books {
    /// Bytes that may stay with the pool when nobody uses them.
    threshold: u64,
    live: u64,
    /// Freed by these streams (by address), which nobody has waited for since.
    unseen: HashMap<usize, u64>,
    free: u64,
}

static POOLS: Mutex<Vec<Weak<Pool>>> = Mutex::new(Vec::new());

impl Pool {
    pub(crate) fn new(device: &'static Device) -> Arc<Self> {
        let pool = Arc::new(Self {
            device,
            books: Mutex::default(),
            shared_with: Mutex::default(),
            destroyed: AtomicBool::new(false),
        });
        let mut pools = POOLS.lock();
        pools.retain(|pool| pool.strong_count() > 0);
        pools.push(Arc::downgrade(&pool));
        pool
    }

    /// Takes bytes for work of a stream: those that are free here, then the card's.
    pub(crate) fn take(&self, bytes: u64, stream: usize) -> Result<(), i32> {
        let mut books = self.books.lock();
        let own = books.unseen.get(&stream).copied().unwrap_or(0).min(bytes);
        let free = books.free.min(bytes - own);
        self.device.reserve(bytes - own - free)?;
        if own > 0 {
            *books.unseen.entry(stream).or_default() -= own;
        }
        books.free -= free;
        books.live += bytes;
        Ok(())
    }

    /// A stream has freed bytes.
    pub(crate) fn give_back(&self, bytes: u64, stream: usize) {
        let mut books = self.books.lock();
        books.live -= bytes;
        *books.unseen.entry(stream).or_default() += bytes;
        if self.destroyed.load(Ordering::SeqCst) {
            books.see(stream);
            self.shrink(&mut books, 0);
        }
    }

    /// Gives what is free back to the card, but for so many bytes of the pool.
    pub(crate) fn trim(&self, keep: u64) {
        self.shrink(&mut self.books.lock(), keep);
    }

    fn shrink(&self, books: &mut Books, keep: u64) {
        let unseen: u64 = books.unseen.values().sum();
        let held = books.live + unseen + books.free;
        let released = books.free.min(held.saturating_sub(keep));
        books.free -= released;
        self.device.release(released);
    }

    pub(crate) fn set_threshold(&self, bytes: u64) {
        self.books.lock().threshold = bytes;
    }

    pub(crate) fn share(&self, with: usize, may: bool) {
        let mut shared = self.shared_with.lock();
        if may {
            shared.insert(with);
        } else {
            shared.remove(&with);
        }
    }

    /// Whether code on a device may use the pool's memory.
    pub(crate) fn is_open_to(&self, device: &Device) -> bool {
        std::ptr::eq(self.device, device) || self.shared_with.lock().contains(&device.ordinal)
    }

    /// The pool ends as soon as nothing of it is in use.
    pub(crate) fn destroy(&self) {
        self.destroyed.store(true, Ordering::SeqCst);
        let mut books = self.books.lock();
        let streams: Vec<usize> = books.unseen.keys().copied().collect();
        streams.into_iter().for_each(|stream| books.see(stream));
        self.shrink(&mut books, 0);
    }
}

impl Books {
    fn see(&mut self, stream: usize) {
        self.free += self.unseen.remove(&stream).unwrap_or(0);
    }
}

/// The host has waited for a stream: what it freed is free, and the card's where a pool has more than it keeps.
pub(crate) fn seen(stream: usize) {
    let pools: Vec<Arc<Pool>> = POOLS.lock().iter().filter_map(Weak::upgrade).collect();
    for pool in pools {
        let mut books = pool.books.lock();
        books.see(stream);
        let threshold = books.threshold;
        pool.shrink(&mut books, threshold);
    }
}
