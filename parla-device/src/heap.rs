//! Memory of the host that a device hands out, with its account.

use std::alloc::{Layout, alloc, dealloc};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parla_core::lock::Mutex;

use crate::backend::{Block, Reclaim};
use crate::error::DeviceError;

/// What blocks are aligned to, so that any element type and vector fits.
const ALIGNMENT: usize = 256;

/// Smaller pieces are left to the system's allocator, which has them at hand.
const POOLED_BYTES: u64 = 64 << 10;

/// How much of a device's memory is handed out.
#[derive(Debug)]
pub(crate) struct Account {
    name: String,
    capacity: u64,
    // Never above the capacity. Only a count: it orders nothing.
    used: AtomicU64,
    /// Memory that was given back and may be asked for again, for devices that have such a pool: fresh memory of the host is slow,
    /// since each page of it comes with a fault.
    pool: Option<Mutex<Pool>>,
}

/// Memory that nobody uses. What is used and this together are never more than was used at one time.
#[derive(Debug, Default)]
struct Pool {
    // Address and size, the oldest first.
    free: Vec<(usize, u64)>,
    bytes: u64,
    peak: u64,
}

impl Pool {
    /// The latest piece of this size.
    fn take(&mut self, bytes: u64) -> Option<usize> {
        let position = self.free.iter().rposition(|piece| piece.1 == bytes)?;
        self.bytes -= bytes;
        Some(self.free.remove(position).0)
    }

    /// Pieces that are too much, if so many bytes are in use.
    fn surplus(&mut self, used: u64) -> Vec<(usize, u64)> {
        self.peak = self.peak.max(used);
        let mut n = 0;
        while n < self.free.len() && used + self.bytes > self.peak {
            self.bytes -= self.free[n].1;
            n += 1;
        }
        self.free.drain(..n).collect()
    }
}

impl Account {
    pub(crate) fn new(name: &str, capacity: u64) -> Arc<Self> {
        Arc::new(Self {
            name: name.to_owned(),
            capacity,
            used: AtomicU64::new(0),
            pool: None,
        })
    }

    pub(crate) fn with_pool(name: &str, capacity: u64) -> Arc<Self> {
        Arc::new(Self {
            name: name.to_owned(),
            capacity,
            used: AtomicU64::new(0),
            pool: Some(Mutex::default()),
        })
    }

    /// Memory of this size from the pool, which is trimmed on the way.
    fn take_pooled(&self, bytes: u64) -> Option<usize> {
        // Never waits: in the child of a fork the lock may be held for ever.
        let mut pool = self.pool.as_ref()?.try_lock()?;
        let address = pool.take(bytes);
        let surplus = pool.surplus(self.used());
        drop(pool);
        release_all(surplus);
        address
    }

    fn give_pooled(&self, address: usize, bytes: u64) {
        let Some(mut pool) = self.pool.as_ref().and_then(Mutex::try_lock) else {
            return release(address, bytes);
        };
        pool.free.push((address, bytes));
        pool.bytes += bytes;
        let surplus = pool.surplus(self.used());
        drop(pool);
        release_all(surplus);
    }

    pub(crate) fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    pub(crate) fn out_of_memory(&self, requested: u64) -> DeviceError {
        DeviceError::OutOfMemory {
            device: self.name.clone(),
            requested,
            free: self.capacity.saturating_sub(self.used()),
            total: self.capacity,
        }
    }

    /// Hands out a block, filled with `fill` if that is given.
    ///
    /// # Errors
    /// [`DeviceError::OutOfMemory`] when the account has too little or the system has none.
    pub(crate) fn allocate(
        self: &Arc<Self>,
        bytes: u64,
        fill: Option<u8>,
    ) -> Result<Arc<Block>, DeviceError> {
        let take = |used: u64| used.checked_add(bytes).filter(|&sum| sum <= self.capacity);
        let taken = self
            .used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take);
        if taken.is_err() {
            return Err(self.out_of_memory(bytes));
        }
        // From here on the block's drop gives back what was taken.
        let owner = Box::new(Owner(Arc::clone(self)));
        if bytes == 0 {
            return Ok(Arc::new(Block::new(ALIGNMENT, 0, owner)));
        }
        let address = match self.take_pooled(bytes) {
            Some(address) => address as *mut u8,
            None => fresh(bytes),
        };
        if address.is_null() {
            self.used.fetch_sub(bytes, Ordering::Relaxed);
            return Err(self.out_of_memory(bytes));
        }
        if let Some(fill) = fill {
            // SAFETY: the memory was allocated just now, with this size, and nobody else knows it.
            unsafe { address.write_bytes(fill, bytes as usize) };
        }
        Ok(Arc::new(Block::new(address as usize, bytes, owner)))
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        if let Some(pool) = &mut self.pool {
            release_all(std::mem::take(&mut pool.get_mut().free));
        }
    }
}

/// Memory from the system; null if it has none.
fn fresh(bytes: u64) -> *mut u8 {
    let fresh = |layout| {
        // SAFETY: the callers' sizes are not 0.
        unsafe { alloc(layout) }
    };
    layout(bytes).map_or(std::ptr::null_mut(), fresh)
}

/// Gives memory back to the system.
fn release(address: usize, bytes: u64) {
    if let Some(layout) = layout(bytes) {
        // SAFETY: `fresh` got this address for this layout; only its last user gives it back, or the pool that had it.
        unsafe { dealloc(address as *mut u8, layout) };
    }
}

fn release_all(pieces: Vec<(usize, u64)>) {
    for (address, bytes) in pieces {
        release(address, bytes);
    }
}

fn layout(bytes: u64) -> Option<Layout> {
    Layout::from_size_align(usize::try_from(bytes).ok()?, ALIGNMENT).ok()
}

/// Gives the memory back, to the account too.
struct Owner(Arc<Account>);

impl Reclaim for Owner {
    fn reclaim(&self, address: usize, bytes: u64) {
        self.0.used.fetch_sub(bytes, Ordering::Relaxed);
        if bytes >= POOLED_BYTES {
            self.0.give_pooled(address, bytes);
        } else if bytes > 0 {
            release(address, bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn the_pool_gives_what_fits_and_never_keeps_more_than_was_used() {
        let account = Account::with_pool("gpu:0", 10 * MIB);
        let allocate = |bytes| account.allocate(bytes, Some(1)).expect("there is enough");
        let first = allocate(4 * MIB);
        let address = first.address();
        drop(first);
        assert_eq!(account.used(), 0);
        let again = allocate(4 * MIB);
        assert_eq!(again.address(), address, "the same memory again");
        drop(again);
        let kept = || account.pool.as_ref().expect("it has one").lock().bytes;
        assert_eq!(kept(), 4 * MIB);
        let other = allocate(3 * MIB);
        assert_eq!(kept(), 0, "both would be more than there was in use before");
        let (a, b) = (allocate(2 * MIB), allocate(5 * MIB));
        drop((other, a, b));
        assert_eq!((account.used(), kept()), (0, 10 * MIB));
        drop(allocate(MIB));
        assert!(kept() <= 10 * MIB);
    }

    #[test]
    fn memory_from_the_pool_is_filled_again() {
        let account = Account::with_pool("gpu:0", MIB);
        for fill in [1_u8, 2] {
            let block = account.allocate(MIB, Some(fill)).expect("there is enough");
            // SAFETY: the block is memory of the host of this size that nobody else uses.
            let bytes =
                unsafe { std::slice::from_raw_parts_mut(block.address() as *mut u8, MIB as usize) };
            assert!(bytes.iter().all(|&byte| byte == fill));
            bytes.fill(9);
        }
    }
}
