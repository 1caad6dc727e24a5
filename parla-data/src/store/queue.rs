//! Requests for operands: looked at in turn by whoever holds the queue, first come first served in each memory.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parla_core::lock::Mutex;
use parla_core::{MachineModel, MemoryId};
use parla_device::{Block, DeviceError, Event};
use smallvec::SmallVec;

use super::groups::Group;
use super::writers::leave_writers;
use super::{Order, StagedCallback, Store};
use crate::array::Shared;
use crate::directory::InstanceId;
use crate::history::Diary;
use crate::instance::{Instance, State};
use crate::op::Op;
use crate::store::staged::{Staged, without};
use crate::{DataError, Operand};

/// Operands that are to be brought to devices.
pub(super) struct Request {
    pub(super) order: Order,
    /// For a body that runs: those who wait for what it uses do not keep it from anything.
    pub(super) runs: bool,
    pub(super) done: StagedCallback,
}

impl std::fmt::Debug for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Request({} operands)", self.order.operands.len())
    }
}

/// A request whose memory and copies are on their way.
struct Placed {
    staged: Staged,
    waits: Waits,
}

/// What has to end before a body can start; well, if `true`.
type Waits = Vec<(Arc<Op>, bool)>;

/// So often is looked again whether memory that nobody uses can be had: meanwhile others may use it for a moment.
const TRIES: usize = 1000;

/// Why a request is not placed.
enum Refusal {
    Failed(DataError),
    /// This memory is full of what is in use; bits: all those in which room is needed.
    Full(MemoryId, u64),
    /// A task that writes has to end first.
    Disturbed,
}

/// What has to be done once no lock is held.
#[derive(Default)]
pub(super) struct After {
    pub(super) ops: Vec<Arc<Op>>,
    pub(super) unused: Vec<Instance>,
    // What a device said that should have had memory.
    pub(super) refused: Option<DeviceError>,
    // May be the last references to what belongs to users.
    pub(super) arrays: Vec<Arc<Shared>>,
    blocks: Vec<Arc<Block>>,
    staged: Vec<Staged>,
    placed: Vec<(StagedCallback, Placed)>,
    failed: Vec<(Request, DataError)>,
    finished: Vec<Arc<[Operand]>>,
}

impl After {
    pub(super) fn run(self) {
        for op in &self.ops {
            op.watch();
        }
        for instance in self.unused {
            instance.release();
        }
        drop((self.blocks, self.staged, self.arrays, self.finished));
        for (request, error) in self.failed {
            (request.done)(Err(error));
        }
        for (done, placed) in self.placed {
            when_done(done, placed);
        }
    }
}

/// Calls `done` when all that has to end first has: with an error if something failed whose result is needed.
fn when_done(done: StagedCallback, placed: Placed) {
    struct Wait {
        left: AtomicUsize,
        rest: Mutex<Rest>,
    }
    struct Rest {
        done: Option<(StagedCallback, Staged)>,
        error: Option<DeviceError>,
    }
    let Placed { staged, waits } = placed;
    if waits.is_empty() {
        return done(Ok(staged));
    }
    let wait = Arc::new(Wait {
        left: AtomicUsize::new(waits.len()),
        rest: Mutex::new(Rest {
            done: Some((done, staged)),
            error: None,
        }),
    });
    for (op, needed) in waits {
        let wait = Arc::clone(&wait);
        op.then(Box::new(move |error| {
            if needed && let Some(error) = error {
                wait.rest.lock().error = Some(error.clone());
            }
            // The last one sees what all others did before.
            if wait.left.fetch_sub(1, Ordering::AcqRel) == 1 {
                let (rest, error) = {
                    let mut rest = wait.rest.lock();
                    (rest.done.take(), rest.error.take())
                };
                let Some((done, staged)) = rest else { return };
                match error {
                    Some(error) => {
                        drop(staged);
                        done(Err(error.into()));
                    }
                    None => done(Ok(staged)),
                }
            }
        }));
    }
}

impl Store {
    /// Something was given back, or has ended: requests that wait may go on. No lock may be held, except that of `queue`.
    pub(crate) fn given_back(&self) {
        // A request that is looked at meanwhile either sees what was given back, or was counted before: the locks of the arrays order the two.
        if self.n_waiting.load(Ordering::SeqCst) > 0
            && let Some(me) = self.me.upgrade()
        {
            me.pump();
        }
    }

    /// Looks at all requests. If somebody else is doing that, they will do it once more.
    pub(super) fn pump(self: &Arc<Self>) {
        self.queue.nudge();
        self.pump_on();
    }

    /// Looks at all requests while there is news.
    pub(super) fn pump_on(self: &Arc<Self>) {
        loop {
            let mut after = After::default();
            let looked = self.queue.round(|queue, new| {
                queue.extend(new);
                self.look_at(queue, &mut after);
            });
            if looked.is_none() {
                return;
            }
            after.run();
        }
    }

    fn look_at(self: &Arc<Self>, queue: &mut VecDeque<Request>, after: &mut After) {
        // Memories that an earlier request needs room in, if it waits for one of them: or others would take what it has in the one whenever there is room
        // in the other.
        let mut taken = 0_u64;
        let mut waiting = VecDeque::with_capacity(queue.len());
        while let Some(request) = queue.pop_front() {
            let not_for_it = if request.runs { 0 } else { taken };
            match self.attempt(&request, not_for_it, after) {
                Err(Refusal::Full(_, wanted)) => {
                    taken |= wanted;
                    waiting.push_back(request);
                }
                Err(Refusal::Disturbed) => waiting.push_back(request),
                Err(Refusal::Failed(error)) => {
                    self.n_waiting.fetch_sub(1, Ordering::SeqCst);
                    after.failed.push((request, error));
                }
                Ok(placed) => {
                    self.n_waiting.fetch_sub(1, Ordering::SeqCst);
                    after.placed.push((request.done, placed));
                    after.finished.push(request.order.operands);
                }
            }
        }
        *queue = waiting;
    }

    fn attempt(
        self: &Arc<Self>,
        request: &Request,
        taken: u64,
        after: &mut After,
    ) -> Result<Placed, Refusal> {
        let Some(ticket) = self.enter_writers(&request.order.operands, &request.order.devices)
        else {
            return Err(Refusal::Disturbed);
        };
        let groups = self.groups(&request.order.operands, &request.order.devices);
        let held = self.hold_any(request, &groups, taken, after);
        let ids = held.inspect_err(|_| leave_writers(&request.order.operands, ticket))?;
        let ids: Vec<_> = groups.iter().zip(ids).collect();
        let mut staged = Staged::new(self, &request.order.operands, Some(ticket));
        for (device, &bytes) in request.order.devices.iter().zip(&request.order.room) {
            let memory = self.model().memory_of(*device);
            if bytes > 0 {
                let reserved = &self.memory(memory).reserved;
                reserved.fetch_add(bytes, Ordering::SeqCst);
                staged.extra.push((memory, bytes));
            }
        }
        match self.bring(request, &ids, &mut staged, after) {
            Ok(waits) => {
                staged.claim();
                Ok(Placed { staged, waits })
            }
            Err(error) => {
                after.staged.push(staged);
                Err(Refusal::Failed(error))
            }
        }
    }

    /// One instance for each group, pinned.
    fn hold_any(
        &self,
        request: &Request,
        groups: &[Group<'_>],
        taken: u64,
        after: &mut After,
    ) -> Result<Vec<InstanceId>, Refusal> {
        let mut full = MachineModel::HOST;
        for _ in 0..TRIES {
            // What it would use may be larger than what it needs. So if it is alone it is tried once more.
            for exact in [false, true] {
                let held = self.hold(request, groups, taken, exact, after);
                let Err(Refusal::Full(memory, _)) = held else {
                    return held;
                };
                if taken & (1 << memory.0) != 0 || self.is_in_use(memory, after) {
                    return held;
                }
                full = memory;
            }
            if let Some(error) = after.refused.take() {
                return Err(Refusal::Failed(error.into()));
            }
            // Nothing is in use, so there is room, unless it was set aside. Who had used it a moment ago will not tell again that he has let go.
            let Order {
                operands,
                devices,
                room,
                ..
            } = &request.order;
            if self.check_room(operands, devices, room).is_err() {
                break;
            }
        }
        Err(Refusal::Failed(self.out_of_memory(request, full)))
    }

    fn out_of_memory(&self, request: &Request, id: MemoryId) -> DataError {
        let groups = self.groups(&request.order.operands, &request.order.devices);
        let there = groups.iter().filter(|group| group.memory == id);
        let memory = self.memory(id);
        DataError::OutOfMemory {
            memory: memory.name.clone(),
            requested: there.map(Group::bytes).sum::<u64>() + self.room_of(request, id),
            free: memory.free(),
            capacity: memory.capacity,
        }
    }

    fn room_of(&self, request: &Request, memory: MemoryId) -> u64 {
        self.room_in(memory, &request.order.devices, &request.order.room)
    }

    /// With `exact`, only instances are used that are no larger than they have to be.
    fn hold(
        &self,
        request: &Request,
        groups: &[Group<'_>],
        taken: u64,
        exact: bool,
        after: &mut After,
    ) -> Result<Vec<InstanceId>, Refusal> {
        let found = groups.iter().map(|group| self.find_and_pin(group, exact));
        let found: Vec<_> = found.collect();
        let blocks = self.allocate_missing(request, groups, &found, taken, after);
        let mut blocks = match blocks {
            Ok(blocks) => blocks.into_iter(),
            Err(refusal) => {
                for (group, found) in groups.iter().zip(found) {
                    if let Some(id) = found {
                        let array = &group.array.0;
                        self.unpin(array, &mut array.state.lock(), id);
                    }
                }
                return Err(refusal);
            }
        };
        let ids = groups.iter().zip(found).map(|(group, found)| {
            found.unwrap_or_else(|| {
                let block = blocks
                    .next()
                    .expect("there is one for each that was not found");
                self.settle_in(group, block)
            })
        });
        Ok(ids.collect())
    }

    /// One block for each group that has no instance yet, all or none.
    fn allocate_missing(
        &self,
        request: &Request,
        groups: &[Group<'_>],
        found: &[Option<InstanceId>],
        taken: u64,
        after: &mut After,
    ) -> Result<Vec<Arc<Block>>, Refusal> {
        let missing = || {
            let pairs = groups.iter().zip(found);
            pairs.filter(|(_, found)| found.is_none()).map(|(g, _)| g)
        };
        let needs = self.memory_ids().map(|memory| {
            let there = missing().filter(|group| group.memory == memory);
            let bytes = there.map(Group::bytes).sum::<u64>() + self.room_of(request, memory);
            (memory, bytes)
        });
        let needs: SmallVec<[_; 4]> = needs.filter(|(_, bytes)| *bytes > 0).collect();
        let wanted = needs.iter().fold(0, |all, (memory, _)| all | 1 << memory.0);
        for (memory, bytes) in needs {
            // First come, first served.
            if taken & (1 << memory.0) != 0 {
                return Err(Refusal::Full(memory, wanted));
            }
            match self.make_room(memory, bytes, after) {
                Ok(true) => {}
                Ok(false) => return Err(Refusal::Full(memory, wanted)),
                Err(error) => return Err(Refusal::Failed(error)),
            }
        }
        let mut blocks = Vec::new();
        for group in missing() {
            match self.allocate(group.memory, group.bytes(), after) {
                Ok(block) => blocks.push(block),
                Err(error) => {
                    // Before anything is released: none of these was entered into an account.
                    after.blocks.extend(blocks);
                    return Err(match error {
                        None => Refusal::Full(group.memory, wanted),
                        Some(error) => Refusal::Failed(error),
                    });
                }
            }
        }
        Ok(blocks)
    }

    /// The instance that a group can use, if there is one.
    pub(super) fn find_and_pin(&self, group: &Group<'_>, exact: bool) -> Option<InstanceId> {
        let mut state = group.array.0.state.lock();
        self.purge_lost(&mut state);
        let id = if exact {
            let fits =
                |e: &&crate::directory::Extent| e.memory == group.memory && e.region == group.hull;
            state.directory.instances().iter().find(fits)?.id
        } else {
            state.directory.find(group.memory, &group.hull)?
        };
        let stamp = self.tick();
        let instance = state.get_mut(id)?;
        if !instance.is_of(&self.me) {
            return None;
        }
        instance.pins += 1;
        instance.stamp = stamp;
        Some(id)
    }

    /// Enters a block into the books as an instance, pinned once.
    pub(super) fn settle_in(&self, group: &Group<'_>, block: Arc<Block>) -> InstanceId {
        let shared = &group.array.0;
        let mut state = shared.state.lock();
        let id = state.directory.add(group.memory, group.hull.clone());
        let mut instance = Instance::new(
            id,
            group.memory,
            group.hull.clone(),
            shared.item,
            block,
            self.me.clone(),
        );
        instance.stamp = self.tick();
        let memory = self.memory(group.memory);
        let used = memory.used.fetch_add(instance.bytes, Ordering::SeqCst) + instance.bytes;
        memory.peak.fetch_max(used, Ordering::Relaxed);
        state.instances.push(instance);
        self.open_diary(shared, &mut state);
        shared.update_host_only(&state);
        drop(state);
        self.remember(shared);
        id
    }

    /// From now on what happens to an array is entered into the record of this store, if it keeps one.
    fn open_diary(&self, array: &Shared, state: &mut State) {
        let is_open = |diary: &Diary| diary.is_in(&self.history);
        if self.keeps_versions() && !state.diary.as_ref().is_some_and(is_open) {
            let history = Arc::clone(&self.history);
            let diary = Diary::new(history, array.id.0, &array.name, &array.shape, array.item);
            state.diary = Some(diary);
        }
    }

    /// Starts the copies of a request whose instances are there, and pinned once per group. Returns what has to end before the body can start.
    fn bring(
        &self,
        request: &Request,
        ids: &[(&Group<'_>, InstanceId)],
        staged: &mut Staged,
        after: &mut After,
    ) -> Result<Waits, DataError> {
        // One pin per operand, as `Staged` gives them back: first all, so that an error leaves nothing half pinned.
        for (i, operand) in request.order.operands.iter().enumerate() {
            let group = ids.iter().find(|(group, _)| group.members.contains(&i));
            let memory = self.model().memory_of(request.order.devices[operand.slot]);
            let id = group.map_or(InstanceId::HOME, |(_, id)| *id);
            let mut state = operand.array.0.state.lock();
            let instance = state.get_mut(id).expect("it is pinned, or the home");
            if id != InstanceId::HOME
                && group.is_some_and(|(group, _)| group.members.first() != Some(&i))
            {
                instance.pins += 1;
            }
            let place = if operand.region.is_empty() {
                self.empty_place(operand, memory)
            } else {
                instance.place(&operand.region, self.machine.key(memory))
            };
            staged.instances.push(id);
            staged.places.push(place);
        }
        let mut waits: Waits = Vec::new();
        for (i, operand) in request.order.operands.iter().enumerate() {
            if operand.region.is_empty() {
                continue;
            }
            let id = staged.instances[i];
            let mut state = operand.array.0.state.lock();
            let array = &operand.array.0;
            let again = request.order.again;
            state.note(id, Some(&operand.region), operand.asked(again));
            if again {
                self.purge_lost(&mut state);
                let lost = state.directory.lost(&operand.region);
                let boxes = without(&operand.region, lost.iter().map(|(region, _)| region));
                for region in boxes {
                    self.fetch(array, &mut state, id, &region, &mut after.ops)?;
                }
                let lost = lost.into_iter();
                staged
                    .lost
                    .extend(lost.map(|(region, why)| (i, region, why)));
            } else if operand.fetches() {
                self.fetch(array, &mut state, id, &operand.region, &mut after.ops)?;
            }
            let device = request.order.devices[operand.slot];
            let ordered = self.machine.device(device).stream_ordered();
            let instance = state.get(id).expect("it is pinned, or the home");
            for outstanding in instance.before(&operand.region, operand.access.writes()) {
                let op = &outstanding.op;
                let needed = outstanding.write && operand.fetches();
                if ordered {
                    let known = |(slot, event): &(usize, Arc<dyn Event>)| {
                        *slot == operand.slot && Arc::ptr_eq(event, &op.event)
                    };
                    if !staged.events.iter().any(known) {
                        staged.events.push((operand.slot, Arc::clone(&op.event)));
                    }
                    if needed && !staged.inputs.iter().any(|known| Arc::ptr_eq(known, op)) {
                        staged.inputs.push(Arc::clone(op));
                    }
                } else {
                    waits.push((Arc::clone(op), needed));
                }
            }
        }
        Ok(waits)
    }
}
