//! The instances of one array: where they are, who uses them, what is outstanding on them.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use parla_core::{MachineModel, MemoryId, Region};
use parla_device::{Block, DeviceError, DeviceKey, Place};
use smallvec::SmallVec;

use crate::array::{Home, Shared};
use crate::directory::{Directory, InstanceId};
use crate::history::{DataEvent, Diary};
use crate::op::Op;
use crate::store::{Rank, Store, Writer};
use crate::versions::Versions;

/// What the lock of an array guards.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) directory: Directory,
    // In the order of their ids; the first is the home. Those that the directory does not know are on lost devices and still in use.
    pub(crate) instances: Vec<Instance>,
    // Tasks that are staged and write, except those that are only counted at home.
    pub(crate) writers: Vec<Writer>,
    // For traces; without one it stays empty.
    pub(crate) versions: Versions,
    // For traces, too, once there was an instance of it elsewhere.
    pub(crate) diary: Option<Diary>,
}

/// A dense copy of a box in some memory, or the home.
#[derive(Debug)]
pub(crate) struct Instance {
    pub(crate) id: InstanceId,
    pub(crate) memory: MemoryId,
    pub(crate) region: Region,
    pub(crate) bytes: u64,
    block: Arc<Block>,
    offset: usize,
    strides: SmallVec<[isize; 4]>,
    /// How many [`Staged`](crate::Staged) use it.
    pub(crate) pins: u32,
    /// When it was last used, by the store's count of uses.
    pub(crate) stamp: u64,
    /// Where it is entered in the order of eviction, if it is.
    pub(crate) rank: Option<Rank>,
    /// What has not ended yet.
    pub(crate) outstanding: Vec<Outstanding>,
    // Whose memory it is; none for the home.
    owner: Weak<Store>,
}

/// Something that has not ended yet and uses a part of an instance.
#[derive(Debug)]
pub(crate) struct Outstanding {
    pub(crate) op: Arc<Op>,
    pub(crate) region: Region,
    /// Whether it changes it.
    pub(crate) write: bool,
    /// The parts of the instance that are valid only if it ends well.
    pub(crate) live: Vec<Region>,
}

impl State {
    pub(crate) fn new(shape: &[usize], home: &Home) -> Self {
        let home = Instance {
            id: InstanceId::HOME,
            memory: MachineModel::HOST,
            region: Region::whole(shape),
            bytes: home.block.bytes(),
            block: Arc::clone(&home.block),
            offset: home.offset,
            strides: home.strides.clone(),
            pins: 0,
            stamp: 0,
            rank: None,
            outstanding: Vec::new(),
            owner: Weak::new(),
        };
        Self {
            directory: Directory::new(shape),
            instances: vec![home],
            writers: Vec::new(),
            versions: Versions::default(),
            diary: None,
        }
    }

    pub(crate) fn home(&self) -> &Instance {
        &self.instances[0]
    }

    fn position(&self, id: InstanceId) -> Option<usize> {
        self.instances.binary_search_by_key(&id, |i| i.id).ok()
    }

    pub(crate) fn get(&self, id: InstanceId) -> Option<&Instance> {
        self.instances.get(self.position(id)?)
    }

    pub(crate) fn get_mut(&mut self, id: InstanceId) -> Option<&mut Instance> {
        let position = self.position(id)?;
        self.instances.get_mut(position)
    }

    /// Takes an instance that nobody uses out; it is to be [released](Instance::release) once the lock is gone.
    pub(crate) fn take(&mut self, id: InstanceId, because: &str) -> Option<Instance> {
        self.note(id, None, DataEvent::GivenUp);
        self.directory.remove(id, because);
        self.versions.forget(id);
        self.position(id).map(|at| self.instances.remove(at))
    }

    /// Of an instance's region, from now on `op` decides whether it is valid, and nothing before it.
    pub(crate) fn supersede(&mut self, id: InstanceId, region: &Region) {
        if let Some(instance) = self.get_mut(id) {
            for outstanding in &mut instance.outstanding {
                let live = std::mem::take(&mut outstanding.live);
                outstanding.live = live.iter().flat_map(|r| r.difference(region)).collect();
            }
        }
    }

    /// A task or the host's code changed `region` in `id`.
    pub(crate) fn written(&mut self, region: &Region, id: InstanceId) {
        if self.directory.instance(id).is_none() {
            self.note(id, Some(region), DataEvent::Spoilt);
            self.directory
                .invalidated(region, "it was written on a device that was lost");
            return;
        }
        self.note(id, Some(region), DataEvent::Written);
        self.supersede(id, region);
        self.directory.written(region, id);
    }

    /// Enters what happens to a box of an instance (all of it, if it is not said) into the record, if one is kept.
    pub(crate) fn note(&self, id: InstanceId, region: Option<&Region>, event: DataEvent) {
        if let (Some(diary), Some(instance)) = (&self.diary, self.get(id)) {
            let region = region.unwrap_or(&instance.region);
            diary.add(id, instance.memory, region, event);
        }
    }
}

impl Instance {
    /// A new one, in use once.
    pub(crate) fn new(
        id: InstanceId,
        memory: MemoryId,
        region: Region,
        item: usize,
        block: Arc<Block>,
        owner: Weak<Store>,
    ) -> Self {
        let mut strides: SmallVec<[isize; 4]> = SmallVec::new();
        let mut stride = item;
        for length in region.shape().iter().rev() {
            strides.push(isize::try_from(stride).unwrap_or(isize::MAX));
            stride = stride.saturating_mul(*length);
        }
        strides.reverse();
        Self {
            id,
            memory,
            region,
            bytes: block.bytes(),
            block,
            offset: 0,
            strides,
            pins: 1,
            stamp: 0,
            rank: None,
            outstanding: Vec::new(),
            owner,
        }
    }

    /// Where the first element of `region` is, with the strides here.
    pub(crate) fn place(&self, region: &Region, device: Option<DeviceKey>) -> Place {
        let starts = region.ranges().zip(self.region.ranges());
        let indices = starts.map(|(r, own)| r.start.wrapping_sub(own.start));
        let mut offset = self.offset;
        if !region.is_empty() {
            for (index, stride) in indices.zip(&self.strides) {
                offset = offset.wrapping_add_signed(stride.wrapping_mul(index.cast_signed()));
            }
        }
        Place {
            block: Arc::clone(&self.block),
            offset,
            strides: self.strides.clone(),
            device,
        }
    }

    /// What an access to `region` has to come after.
    pub(crate) fn before<'a>(
        &'a self,
        region: &'a Region,
        write: bool,
    ) -> impl Iterator<Item = &'a Outstanding> {
        let conflicts =
            move |o: &&Outstanding| (o.write || write) && o.region.intersection(region).is_some();
        self.outstanding.iter().filter(conflicts)
    }

    /// Whether it can be given up without waiting, as far as its users are concerned.
    pub(crate) fn is_idle(&self) -> bool {
        self.pins == 0 && self.outstanding.is_empty()
    }

    pub(crate) fn is_of(&self, store: &Weak<Store>) -> bool {
        self.owner.ptr_eq(store)
    }

    /// Gives the memory back once everything outstanding on it has ended. No lock may be held, except that of the store's queue.
    pub(crate) fn release(self) {
        let Self {
            memory,
            bytes,
            block,
            rank,
            outstanding,
            owner,
            ..
        } = self;
        if let (Some(rank), Some(store)) = (rank, owner.upgrade()) {
            store.gone(memory, rank);
        }
        let give_back = move || {
            drop(block);
            if let Some(store) = owner.upgrade() {
                store.freed(memory, bytes);
            }
        };
        if outstanding.is_empty() {
            return give_back();
        }
        let left = Arc::new(AtomicUsize::new(outstanding.len()));
        let give_back = Arc::new(parla_core::lock::Mutex::new(Some(give_back)));
        for outstanding in outstanding {
            let (left, give_back) = (Arc::clone(&left), Arc::clone(&give_back));
            outstanding.op.then(Box::new(move |_| {
                // The last one sees what all others did before.
                if left.fetch_sub(1, Ordering::AcqRel) == 1 {
                    let give_back = give_back.lock().take();
                    if let Some(give_back) = give_back {
                        give_back();
                    }
                }
            }));
        }
    }
}

impl Shared {
    /// `op` has ended: nobody needs to wait for it any more. If it failed, what it was to write is not valid.
    pub(crate) fn settle(&self, op: &Op, error: Option<&DeviceError>) {
        let mut state = self.state.lock();
        let State {
            directory,
            instances,
            diary,
            ..
        } = &mut *state;
        for instance in instances {
            let id = instance.id;
            instance.outstanding.retain_mut(|outstanding| {
                if !std::ptr::eq(Arc::as_ptr(&outstanding.op), op) {
                    return true;
                }
                if let Some(error) = error {
                    let because = format!("{}: {error}", op.what);
                    for region in &outstanding.live {
                        if let Some(diary) = diary {
                            diary.add(id, instance.memory, region, DataEvent::Failed);
                        }
                        directory.forget(region, id, &because);
                    }
                }
                false
            });
        }
        self.update_host_only(&state);
    }
}
