//! Arrays: a shape, a home in the host's memory, and copies elsewhere.

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parla_core::lock::Mutex;
use parla_core::{MachineModel, MemoryId, Region};
use parla_device::Block;
use smallvec::SmallVec;

use crate::directory::InstanceId;
use crate::history::DataEvent;
use crate::instance::State;

/// Names an array, uniquely in this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ArrayId(pub u64);

/// An array's place in the host's memory: all of its elements. It is the user's own buffer where there is one, with whatever strides it has.
#[derive(Clone, Debug)]
pub struct Home {
    /// The memory; it keeps the user's buffer alive.
    pub block: Arc<Block>,
    /// Bytes from the block's beginning to the element with all indices 0.
    pub offset: usize,
    /// Bytes from one element to the next along each dimension; may be negative.
    pub strides: SmallVec<[isize; 4]>,
    /// Whether it may be written. An array whose home is read-only can be an input only.
    pub writable: bool,
}

/// A coherent array. Clones are the same array. All copies outside the host are given back when the last clone goes.
#[derive(Clone)]
pub struct Array(pub(crate) Arc<Shared>);

impl std::fmt::Debug for Array {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Array({} #{})", self.0.name, self.0.id.0)
    }
}

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) id: ArrayId,
    pub(crate) name: String,
    pub(crate) shape: SmallVec<[usize; 4]>,
    pub(crate) item: usize,
    pub(crate) home: Home,
    /// True only if the directory says that all is at home, nothing is elsewhere, nothing is outstanding and no writer is entered. Changed under the lock of `state`.
    pub(crate) host_only: AtomicBool,
    /// One bit per memory whose device has been told of the home ([`parla_device::Device::pin_host`]).
    pub(crate) pinned: AtomicU64,
    pub(crate) state: Mutex<State>,
}

impl Array {
    /// An array of `item`-byte elements whose contents are in `home`.
    #[must_use]
    pub fn new(name: &str, shape: &[usize], item: usize, home: Home) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self(Arc::new(Shared {
            // Only its uniqueness matters.
            id: ArrayId(NEXT.fetch_add(1, Ordering::Relaxed)),
            name: name.to_owned(),
            shape: shape.into(),
            item,
            state: Mutex::new(State::new(shape, &home)),
            home,
            host_only: AtomicBool::new(true),
            pinned: AtomicU64::new(0),
        }))
    }

    /// Its name in messages.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Which.
    #[must_use]
    pub fn id(&self) -> ArrayId {
        self.0.id
    }

    /// Number of indices along each dimension.
    #[must_use]
    pub fn shape(&self) -> &[usize] {
        &self.0.shape
    }

    /// Bytes per element.
    #[must_use]
    pub fn item(&self) -> usize {
        self.0.item
    }

    /// Where it is in the host's memory.
    #[must_use]
    pub fn home(&self) -> &Home {
        &self.0.home
    }

    /// Whether nothing but the home ever held any of it since it was last wholly at home: then no directory is consulted. One atomic load.
    #[must_use]
    #[inline]
    pub fn is_host_only(&self) -> bool {
        // Pairs with the stores in `Shared::update_host_only`: who sees `true` sees the home as the last copies left it.
        self.0.host_only.load(Ordering::Acquire)
    }

    /// Bytes of the newest contents of `region` that are valid in `memory`.
    #[must_use]
    pub fn bytes_valid(&self, memory: MemoryId, region: &Region) -> u64 {
        let n = self.0.state.lock().directory.n_valid_in(memory, region);
        n as u64 * self.0.item as u64
    }

    /// Bytes that its copies occupy in `memory`, valid or not; for the host its own size.
    #[must_use]
    pub fn bytes_allocated(&self, memory: MemoryId) -> u64 {
        if memory == MachineModel::HOST {
            return self.0.bytes(&Region::whole(self.shape()));
        }
        let state = self.0.state.lock();
        let there = state.instances.iter().filter(|i| i.memory == memory);
        there.map(|i| i.bytes).sum()
    }

    /// For people: one line per box of the directory, with the memories of a machine where it is valid.
    #[must_use]
    pub fn overview(&self, model: &MachineModel) -> String {
        let state = self.0.state.lock();
        let mut lines = Vec::new();
        for (region, holders, because) in state.directory.entries() {
            let mut line = format!("{}{region}: ", self.0.name);
            let memories = holders
                .iter()
                .filter_map(|&id| state.directory.instance(id));
            let mut memories: Vec<u32> = memories.map(|e| e.memory.0).collect();
            memories.sort_unstable();
            memories.dedup();
            for (i, memory) in memories.iter().enumerate() {
                let comma = if i > 0 { ", " } else { "" };
                let _ = match model.memories.get(*memory as usize) {
                    Some(known) => write!(line, "{comma}{}", known.name),
                    None => write!(line, "{comma}memory {memory}"),
                };
            }
            if let Some(because) = because {
                let _ = write!(line, "invalid: {because}");
            }
            lines.push((region.clone(), line));
        }
        lines.sort();
        let lines: Vec<String> = lines.into_iter().map(|(_, line)| line).collect();
        lines.join("\n")
    }
}

impl Shared {
    /// The size of a box of it; what doesn't fit into 64 bits is as good as infinite.
    pub(crate) fn bytes(&self, region: &Region) -> u64 {
        let lengths = region.ranges().map(|r| r.len() as u64);
        lengths.fold(self.item as u64, u64::saturating_mul)
    }

    /// To be called under the lock of `state` after the last change there.
    pub(crate) fn update_host_only(&self, state: &State) {
        // There may be instances on lost devices that the directory has forgotten.
        let only = state.instances.len() == 1
            && state.directory.is_home_only()
            && state.home().outstanding.is_empty()
            && state.writers.is_empty();
        // Pairs with the load in `is_host_only`.
        self.host_only.store(only, Ordering::SeqCst);
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let state = self.state.get_mut();
        if let Some(diary) = &state.diary {
            diary.add_whole(DataEvent::Dropped);
        }
        for instance in state.instances.drain(..) {
            if instance.id != InstanceId::HOME {
                instance.release();
            }
        }
    }
}
