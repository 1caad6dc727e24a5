//! Device memory that is host memory at other addresses, and the host memory that is page-locked.

use std::alloc::{Layout, alloc, dealloc};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use parla_core::lock::Mutex;

use crate::config::config;
use crate::pool::Pool;
use crate::status;

/// A physical device; its address is the handle of its primary context.
pub(crate) struct Device {
    pub(crate) ordinal: usize,
    pub(crate) used: AtomicU64,
    /// How often the primary context is retained; above 0 it exists.
    pub(crate) retained: AtomicU64,
    /// The error that the context is lost to; 0 while it works.
    pub(crate) lost: AtomicI32,
}

/// All of them.
pub(crate) fn devices() -> &'static [Device] {
    static DEVICES: OnceLock<Vec<Device>> = OnceLock::new();
    DEVICES.get_or_init(|| {
        let device = |ordinal| Device {
            ordinal,
            used: AtomicU64::new(0),
            retained: AtomicU64::new(0),
            lost: AtomicI32::new(0),
        };
        (0..config().n_devices).map(device).collect()
    })
}

/// Device `i`'s addresses are the host's with `i + 1` in the bits above the 48 that a processor resolves, so that the host's code
/// faults when it uses one.
const DEVICE_SHIFT: u32 = 48;
const ALIGNMENT: usize = 512;

struct Allocation {
    bytes: u64,
    /// None: it was allocated without a pool.
    pool: Option<Arc<Pool>>,
}

// By device address.
static ALLOCATIONS: Mutex<BTreeMap<u64, Allocation>> = Mutex::new(BTreeMap::new());
// By host address: how many bytes, whether ours.
static PINNED: Mutex<BTreeMap<usize, (usize, bool)>> = Mutex::new(BTreeMap::new());

fn layout(bytes: u64) -> Layout {
    Layout::from_size_align(bytes.max(1) as usize, ALIGNMENT).expect("tests ask for sane sizes")
}

impl Device {
    /// The device that this handle of a context is of.
    pub(crate) fn of(context: usize) -> Option<&'static Self> {
        devices().iter().find(|device| device.handle() == context)
    }

    pub(crate) fn handle(&self) -> usize {
        std::ptr::from_ref(self) as usize
    }

    /// The error of a lost context.
    pub(crate) fn check(&self) -> Result<(), i32> {
        match self.lost.load(Ordering::SeqCst) {
            0 => Ok(()),
            error => Err(error),
        }
    }

    pub(crate) fn lose(&self, error: i32) {
        let _ = self
            .lost
            .compare_exchange(0, error, Ordering::SeqCst, Ordering::SeqCst);
    }

    /// Counts bytes as used, if there are so many.
    pub(crate) fn reserve(&self, bytes: u64) -> Result<(), i32> {
        let fits = |used: u64| {
            used.checked_add(bytes)
                .filter(|&all| all <= config().memory)
        };
        let reserved = self
            .used
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, fits);
        reserved.map(drop).map_err(|_| status::OUT_OF_MEMORY)
    }

    /// Undoes `reserve`.
    pub(crate) fn release(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Ordering::SeqCst);
    }

    /// Memory from a pool, for work of a stream (by its address); without a pool memory of the device's own.
    pub(crate) fn allocate(
        &self,
        bytes: u64,
        from: Option<(&Arc<Pool>, usize)>,
    ) -> Result<u64, i32> {
        match from {
            Some((pool, stream)) => pool.take(bytes, stream)?,
            None => self.reserve(bytes)?,
        }
        // SAFETY: the layout's size is not zero.
        let host = unsafe { alloc(layout(bytes)) };
        assert!(!host.is_null(), "the host has no memory left");
        let address = host as u64 | (self.ordinal as u64 + 1) << DEVICE_SHIFT;
        let pool = from.map(|(pool, _)| Arc::clone(pool));
        ALLOCATIONS
            .lock()
            .insert(address, Allocation { bytes, pool });
        Ok(address)
    }

    /// Frees memory, in the order of a stream (by its address) or at once.
    pub(crate) fn free(&self, address: u64, stream: Option<usize>) -> Result<(), i32> {
        let allocation = {
            let mut all = ALLOCATIONS.lock();
            // What comes from a pool may be freed by either; what does not, only at once.
            let found = all.get(&address).ok_or(status::INVALID_VALUE)?;
            if stream.is_some() && found.pool.is_none() {
                return Err(status::INVALID_VALUE);
            }
            all.remove(&address).ok_or(status::INVALID_VALUE)?
        };
        let host = (address & ((1 << DEVICE_SHIFT) - 1)) as *mut u8;
        // SAFETY: `allocate` got it with this layout, and it was in the table, so it was not freed before. It is filled so that
        // who reads it nevertheless sees nonsense.
        unsafe {
            host.write_bytes(0xEE, allocation.bytes as usize);
            dealloc(host, layout(allocation.bytes));
        }
        match allocation.pool {
            Some(pool) => pool.give_back(allocation.bytes, stream.unwrap_or(0)),
            None => self.release(allocation.bytes),
        }
        Ok(())
    }
}

/// How many pieces of device memory there are.
pub(crate) fn n_allocations() -> usize {
    ALLOCATIONS.lock().len()
}

/// How many pieces of page-locked memory there are.
pub(crate) fn n_pinned() -> usize {
    PINNED.lock().len()
}

/// Whether this is an address of a device.
pub(crate) fn is_device(address: u64) -> bool {
    address >> DEVICE_SHIFT != 0
}

/// The device that has live memory at this address.
pub(crate) fn device_with(address: u64) -> Option<&'static Device> {
    let ordinal = (address >> DEVICE_SHIFT).checked_sub(1)?;
    resolve(address, 1).ok()?;
    devices().get(ordinal as usize)
}

/// Whether kernels on a device may use this address: memory of its own, of a pool that is shared with it, or page-locked.
pub(crate) fn is_reachable(address: u64, device: &Device) -> bool {
    if !is_device(address) {
        return is_pinned(address, 1);
    }
    let allocations = ALLOCATIONS.lock();
    let below = allocations.range(..=address).next_back();
    below.is_some_and(|(_, piece)| match &piece.pool {
        Some(pool) => pool.is_open_to(device),
        None => is_on(address, device),
    })
}

/// Whether this is an address of that device.
pub(crate) fn is_on(address: u64, device: &Device) -> bool {
    address >> DEVICE_SHIFT == device.ordinal as u64 + 1
}

/// Where the bytes of any address are in the host's memory; an error when they are not all in one live piece of a device's memory.
pub(crate) fn resolve(address: u64, bytes: u64) -> Result<*mut u8, i32> {
    if is_device(address) {
        let allocations = ALLOCATIONS.lock();
        let below = allocations.range(..=address).next_back();
        let inside = below.is_some_and(|(start, piece)| address + bytes <= start + piece.bytes);
        if !inside {
            return Err(status::ILLEGAL_ADDRESS);
        }
    }
    Ok((address & ((1 << DEVICE_SHIFT) - 1)) as *mut u8)
}

/// New page-locked memory.
pub(crate) fn allocate_pinned(bytes: usize) -> usize {
    // SAFETY: the layout's size is not zero.
    let host = unsafe { alloc(layout(bytes as u64)) };
    assert!(!host.is_null(), "the host has no memory left");
    PINNED.lock().insert(host as usize, (bytes, true));
    host as usize
}

pub(crate) fn free_pinned(address: usize) -> Result<(), i32> {
    match PINNED.lock().remove(&address) {
        Some((bytes, true)) => {
            // SAFETY: `allocate_pinned` got it with this layout, and it was in the table until now.
            unsafe { dealloc(address as *mut u8, layout(bytes as u64)) };
            Ok(())
        }
        _ => Err(status::INVALID_VALUE),
    }
}

pub(crate) fn register(address: usize, bytes: usize) -> Result<(), i32> {
    let mut pinned = PINNED.lock();
    let overlaps = pinned.range(..address + bytes).next_back();
    if overlaps.is_some_and(|(start, (length, _))| start + length > address) {
        return Err(status::ALREADY_REGISTERED);
    }
    pinned.insert(address, (bytes, false));
    Ok(())
}

pub(crate) fn unregister(address: usize) -> Result<(), i32> {
    match PINNED.lock().remove(&address) {
        Some((_, false)) => Ok(()),
        _ => Err(status::NOT_REGISTERED),
    }
}

/// The page-locked memory that this address is in: where it begins, its size.
pub(crate) fn pinned_around(address: usize) -> Option<(usize, usize)> {
    let pinned = PINNED.lock();
    let (start, (length, _)) = pinned.range(..=address).next_back()?;
    (address < start + length).then_some((*start, *length))
}

/// Whether this memory of the host is page-locked.
pub(crate) fn is_pinned(address: u64, bytes: u64) -> bool {
    let pinned = PINNED.lock();
    let below = pinned.range(..=address as usize).next_back();
    below.is_some_and(|(start, (length, _))| address + bytes <= (start + length) as u64)
}
