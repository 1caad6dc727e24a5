//! Memory of the host that is page-locked for the time it is in use, so that devices copy from and to it themselves.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock, Weak};
use std::thread;
use std::time::{Duration, Instant};

use parla_core::lock::{Condvar, Mutex};

use super::driver::Driver;
use super::physical::Physical;
use crate::backend::Block;
use crate::memory::available_memory;

/// Less than this does not pay: the driver takes a fraction of a millisecond per piece.
const LEAST: u64 = 1 << 20;
/// At most this part of the memory that this process may use.
const PART: u64 = 4;
/// How long memory may stay page-locked (and alive) after its last user is gone.
const LINGER: Duration = Duration::from_millis(50);
/// `CU_MEMHOSTREGISTER_PORTABLE`: page-locked for all contexts.
const PORTABLE: u32 = 1;

/// What is page-locked, and what is to be. Of the process, as memory can be page-locked only once.
struct Registry {
    // By address.
    pinned: BTreeMap<usize, Pinned>,
    wanted: Vec<(Weak<Physical>, Arc<Block>)>,
    bytes: u64,
    running: bool,
}

struct Pinned {
    block: Arc<Block>,
    /// The card in whose context it was registered.
    card: Weak<Physical>,
}

static REGISTRY: Mutex<Registry> = Mutex::new(Registry {
    pinned: BTreeMap::new(),
    wanted: Vec::new(),
    bytes: 0,
    running: false,
});
static WANTED: Condvar = Condvar::new();

/// Page-locks a block before long, if that pays. A thread does it, as the driver takes its time.
pub(super) fn pin(card: &Arc<Physical>, block: &Arc<Block>) {
    let mut registry = REGISTRY.lock();
    let known = registry.pinned.contains_key(&block.address())
        || registry
            .wanted
            .iter()
            .any(|(_, wanted)| wanted.address() == block.address());
    if known || block.bytes() < LEAST || registry.bytes + block.bytes() > limit() {
        return;
    }
    registry.bytes += block.bytes();
    registry
        .wanted
        .push((Arc::downgrade(card), Arc::clone(block)));
    WANTED.notify_one();
    if !registry.running {
        let started = thread::Builder::new()
            .name("parla-cuda-pin".to_owned())
            .spawn(run);
        registry.running = started.is_ok();
        if started.is_err() {
            registry.wanted.clear();
            registry.bytes -= block.bytes();
        }
    }
}

/// Keeps the memory page-locked that these bytes are in, if they are.
pub(super) fn cover(address: usize, bytes: usize) -> Option<Arc<Block>> {
    let registry = REGISTRY.lock();
    let (start, pinned) = registry.pinned.range(..=address).next_back()?;
    let end = start + usize::try_from(pinned.block.bytes()).ok()?;
    (address + bytes <= end).then(|| Arc::clone(&pinned.block))
}

fn limit() -> u64 {
    static LIMIT: OnceLock<u64> = OnceLock::new();
    *LIMIT.get_or_init(|| available_memory().map_or(0, |bytes| bytes / PART))
}

/// The card's context goes: what was registered in it is no longer page-locked by us.
pub(super) fn forget(card: &Physical) {
    let gone = {
        let mut registry = REGISTRY.lock();
        let of_card = |pinned: &Pinned| std::ptr::eq(pinned.card.as_ptr(), card);
        let addresses: Vec<usize> = registry
            .pinned
            .iter()
            .filter(|(_, pinned)| of_card(pinned))
            .map(|(address, _)| *address)
            .collect();
        let gone: Vec<Pinned> = addresses
            .iter()
            .filter_map(|address| registry.pinned.remove(address))
            .collect();
        registry.bytes -= gone.iter().map(|pinned| pinned.block.bytes()).sum::<u64>();
        gone
    };
    for pinned in gone {
        unregister(card, &pinned.block);
    }
}

fn unregister(card: &Physical, block: &Block) {
    if let Ok(_current) = card.enter() {
        // SAFETY: it was registered, and no copy uses it: those hold the block.
        unsafe { (card.driver.host_unregister)(block.address()) };
    }
}

/// Registers what is wanted, and unregisters what nobody else holds any more. Ends when there is nothing of either kind.
fn run() {
    if let Ok(driver) = Driver::get() {
        driver.ignore_captures();
    }
    loop {
        let (wanted, unused) = {
            let mut registry = REGISTRY.lock();
            if registry.wanted.is_empty() {
                if registry.pinned.is_empty() {
                    registry.running = false;
                    return;
                }
                WANTED.wait_until(&mut registry, Instant::now() + LINGER);
            }
            let unused: Vec<usize> = registry
                .pinned
                .iter()
                .filter(|(_, pinned)| Arc::strong_count(&pinned.block) == 1)
                .map(|(address, _)| *address)
                .collect();
            let unused: Vec<Pinned> = unused
                .iter()
                .filter_map(|address| registry.pinned.remove(address))
                .collect();
            registry.bytes -= unused
                .iter()
                .map(|pinned| pinned.block.bytes())
                .sum::<u64>();
            (std::mem::take(&mut registry.wanted), unused)
        };
        for pinned in unused {
            if let Some(card) = pinned.card.upgrade() {
                unregister(&card, &pinned.block);
            }
        }
        for (card, block) in wanted {
            let registered = card.upgrade().is_some_and(|card| register(&card, &block));
            let mut registry = REGISTRY.lock();
            if registered {
                registry
                    .pinned
                    .insert(block.address(), Pinned { block, card });
            } else {
                registry.bytes -= block.bytes();
            }
        }
    }
}

fn register(card: &Physical, block: &Block) -> bool {
    let Ok(bytes) = usize::try_from(block.bytes()) else {
        return false;
    };
    // Refused for memory that is registered already, or that is a file's.
    card.enter().is_ok_and(|_current| {
        // SAFETY: the block is live memory of the host, and stays so until it is unregistered.
        unsafe { (card.driver.host_register)(block.address(), bytes, PORTABLE) == 0 }
    })
}
