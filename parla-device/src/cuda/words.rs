//! Words in page-locked memory that streams wait for.
//!
//! They are kept and used again: giving page-locked memory back to the driver waits for all work of the context, which may be waiting for
//! whoever gives it back.

use std::sync::Arc;

use super::driver::{Driver, Failure, check};
use super::physical::Physical;
use super::stream::set;

/// Bytes from one word to the next: no two streams read the same line of the processor's cache.
const APART: usize = 64;
/// Bytes of page-locked memory that are taken at once.
const PAGE: usize = 4096;
/// `CU_MEMHOSTALLOC_PORTABLE | CU_MEMHOSTALLOC_DEVICEMAP`: for all contexts, and at an address that devices know.
const FLAGS: u32 = 1 | 2;

/// The words of a card.
#[derive(Debug, Default)]
pub(super) struct Words {
    /// Where the host finds those that nobody uses, and where the device does.
    free: Vec<(usize, u64)>,
    pages: Vec<usize>,
}

/// A word that somebody uses.
pub(super) struct Word {
    card: Arc<Physical>,
    address: usize,
    on_device: u64,
}

impl Words {
    fn take(&mut self, driver: &Driver) -> Result<(usize, u64), Failure> {
        if let Some(word) = self.free.pop() {
            return Ok(word);
        }
        let (mut address, mut on_device) = (0, 0);
        // SAFETY: writes one address; the context is current.
        check("cuMemHostAlloc", unsafe {
            (driver.host_allocate)(&raw mut address, PAGE, FLAGS)
        })?;
        self.pages.push(address);
        // SAFETY: writes one address, that of the memory above as devices see it.
        check("cuMemHostGetDevicePointer", unsafe {
            (driver.host_device_pointer)(&raw mut on_device, address, 0)
        })?;
        let words = (0..PAGE).step_by(APART);
        self.free
            .extend(words.map(|at| (address + at, on_device + at as u64)));
        Ok(self.free.pop().expect("a page has words"))
    }

    /// Gives the memory back; its context is current, and nothing uses it any more.
    pub(super) fn free(self, driver: &Driver) {
        for page in self.pages {
            // SAFETY: `take` got it, and it is forgotten here.
            unsafe { (driver.host_free)(page) };
        }
    }
}

impl Word {
    /// One that is 0; the context is current.
    pub(super) fn new(card: &Arc<Physical>) -> Result<Self, Failure> {
        let (address, on_device) = card.words.lock().take(card.driver)?;
        set(address as *mut u32, 0);
        Ok(Self {
            card: Arc::clone(card),
            address,
            on_device,
        })
    }

    pub(super) fn device_address(&self) -> u64 {
        self.on_device
    }

    pub(super) fn set(&self, value: u32) {
        set(self.address as *mut u32, value);
    }
}

impl Drop for Word {
    fn drop(&mut self) {
        // No stream waits for it any more.
        let word = (self.address, self.on_device);
        self.card.words.lock().free.push(word);
    }
}
