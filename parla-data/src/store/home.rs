//! The host's side: bringing contents home, giving copies up, and what the host's own code needs.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use parla_core::lock::Mutex;
use parla_core::{DeviceId, MachineModel, MemoryId, Region};

use super::queue::After;
use super::{Ahead, ArrivedCallback, Store, check_writable};
use crate::array::Shared;
use crate::directory::InstanceId;
use crate::history::DataEvent;
use crate::instance::{Instance, State};
use crate::op::Op;
use crate::{Array, DataError, Operand};

/// What has been begun to bring an array home.
struct Homecoming {
    /// In how many parts it was invalid before.
    poisoned: usize,
    ops: Vec<Arc<Op>>,
    /// Why something could not be begun.
    error: Option<DataError>,
}

impl Store {
    /// Begins to copy what is missing of one operand to a device, if there is free memory for it. Only a hint: correctness never depends on it.
    /// Returns the number of bytes on their way. `arrived` is called when these copies have ended, well or not, on any thread and possibly before this
    /// returns.
    pub fn prefetch(
        self: &Arc<Self>,
        operand: &Operand,
        device: DeviceId,
        ahead: &Ahead,
        arrived: ArrivedCallback,
    ) -> u64 {
        let memory = self.model().memory_of(device);
        let shared = &operand.array.0;
        if !operand.fetches()
            || operand.region.is_empty()
            || memory == MachineModel::HOST && operand.array.is_host_only()
            || !ahead.wanted.load(Ordering::Relaxed)
        {
            arrived();
            return 0;
        }
        let mut after = After::default();
        let bytes = {
            // Two at once must not both allocate.
            let _queue = self.queue.lock();
            self.instance_for_prefetch(operand, device, &mut after)
                .and_then(|id| {
                    let mut state = shared.state.lock();
                    // The task has this lock when it asks, after it has said so.
                    let bytes = if ahead.wanted.load(Ordering::Relaxed) {
                        let sure = ahead.sure;
                        state.note(id, Some(&operand.region), DataEvent::Ahead { sure });
                        self.fetch(shared, &mut state, id, &operand.region, &mut after.ops)
                    } else {
                        Ok(0)
                    };
                    self.unpin(shared, &mut state, id);
                    bytes.ok()
                })
        };
        let ops = after.ops.clone();
        after.run();
        self.pump_on();
        when_ended(&ops, arrived);
        bytes.unwrap_or(0)
    }

    /// An instance that is there, or one in memory that is free; pinned once.
    fn instance_for_prefetch(
        &self,
        operand: &Operand,
        device: DeviceId,
        after: &mut After,
    ) -> Option<InstanceId> {
        let memory = self.model().memory_of(device);
        if memory == MachineModel::HOST {
            return Some(InstanceId::HOME);
        }
        let mut alone = operand.clone();
        alone.slot = 0;
        let operands = [alone];
        let groups = self.groups(&operands, &[device]);
        let group = groups.first()?;
        let found = self.find_and_pin(group, false);
        let id = found.or_else(|| {
            let account = self.memory(memory);
            if group.bytes() > account.free() {
                return None;
            }
            let block = self.machine.device(device).allocate(group.bytes()).ok()?;
            Some(self.settle_in(group, block))
        });
        drop(groups);
        let [alone] = operands;
        after.arrays.push(alone.array.0);
        id
    }

    /// Blocks until the home of an array has the newest contents of `region`. If `write`, it is about to be changed there: no other copy stays valid.
    ///
    /// # Errors
    /// [`DataError::Invalid`] unless `write`; [`DataError::ReadOnly`]; what a device says.
    pub fn to_host(
        self: &Arc<Self>,
        array: &Array,
        region: &Region,
        write: bool,
    ) -> Result<(), DataError> {
        self.reach(array, region, write, true)
    }

    /// Blocks until the home of `region` can be overwritten, and counts it as the only valid copy: nothing is brought. Whoever cannot keep
    /// the promise to replace all of it has to [spoil](Self::spoil) it.
    ///
    /// # Errors
    /// [`DataError::ReadOnly`].
    pub fn to_overwrite(self: &Arc<Self>, array: &Array, region: &Region) -> Result<(), DataError> {
        self.reach(array, region, true, false)
    }

    /// From now on nobody knows the contents of `region`.
    pub fn spoil(&self, array: &Array, region: &Region, because: &str) {
        let shared = &array.0;
        let mut state = shared.state.lock();
        state.note(InstanceId::HOME, Some(region), DataEvent::Spoilt);
        state.supersede(InstanceId::HOME, region);
        state.directory.invalidated(region, because);
        shared.update_host_only(&state);
    }

    /// `fetches`: its contents matter.
    fn reach(
        self: &Arc<Self>,
        array: &Array,
        region: &Region,
        write: bool,
        fetches: bool,
    ) -> Result<(), DataError> {
        check_writable(array, write)?;
        if array.is_host_only() {
            return Ok(());
        }
        // What a task has written meanwhile comes, too.
        while !self.reach_once(array, region, write, fetches)? {}
        Ok(())
    }

    /// `false`: elsewhere something was written meanwhile, so it is not to be counted as outdated yet.
    fn reach_once(
        self: &Arc<Self>,
        array: &Array,
        region: &Region,
        write: bool,
        fetches: bool,
    ) -> Result<bool, DataError> {
        let shared = &array.0;
        let mut ops = Vec::new();
        let (fetched, waits) = {
            let mut state = shared.state.lock();
            let overwrites = !fetches;
            let reached = DataEvent::Reached { overwrites };
            state.note(InstanceId::HOME, Some(region), reached);
            let fetched = if !fetches {
                Ok(())
            } else if write {
                // What nobody knows may be overwritten.
                self.purge_lost(&mut state);
                let known = state.directory.known(region);
                self.fetch_all(shared, &mut state, known, &mut ops)
            } else {
                self.fetch(shared, &mut state, InstanceId::HOME, region, &mut ops)
                    .map(|_| ())
            };
            let before = state.home().before(region, write);
            let waits: Vec<_> = before
                .map(|o| (Arc::clone(&o.op), o.write && fetches))
                .collect();
            (fetched, waits)
        };
        watch(&ops);
        let waited = wait(&waits);
        fetched?;
        waited?;
        if write {
            let mut state = shared.state.lock();
            let known = state.directory.known(region);
            let n_known: usize = known.iter().map(Region::n_elements).sum();
            let waited = !(ops.is_empty() && waits.is_empty());
            if fetches && waited && state.directory.n_valid(InstanceId::HOME, region) < n_known {
                return Ok(false);
            }
            state.written(region, InstanceId::HOME);
            self.outdated(shared, &mut state, region);
            if self.keeps_versions() {
                let version = Self::next_version();
                state.versions.wrote(InstanceId::HOME, region, version);
            }
            shared.update_host_only(&state);
        }
        Ok(true)
    }

    fn fetch_all(
        &self,
        array: &Arc<Shared>,
        state: &mut State,
        regions: Vec<Region>,
        ops: &mut Vec<Arc<Op>>,
    ) -> Result<(), DataError> {
        let mut first = Ok(());
        for region in regions {
            let fetched = self.fetch(array, state, InstanceId::HOME, &region, ops);
            first = first.and(fetched.map(|_| ()));
        }
        first
    }

    /// Blocks until an array's copies in `memory` are gone; what is newest there goes home first. Copies that a task uses at this moment stay. In the
    /// host's memory nothing is done: the home is always there.
    ///
    /// # Errors
    /// What a device says.
    pub fn evict(self: &Arc<Self>, array: &Array, memory: MemoryId) -> Result<(), DataError> {
        if memory == MachineModel::HOST {
            return Ok(());
        }
        let event = Some((memory, DataEvent::Evicted));
        self.send_home(&array.0, |there| there == memory, false, None, event)
    }

    /// Blocks until an array is at home and nowhere else, except for copies that a task uses at this moment.
    ///
    /// # Errors
    /// What a device says; the array is at home as far as that was possible, the rest is invalid.
    pub fn flush(self: &Arc<Self>, array: &Array) -> Result<(), DataError> {
        let event = Some((MachineModel::HOST, DataEvent::CalledHome));
        self.send_home(&array.0, |_| true, true, None, event)
    }

    /// Begins to bring home what is newest elsewhere. Whoever waits for it begins what could not be begun here, and learns why.
    fn start_home(&self, array: &Arc<Shared>) -> Homecoming {
        let mut ops = Vec::new();
        let (poisoned, begun) = {
            let mut state = array.state.lock();
            if let Some(diary) = &state.diary {
                diary.add_whole(DataEvent::CalledHome);
            }
            let poisoned = n_poisoned(&state);
            let away: Vec<Region> = state
                .directory
                .entries()
                .filter(|(_, holders, _)| {
                    !holders.is_empty() && !holders.contains(&InstanceId::HOME)
                })
                .map(|(region, _, _)| region.clone())
                .collect();
            let begun = self.fetch_all(array, &mut state, away, &mut ops);
            (poisoned, begun)
        };
        watch(&ops);
        let error = begun.err();
        Homecoming {
            poisoned,
            ops,
            error,
        }
    }

    /// Brings home what is newest in these memories only, and gives the copies there up; `at_any_rate`: also those that could not be brought home. Goes
    /// on with what has been begun. If more parts are invalid then than were before, that is an error.
    fn send_home(
        &self,
        array: &Arc<Shared>,
        concerned: impl Fn(MemoryId) -> bool,
        at_any_rate: bool,
        begun: Option<Homecoming>,
        event: Option<(MemoryId, DataEvent)>,
    ) -> Result<(), DataError> {
        if array.host_only.load(Ordering::Acquire) {
            return Ok(());
        }
        let mut ops = Vec::new();
        let (poisoned, error, fetched, waits) = {
            let mut state = array.state.lock();
            if let (Some(diary), Some((memory, event))) = (&state.diary, event) {
                diary.add_all_in(memory, event);
            }
            let begun = begun.unwrap_or_else(|| Homecoming {
                poisoned: n_poisoned(&state),
                ops: Vec::new(),
                error: None,
            });
            self.purge_lost(&mut state);
            let there = state.directory.instances().iter();
            let there = there.filter(|e| e.id != InstanceId::HOME && concerned(e.memory));
            let ids: Vec<InstanceId> = there.map(|e| e.id).collect();
            let mut fetched = Ok(());
            for &id in &ids {
                let sole = state.directory.sole(id);
                fetched = fetched.and(self.fetch_all(array, &mut state, sole, &mut ops));
            }
            // Copies of the same bytes in two of these memories.
            let shared_by: Vec<Region> = state
                .directory
                .entries()
                .filter(|(_, holders, _)| {
                    !holders.is_empty() && holders.iter().all(|id| ids.contains(id))
                })
                .map(|(region, _, _)| region.clone())
                .collect();
            fetched = fetched.and(self.fetch_all(array, &mut state, shared_by, &mut ops));
            let concerned = |i: &&Instance| i.id == InstanceId::HOME || concerned(i.memory);
            let instances = state.instances.iter().filter(concerned);
            let outstanding = instances.flat_map(|i| &i.outstanding);
            let waits = outstanding.map(|o| (Arc::clone(&o.op), o.write));
            // They may have ended, and not well.
            let waits = waits.chain(begun.ops.into_iter().map(|op| (op, true)));
            let waits = waits.collect::<Vec<_>>();
            (begun.poisoned, begun.error, fetched, waits)
        };
        watch(&ops);
        let waited = wait(&waits);
        let mut after = After::default();
        let lost = {
            let mut state = array.state.lock();
            self.purge_lost(&mut state);
            let failed = at_any_rate && (fetched.is_err() || waited.is_err());
            let goes =
                |i: &&Instance| i.id != InstanceId::HOME && concerned(i.memory) && i.is_idle();
            let idle: Vec<InstanceId> = state.instances.iter().filter(goes).map(|i| i.id).collect();
            for id in idle {
                // One by one: the copy that was given up before may have been the last but one.
                if failed || state.directory.sole(id).is_empty() {
                    after.unused.extend(state.take(id, "its copy home failed"));
                }
            }
            array.update_host_only(&state);
            (n_poisoned(&state) > poisoned).then(|| first_poisoned(array, &state))
        };
        after.run();
        fetched?;
        waited?;
        // Where something is lost that could not be begun, that is why.
        let lost = lost.flatten().map(|lost| error.unwrap_or(lost));
        lost.map_or(Ok(()), Err)
    }

    /// Keeps an array, the last handle of which its user is about to drop, until its home is current: the user still sees that. Its copies
    /// elsewhere are given up when there is need of the memory, or by [`close`](Self::close).
    pub fn keep(&self, array: Array) {
        // One is the user's handle that is about to go, one is `array`.
        if array.is_host_only() && Arc::strong_count(&array.0) <= 2 {
            return;
        }
        let mut gone = Vec::new();
        let mut kept = self.kept.lock();
        if kept.arrays.len() >= kept.enough {
            let came_home = |array: &Array| {
                let whole = Region::whole(array.shape());
                Arc::strong_count(&array.0) == 1
                    && array.bytes_valid(MachineModel::HOST, &whole) == array.0.bytes(&whole)
            };
            let (done, rest) = std::mem::take(&mut kept.arrays)
                .into_iter()
                .partition(came_home);
            gone = done;
            kept.arrays = rest;
            kept.enough = (2 * kept.arrays.len()).max(64);
        }
        kept.arrays.push(array);
        drop(kept);
        drop(gone); // whoever owns their memory may have something to do
    }

    /// Whether no array has, or had, anything in the memory of a device: then there is nothing to [`close`](Self::close) that takes time.
    #[must_use]
    pub fn is_unused(&self) -> bool {
        self.arrays.lock().is_empty()
    }

    /// Flushes every array. Called when the runtime ends.
    ///
    /// # Errors
    /// The first error of each array.
    pub fn close(self: &Arc<Self>) -> Result<(), Vec<DataError>> {
        let mut errors = Vec::new();
        let kept = std::mem::take(&mut *self.kept.lock());
        let arrays = self.arrays_here();
        // All begin to travel before the first is waited for: the links of several devices are busy at the same time.
        let begun: Vec<_> = arrays.iter().map(|array| self.start_home(array)).collect();
        for (array, begun) in arrays.iter().zip(begun) {
            let sent = self.send_home(array, |_| true, true, Some(begun), None);
            errors.extend(sent.err());
        }
        drop(arrays);
        drop(kept);
        let streams = self.memories.iter().map(|memory| {
            let mut streams = memory.streams.lock();
            std::mem::take(&mut *streams)
        });
        drop(streams.collect::<Vec<_>>());
        // Arrays that were dropped give their memory back once the copies they were part of have ended.
        loop {
            let seen = *self.closing.0.lock();
            if !self.memory_ids().any(|id| self.is_giving_back(id)) {
                break;
            }
            let mut n_freed = self.closing.0.lock();
            while *n_freed == seen {
                self.closing.1.wait(&mut n_freed);
            }
        }
        if errors.is_empty() {
            Ok(())
        } else {
            Err(errors)
        }
    }
}

impl Store {
    /// Whether some memory was released that is still needed by work under way.
    fn is_giving_back(&self, memory: MemoryId) -> bool {
        let ours = |i: &&Instance| i.memory == memory && i.is_of(&self.me);
        let arrays = self.arrays_here();
        let bytes = arrays.iter().map(|array| {
            let state = array.state.lock();
            state
                .instances
                .iter()
                .filter(ours)
                .map(|i| i.bytes)
                .sum::<u64>()
        });
        self.memory(memory).used.load(Ordering::SeqCst) > bytes.sum()
    }
}

/// Calls `done` when all have ended.
fn when_ended(ops: &[Arc<Op>], done: ArrivedCallback) {
    // The last one to let go of it calls it.
    let done = Arc::new(Mutex::new(Some(done)));
    for op in ops {
        let done = Arc::clone(&done);
        op.then(Box::new(move |_| call_if_last(done)));
    }
    call_if_last(done);
}

fn call_if_last(done: Arc<Mutex<Option<ArrivedCallback>>>) {
    let last = Arc::into_inner(done).and_then(|done| done.lock().take());
    if let Some(done) = last {
        done();
    }
}

fn watch(ops: &[Arc<Op>]) {
    for op in ops {
        op.watch();
    }
}

/// Blocks until all have ended; the first error of those whose result is needed.
pub(super) fn wait(waits: &[(Arc<Op>, bool)]) -> Result<(), DataError> {
    let mut first = Ok(());
    for (op, needed) in waits {
        let waited = op.wait();
        if *needed {
            first = first.and(waited.map_err(DataError::from));
        }
    }
    first
}

fn n_poisoned(state: &State) -> usize {
    let poisoned = state.directory.entries();
    let poisoned = poisoned.filter(|(_, holders, _)| holders.is_empty());
    poisoned.map(|(region, _, _)| region.n_elements()).sum()
}

fn first_poisoned(array: &Shared, state: &State) -> Option<DataError> {
    let mut entries = state.directory.entries();
    entries.find_map(|(region, _, because)| {
        because.map(|because| DataError::Invalid {
            array: array.name.clone(),
            region: region.clone(),
            because: because.to_owned(),
        })
    })
}
