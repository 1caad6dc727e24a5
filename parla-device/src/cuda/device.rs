//! Logical GPUs: a name, a budget and a memory pool each, on a card that several may share.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use cudarc::driver::sys::{
    CUmemAccess_flags, CUmemAccessDesc, CUmemAllocationType, CUmemLocation, CUmemLocationType,
    CUmemPoolProps,
};

use super::driver::{Failure, Handle, OUT_OF_MEMORY, check};
use super::options::CudaOptions;
use super::physical::Physical;
use super::pinning;
use super::stream::CudaStream;
use crate::DeviceError;
use crate::backend::{Block, Device, Reclaim, Stream};

pub(super) const ARCHITECTURE: &str = "gpu";

/// What is left of a card for its context and for libraries: a sixteenth, at least this (or half of a small card).
const RESERVE: u64 = 768 << 20;
/// `CU_MEMPOOL_ATTR_RELEASE_THRESHOLD`: the bytes a pool keeps when nobody uses them.
const RELEASE_THRESHOLD: i32 = 4;

/// A GPU as users see it.
#[derive(Debug)]
pub(super) struct CudaDevice(Arc<Logical>);

/// What a device, its streams, events and blocks share.
#[derive(Debug)]
pub(super) struct Logical {
    index: u32,
    pub(super) name: String,
    capacity: u64,
    used: AtomicU64,
    pub(super) card: Arc<Physical>,
    /// The cards of all logical GPUs, by index.
    pub(super) cards: Arc<[Arc<Physical>]>,
    /// Once somebody needed it and the driver gave it.
    memory: OnceLock<Memory>,
}

/// A memory pool, and the stream on which its memory is taken and given back.
#[derive(Debug)]
struct Memory {
    card: Arc<Physical>,
    pool: Handle,
    stream: Handle,
}

/// Deals logical GPUs out to the cards.
pub(super) fn divide(cards: &[Arc<Physical>], options: &CudaOptions) -> Vec<Arc<CudaDevice>> {
    let n_gpus = options.virtual_gpus.map_or(cards.len(), |n| n as usize);
    let of_gpu: Arc<[Arc<Physical>]> = cards.iter().cycle().take(n_gpus).cloned().collect();
    let device = |(index, card): (u32, &Arc<Physical>)| {
        let sharing = of_gpu
            .iter()
            .filter(|other| Arc::ptr_eq(other, card))
            .count();
        let share = card.total / sharing as u64;
        let reserve = (card.total / 16).max(RESERVE).min(card.total / 2) / sharing as u64;
        let wanted = options.memory.get(index as usize).or(options.memory.last());
        Arc::new(CudaDevice(Arc::new(Logical {
            index,
            name: format!("{ARCHITECTURE}:{index}"),
            capacity: wanted.map_or(share - reserve, |&wanted| wanted.min(share)),
            used: AtomicU64::new(0),
            card: Arc::clone(card),
            cards: Arc::clone(&of_gpu),
            memory: OnceLock::new(),
        })))
    };
    (0..).zip(of_gpu.iter()).map(device).collect()
}

impl CudaDevice {
    /// Whether both are parts of one card.
    pub(super) fn shares_card(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0.card, &other.0.card)
    }

    /// Whether a copy to `other` goes directly, rather than through the host.
    pub(super) fn reaches(&self, other: &Self) -> bool {
        let (from, to) = (&self.0.card, &other.0.card);
        self.shares_card(other) || from.driver.reaches(from.ordinal, to.ordinal)
    }
}

impl Logical {
    /// A failure as an error of this device.
    pub(super) fn error(&self, failure: Failure) -> DeviceError {
        self.card.error(&self.name, failure)
    }

    /// The logical GPUs on the card, this one included.
    pub(super) fn n_sharing(&self) -> u32 {
        let sharing = self
            .cards
            .iter()
            .filter(|other| Arc::ptr_eq(other, &self.card));
        sharing.map(|_| 1).sum()
    }

    /// What users call a card: the first logical GPU on it.
    pub(super) fn name_of(&self, card: &Arc<Physical>) -> String {
        let index = self.cards.iter().position(|one| Arc::ptr_eq(one, card));
        index.map_or_else(
            || card.model.clone(),
            |index| format!("{ARCHITECTURE}:{index}"),
        )
    }

    /// An error when the device is lost.
    pub(super) fn check(&self) -> Result<(), DeviceError> {
        self.card.loss().map_or(Ok(()), |reason| {
            Err(DeviceError::Lost {
                device: self.name.clone(),
                reason: reason.to_owned(),
            })
        })
    }

    fn memory(&self) -> Result<&Memory, Failure> {
        if let Some(memory) = self.memory.get() {
            return Ok(memory);
        }
        // That it cannot be had now, since others have filled the card, does not mean that it never can.
        let made = Memory::new(&self.card, &self.cards, self.capacity)?;
        // If another thread was faster, this one goes again.
        Ok(self.memory.get_or_init(|| made))
    }

    fn out_of_memory(&self, requested: u64, free: u64, total: u64) -> DeviceError {
        DeviceError::OutOfMemory {
            device: self.name.clone(),
            requested,
            free,
            total,
        }
    }

    /// What the card itself says about its memory: free, total. None is free where there is not enough for a context.
    fn memory_of_card(&self) -> (u64, u64) {
        let (mut free, mut total) = (0, 0);
        if let Ok(_current) = self.card.enter() {
            // SAFETY: writes two numbers; the context is current.
            unsafe { (self.card.driver.memory_info)(&raw mut free, &raw mut total) };
        }
        let total = if total == 0 {
            self.card.total
        } else {
            total as u64
        };
        (free as u64, total)
    }
}

impl Memory {
    fn new(card: &Arc<Physical>, all: &[Arc<Physical>], capacity: u64) -> Result<Self, Failure> {
        let driver = card.driver;
        let stream = card.take_stream()?;
        let _current = card.enter()?;
        // SAFETY: all of its fields may be zero: numbers, a null pointer, enumerations with a value 0.
        let mut properties: CUmemPoolProps = unsafe { std::mem::zeroed() };
        properties.allocType = CUmemAllocationType::CU_MEM_ALLOCATION_TYPE_PINNED;
        properties.location = location(card);
        let mut pool = 0;
        // SAFETY: reads the properties, writes one handle.
        let created = check("cuMemPoolCreate", unsafe {
            (driver.pool_create)(&raw mut pool, &raw const properties)
        });
        created.inspect_err(|_| card.put_stream(stream))?;
        let memory = Self {
            card: Arc::clone(card),
            pool,
            stream,
        };
        let mut keep = capacity;
        // SAFETY: this attribute is a number of 64 bits.
        check("cuMemPoolSetAttribute", unsafe {
            (driver.pool_set_attribute)(pool, RELEASE_THRESHOLD, (&raw mut keep).cast())
        })?;
        for other in all {
            if !Arc::ptr_eq(other, card) && driver.reaches(other.ordinal, card.ordinal) {
                let access = CUmemAccessDesc {
                    location: location(other),
                    flags: CUmemAccess_flags::CU_MEM_ACCESS_FLAGS_PROT_READWRITE,
                };
                // Where this fails the driver takes copies between the cards through the host.
                // SAFETY: reads one description.
                unsafe { (driver.pool_set_access)(pool, &raw const access, 1) };
            }
        }
        card.pools.lock().push((pool, stream));
        Ok(memory)
    }

    /// Takes memory from the pool. What others freed is waited for, and unused memory of the card's other pools is used, before it
    /// is refused.
    fn allocate(&self, bytes: u64) -> Result<usize, Failure> {
        let card = &self.card;
        let _current = card.enter()?;
        match self.try_allocate(bytes) {
            Err(failure) if failure.code == OUT_OF_MEMORY => {
                card.trim_pools();
                self.try_allocate(bytes)
            }
            done => done,
        }
    }

    fn try_allocate(&self, bytes: u64) -> Result<usize, Failure> {
        let driver = self.card.driver;
        let mut address = 0;
        // SAFETY: writes one address; pool and stream belong to the current context. What was freed on the stream is waited for, and so is
        // the allocation, so that every stream may use the memory.
        unsafe {
            let allocated = check(
                "cuMemAllocFromPoolAsync",
                (driver.allocate_async)(
                    &raw mut address,
                    usize::try_from(bytes.max(1)).unwrap_or(usize::MAX),
                    self.pool,
                    self.stream,
                ),
            );
            check(
                "cuStreamSynchronize",
                (driver.stream_synchronize)(self.stream),
            )?;
            allocated?;
        }
        Ok(usize::try_from(address).expect("addresses of devices have the size of the host's"))
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.card
            .pools
            .lock()
            .retain(|&(pool, _)| pool != self.pool);
        if self.card.driver.check_process("cuMemPoolDestroy").is_err() {
            return;
        }
        // SAFETY: no block of the pool is left, as they hold the device that holds this; the driver waits for what is outstanding.
        unsafe { (self.card.driver.pool_destroy)(self.pool) };
        self.card.put_stream(self.stream);
    }
}

fn location(card: &Physical) -> CUmemLocation {
    CUmemLocation {
        type_: CUmemLocationType::CU_MEM_LOCATION_TYPE_DEVICE,
        id: card.ordinal,
    }
}

/// Gives blocks back to the device they are of.
struct Owner(Arc<Logical>);

impl Reclaim for Owner {
    fn reclaim(&self, address: usize, bytes: u64) {
        let device = &self.0;
        device.used.fetch_sub(bytes, Ordering::Relaxed);
        // The memory of a lost device goes with its context.
        if device.check().is_ok()
            && let Ok(memory) = device.memory()
            && let Ok(_current) = device.card.enter()
        {
            // SAFETY: `allocate` got the address from this pool, and this is its only way back. Whatever used it is done, or is
            // ordered before this by those who dropped the block.
            let code = unsafe { (device.card.driver.free_async)(address as u64, memory.stream) };
            if let Err(failure) = check("cuMemFreeAsync", code) {
                // Noted, if it is the end of the device; otherwise the memory stays with the pool.
                let _ = device.error(failure);
            }
        }
    }
}

impl Device for CudaDevice {
    fn index(&self) -> u32 {
        self.0.index
    }

    fn name(&self) -> &str {
        &self.0.name
    }

    fn model(&self) -> &str {
        &self.0.card.model
    }

    fn memory_capacity(&self) -> u64 {
        self.0.capacity
    }

    fn memory_used(&self) -> u64 {
        self.0.used.load(Ordering::Relaxed)
    }

    fn host_access(&self) -> bool {
        false
    }

    fn stream_ordered(&self) -> bool {
        true
    }

    fn ordinal(&self) -> Option<i32> {
        Some(self.0.card.ordinal)
    }

    fn make_current(&self) -> Option<Vec<usize>> {
        self.0.card.make_current().ok()
    }

    fn restore_current(&self, before: &[usize]) {
        self.0.card.restore_current(before);
    }

    fn ordinal_of(&self, address: usize) -> Option<i32> {
        self.0.card.ordinal_of(address)
    }

    fn synchronize_raw(&self, stream: usize) -> Result<(), DeviceError> {
        self.0.check()?;
        let done = self.0.card.synchronize_stream(stream);
        done.map_err(|failure| self.0.error(failure))
    }

    fn allocate(&self, bytes: u64) -> Result<Arc<Block>, DeviceError> {
        let device = &self.0;
        device.check()?;
        let fits = |used: u64| {
            used.checked_add(bytes)
                .filter(|&all| all <= device.capacity)
        };
        if let Err(used) = device
            .used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits)
        {
            return Err(device.out_of_memory(bytes, device.capacity - used, device.capacity));
        }
        let allocated = device.memory().and_then(|memory| memory.allocate(bytes));
        allocated.map_or_else(
            |failure| {
                device.used.fetch_sub(bytes, Ordering::Relaxed);
                if failure.code != OUT_OF_MEMORY {
                    return Err(device.error(failure));
                }
                let (free, total) = device.memory_of_card();
                Err(device.out_of_memory(bytes, free, total))
            },
            |address| {
                Ok(Arc::new(Block::new(
                    address,
                    bytes,
                    Box::new(Owner(Arc::clone(device))),
                )))
            },
        )
    }

    fn release_unused(&self) {
        let card = &self.0.card;
        // Without a context there is no pool.
        if !card.pools.lock().is_empty()
            && self.0.check().is_ok()
            && let Ok(_current) = card.enter()
        {
            card.trim_pools();
        }
    }

    fn stream(&self) -> Result<Arc<dyn Stream>, DeviceError> {
        self.0.check()?;
        Ok(Arc::new(CudaStream::take(&self.0)?))
    }

    fn failure(&self) -> Option<DeviceError> {
        self.0.check().err()
    }

    fn pin_host(&self, block: &Arc<Block>) {
        if self.0.check().is_ok() {
            pinning::pin(&self.0.card, block);
        }
    }
}
