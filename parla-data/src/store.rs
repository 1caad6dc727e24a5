//! Where arrays are: allocation, copies, eviction.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use parla_core::lock::{Condvar, Mutex};
use parla_core::{Combiner, DeviceId, MachineModel, MemoryId, Region};
use parla_device::{DeviceError, Event, Machine, Stream};
use rustc_hash::FxHashMap;
use smallvec::SmallVec;

use crate::array::{ArrayId, Shared};
use crate::history::{Happening, History};
use crate::versions::Version;
use crate::{Array, DataError, Operand};

mod copies;
mod fast;
mod groups;
mod held;
mod home;
mod queue;
mod recency;
mod room;
mod staged;
mod writers;

pub use held::Held;
use queue::Request;
pub(crate) use recency::Rank;
use recency::Recency;
pub use staged::Staged;
pub(crate) use writers::Writer;

/// What a task asks a [`Store`] for.
#[derive(Clone, Debug)]
pub struct Order {
    /// What it uses.
    pub operands: Arc<[Operand]>,
    /// Its devices, one per slot.
    pub devices: SmallVec<[DeviceId; 2]>,
    /// Bytes to be reserved for it in the memory of each device.
    pub room: SmallVec<[u64; 2]>,
    /// It goes on after it waited for others. If one of these failed, parts of what it uses may have no valid contents:
    /// they are not brought, and it [learns](Staged::lost) when it looks at them.
    pub again: bool,
}

/// What is called when operands are in place, or cannot be brought there.
pub type StagedCallback = Box<dyn FnOnce(Result<Staged, DataError>) + Send>;

/// On whose behalf something is copied ahead.
#[derive(Clone, Debug)]
pub struct Ahead {
    /// Whether it is going to be needed there, if the task runs at all; else that is a guess. For the record only.
    pub sure: bool,
    /// False once the task has asked for it by itself: others may have changed it since.
    pub wanted: Arc<AtomicBool>,
}

impl Ahead {
    /// For a task that waits and has no other place to run.
    #[must_use]
    pub fn surely() -> Self {
        Self {
            sure: true,
            wanted: Arc::new(AtomicBool::new(true)),
        }
    }
}

/// What is called when copies that were begun ahead have ended.
pub type ArrivedCallback = Box<dyn FnOnce() + Send>;

/// The memories of one machine and what arrays have in them. One per runtime.
///
/// Locks, in this order: `queue`, one array's, one of the others. Nothing is dropped that may belong to users, nobody called and nothing waited for
/// while one is held.
#[derive(Debug)]
pub struct Store {
    machine: Arc<Machine>,
    me: Weak<Self>,
    // By MemoryId.
    memories: Vec<Memory>,
    // Counts uses of instances, for the order of eviction.
    clock: AtomicU64,
    // Arrays that have, or had, instances here.
    arrays: Mutex<FxHashMap<ArrayId, Weak<Shared>>>,
    // Requests that wait for memory, in the order they came; the notes are those that nobody has looked at yet. Who holds it decides about memory.
    queue: Combiner<VecDeque<Request>, Request>,
    // How many requests there are in `queue`.
    n_waiting: AtomicUsize,
    // Arrays that nobody can name any more but whose home somebody sees.
    kept: Mutex<Kept>,
    // How often memory was given back; `close` waits for that.
    closing: (Mutex<u64>, Condvar),
    // Whether a record of versions is kept.
    versions: AtomicBool,
    // What happened to the instances here, if it is.
    history: Arc<History>,
}

/// The account of one memory.
#[derive(Debug)]
struct Memory {
    name: String,
    capacity: u64,
    // Errors of copies to or from here read so.
    copy_name: Arc<str>,
    // Bytes of instances, until their blocks are given back. Grows only under `Store::queue`.
    used: AtomicU64,
    // Bytes that tasks asked for beyond their operands.
    reserved: AtomicU64,
    // Bytes that the program has set aside for itself: nobody is going to give them back. Grows only under `Store::queue`.
    held: AtomicU64,
    peak: AtomicU64,
    evictions: AtomicU64,
    n_copies: AtomicU64,
    bytes_from: Vec<AtomicU64>,
    streams: Mutex<Streams>,
    recency: Mutex<Recency>,
    // Why a copy was not written back, until a request is told.
    trouble: Mutex<Option<DeviceError>>,
}

/// Arrays kept for their homes' sake, and how many are enough to look which have come home.
#[derive(Debug, Default)]
struct Kept {
    arrays: Vec<Array>,
    enough: usize,
}

#[derive(Debug, Default)]
struct Streams {
    inward: Option<Arc<dyn Stream>>,
    outward: Option<Arc<dyn Stream>>,
}

/// How a body ended, for the data it used.
#[derive(Clone, Debug)]
pub enum Ended {
    /// Well; what it put on its device's streams is done when these events are (none: it is done now).
    Well(Vec<Arc<dyn Event>>),
    /// It failed: what it was to write is valid nowhere, for this reason.
    Badly(String),
    /// It never started: nothing has changed.
    NotBegun,
}

/// What happened in one memory since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemoryStats {
    /// Bytes that copies of arrays take now.
    pub used: u64,
    /// The most they took.
    pub peak: u64,
    /// Copies given up to make room, clean and written back.
    pub evictions: u64,
    /// Bytes copied into this memory, by the memory they came from.
    pub bytes_from: Vec<u64>,
    /// Copies into this memory.
    pub n_copies: u64,
}

/// What happened since the start, by memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoreStats {
    /// By [`MemoryId`].
    pub memories: Vec<MemoryStats>,
}

impl Store {
    /// For the memories of this machine. Makes streams when they are first needed.
    #[must_use]
    pub fn new(machine: Arc<Machine>) -> Arc<Self> {
        let memories = &machine.model().memories;
        let n = memories.len();
        let memories = memories.iter().map(|model| Memory::new(model, n)).collect();
        Arc::new_cyclic(|me| Self {
            machine,
            me: me.clone(),
            memories,
            clock: AtomicU64::new(1),
            arrays: Mutex::default(),
            queue: Combiner::new(VecDeque::new()),
            n_waiting: AtomicUsize::new(0),
            kept: Mutex::default(),
            closing: Default::default(),
            versions: AtomicBool::new(false),
            history: Arc::default(),
        })
    }

    /// From now on keeps a record of which version of each element is where ([`Staged::uses`]): for traces, it costs time and memory.
    pub fn keep_versions(&self) {
        self.versions.store(true, Ordering::Relaxed);
    }

    /// What happened to arrays that have, or had, instances here, in order: empty if [no record](Self::keep_versions) is kept.
    #[must_use]
    pub fn history(&self) -> Vec<Happening> {
        self.history.all()
    }

    fn keeps_versions(&self) -> bool {
        self.versions.load(Ordering::Relaxed)
    }

    /// A number of a write, and the one before for as long as it goes on.
    fn next_version() -> Version {
        // One order for all stores: arrays outlive them.
        static NEXT: AtomicU64 = AtomicU64::new(1);
        NEXT.fetch_add(2, Ordering::Relaxed) + 1
    }

    /// The machine.
    #[must_use]
    pub fn machine(&self) -> &Arc<Machine> {
        &self.machine
    }

    fn model(&self) -> &MachineModel {
        self.machine.model()
    }

    fn memory(&self, id: MemoryId) -> &Memory {
        &self.memories[id.0 as usize]
    }

    fn memory_ids(&self) -> impl Iterator<Item = MemoryId> + use<> {
        (0..u32::try_from(self.memories.len()).unwrap_or(u32::MAX)).map(MemoryId)
    }

    /// The next moment of the order of eviction.
    fn tick(&self) -> u64 {
        // Only an order of uses that are not ordered otherwise.
        self.clock.fetch_add(1, Ordering::Relaxed)
    }

    /// Bytes of a memory that are neither used nor reserved.
    #[must_use]
    pub fn free(&self, id: MemoryId) -> u64 {
        self.memory(id).free()
    }

    /// Whether the operands of one task can ever be on these devices (one per slot) together with `extra` reserved bytes each.
    ///
    /// # Errors
    /// [`DataError::TooLarge`]; [`DataError::WrittenTwice`], [`DataError::ReadOnly`]: they cannot be there for other reasons.
    pub fn check_fits(
        &self,
        operands: &[Operand],
        devices: &[DeviceId],
        extra: u64,
    ) -> Result<(), DataError> {
        let room: SmallVec<[u64; 2]> = devices.iter().map(|_| extra).collect();
        self.check_room(operands, devices, &room)
    }

    /// The same with so many reserved bytes for each device.
    ///
    /// # Errors
    /// As [`check_fits`](Self::check_fits).
    pub fn check_room(
        &self,
        operands: &[Operand],
        devices: &[DeviceId],
        room: &[u64],
    ) -> Result<(), DataError> {
        for operand in operands {
            check_writable(&operand.array, operand.access.writes())?;
        }
        self.check_writers(operands, devices)?;
        let groups = self.groups(operands, devices);
        for id in self.memory_ids() {
            let there = groups.iter().filter(|group| group.memory == id);
            let operands = there.fold(0, |sum: u64, group| sum.saturating_add(group.bytes()));
            let needed = operands.saturating_add(self.room_in(id, devices, room));
            let memory = self.memory(id);
            if needed > memory.capacity {
                return Err(DataError::TooLarge {
                    memory: memory.name.clone(),
                    needed,
                    capacity: memory.capacity,
                });
            }
            let held = memory.held.load(Ordering::SeqCst);
            if needed > memory.capacity - held {
                return Err(DataError::Reserved {
                    memory: memory.name.clone(),
                    requested: needed,
                    held,
                    in_use: 0,
                    capacity: memory.capacity,
                });
            }
        }
        Ok(())
    }

    /// Whether [`check_room`](Self::check_room) finds nothing wrong. Cheap where there is room for all of the arrays.
    #[must_use]
    pub fn has_room(&self, operands: &[Operand], devices: &[DeviceId], room: &[u64]) -> bool {
        if let ([device], [room]) = (devices, room) {
            let memory = self.memory(self.model().memory_of(*device));
            // Boxes that share an instance need no more than the whole array.
            let whole = |operand: &Operand| {
                let lengths = operand.array.shape().iter().map(|length| *length as u64);
                lengths.fold(operand.array.item() as u64, u64::saturating_mul)
            };
            let all = operands.iter().map(whole).fold(*room, u64::saturating_add);
            if all
                <= memory
                    .capacity
                    .saturating_sub(memory.held.load(Ordering::SeqCst))
            {
                return true;
            }
        }
        self.check_room(operands, devices, room).is_ok()
    }

    /// Bytes of `room` (by slot) that are in one memory.
    fn room_in(&self, memory: MemoryId, devices: &[DeviceId], room: &[u64]) -> u64 {
        let slots = devices.iter().zip(room);
        let there = slots.filter(|(device, _)| self.model().memory_of(**device) == memory);
        there.fold(0, |sum, (_, bytes)| sum.saturating_add(*bytes))
    }

    /// Bytes that would have to be copied for these operands to be on these devices: what a policy weighs.
    #[must_use]
    pub fn missing_bytes(&self, operands: &[Operand], devices: &[DeviceId]) -> u64 {
        let missing = operands.iter().map(|operand| {
            self.missing(operand, self.model().memory_of(devices[operand.slot]))
                .0
        });
        missing.fold(0, u64::saturating_add)
    }

    /// Nanoseconds that those copies take on idle links, one after another per destination.
    #[must_use]
    pub fn missing_ns(&self, operands: &[Operand], devices: &[DeviceId]) -> u64 {
        let mut longest = 0;
        for &device in devices {
            let memory = self.model().memory_of(device);
            let there =
                |operand: &&Operand| self.model().memory_of(devices[operand.slot]) == memory;
            let times = operands.iter().filter(there);
            let times = times.map(|operand| self.missing(operand, memory).1);
            longest = longest.max(times.fold(0, u64::saturating_add));
        }
        longest
    }

    /// Bytes and nanoseconds.
    fn missing(&self, operand: &Operand, to: MemoryId) -> (u64, u64) {
        let shared = &operand.array.0;
        if !operand.fetches() || operand.region.is_empty() {
            return (0, 0);
        }
        let cost = |from: MemoryId, region: &Region| {
            let link = self.model().link(from, to);
            link.transfer_ns(shared.bytes(region))
        };
        if operand.array.is_host_only() {
            return if to == MachineModel::HOST {
                (0, 0)
            } else {
                let ns = cost(MachineModel::HOST, &operand.region);
                (shared.bytes(&operand.region), ns)
            };
        }
        let state = shared.state.lock();
        let (n_elements, ns) = state.directory.missing(&operand.region, to, cost);
        (n_elements as u64 * shared.item as u64, ns)
    }

    /// Brings the operands to the devices (one per slot) and reserves `extra` bytes in the memory of each. `done` is called, on any thread and possibly
    /// before this returns, when they can be used: on [stream-ordered](parla_device::Device::stream_ordered) devices once the copies are
    /// enqueued, on others once they are done.
    ///
    /// All memory of a task is reserved at once, evicting what has not been used for longest; if that is not enough, the request waits until
    /// others give something back, first come first served. It fails only if nothing is in use that could be.
    pub fn stage(
        self: &Arc<Self>,
        operands: Arc<[Operand]>,
        devices: &[DeviceId],
        extra: u64,
        done: StagedCallback,
    ) {
        let order = Order {
            operands,
            devices: devices.into(),
            room: devices.iter().map(|_| extra).collect(),
            again: false,
        };
        self.order(order, done);
    }

    /// Reserves bytes of a device's memory for a body that runs. Tasks that wait for memory come after it: they may wait for what it uses.
    pub fn room(self: &Arc<Self>, device: DeviceId, bytes: u64, done: StagedCallback) {
        let order = Order {
            operands: Arc::default(),
            devices: [device][..].into(),
            room: [bytes][..].into(),
            again: false,
        };
        self.ask(order, true, done);
    }

    /// The same as [`stage`](Self::stage) for a task as it is.
    pub fn order(self: &Arc<Self>, order: Order, done: StagedCallback) {
        self.ask(order, false, done);
    }

    fn ask(self: &Arc<Self>, order: Order, runs: bool, done: StagedCallback) {
        if let Err(error) = self.check_room(&order.operands, &order.devices, &order.room) {
            return done(Err(error));
        }
        self.tell_devices(&order.operands, &order.devices);
        self.n_waiting.fetch_add(1, Ordering::SeqCst);
        self.queue.post(Request { order, runs, done });
        self.pump_on();
    }

    /// Lets devices know, once each, the homes that copies will use.
    fn tell_devices(&self, operands: &[Operand], devices: &[DeviceId]) {
        for operand in operands {
            let device = devices[operand.slot];
            let memory = self.model().memory_of(device);
            let bit = 1 << memory.0;
            let shared = &operand.array.0;
            // Telling twice would be harmless.
            if memory != MachineModel::HOST
                && shared.pinned.fetch_or(bit, Ordering::Relaxed) & bit == 0
            {
                self.machine.device(device).pin_host(&shared.home.block);
            }
        }
    }

    /// Counts since the start.
    #[must_use]
    pub fn stats(&self) -> StoreStats {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let memories = self.memories.iter().map(|memory| MemoryStats {
            used: read(&memory.used),
            peak: read(&memory.peak),
            evictions: read(&memory.evictions),
            bytes_from: memory.bytes_from.iter().map(read).collect(),
            n_copies: read(&memory.n_copies),
        });
        StoreStats {
            memories: memories.collect(),
        }
    }
}

/// Refuses to change what must not be changed.
fn check_writable(array: &Array, write: bool) -> Result<(), DataError> {
    if write && !array.home().writable {
        return Err(DataError::ReadOnly {
            array: array.name().to_owned(),
        });
    }
    Ok(())
}

impl Memory {
    fn new(model: &parla_core::MemoryModel, n_memories: usize) -> Self {
        Self {
            name: model.name.clone(),
            capacity: model.capacity,
            copy_name: Arc::from(format!("its copy to {} failed", model.name)),
            used: AtomicU64::new(0),
            reserved: AtomicU64::new(0),
            held: AtomicU64::new(0),
            peak: AtomicU64::new(0),
            evictions: AtomicU64::new(0),
            n_copies: AtomicU64::new(0),
            bytes_from: (0..n_memories).map(|_| AtomicU64::new(0)).collect(),
            streams: Mutex::default(),
            recency: Mutex::default(),
            trouble: Mutex::default(),
        }
    }

    fn free(&self) -> u64 {
        let taken = self.used.load(Ordering::SeqCst)
            + self.reserved.load(Ordering::SeqCst)
            + self.held.load(Ordering::SeqCst);
        self.capacity.saturating_sub(taken)
    }
}

#[cfg(test)]
mod tests;
