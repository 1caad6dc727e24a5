//! Memory of the host that a device hands out, with its account.

use std::alloc::{Layout, alloc, dealloc};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::backend::{Block, Reclaim};
use crate::error::DeviceError;

/// What blocks are aligned to, so that any element type and vector fits.
const ALIGNMENT: usize = 256;

/// How much of a device's memory is handed out.
#[derive(Debug)]
pub(crate) struct Account {
    name: String,
    capacity: u64,
    // Never above the capacity. Only a count: it orders nothing.
    used: AtomicU64,
}

impl Account {
    pub(crate) fn new(name: &str, capacity: u64) -> Arc<Self> {
        Arc::new(Self {
            name: name.to_owned(),
            capacity,
            used: AtomicU64::new(0),
        })
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
        let address = layout(bytes).map_or(std::ptr::null_mut(), |layout| {
            // SAFETY: the layout's size is not 0.
            unsafe { alloc(layout) }
        });
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

fn layout(bytes: u64) -> Option<Layout> {
    Layout::from_size_align(usize::try_from(bytes).ok()?, ALIGNMENT).ok()
}

/// Gives the memory back to the system and to the account.
struct Owner(Arc<Account>);

impl Reclaim for Owner {
    fn reclaim(&self, address: usize, bytes: u64) {
        if bytes > 0
            && let Some(layout) = layout(bytes)
        {
            // SAFETY: `allocate` got this address for this layout, and a block is reclaimed once, by its last user.
            unsafe { dealloc(address as *mut u8, layout) };
        }
        self.0.used.fetch_sub(bytes, Ordering::Relaxed);
    }
}
