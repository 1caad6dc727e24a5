//! Tasks that a policy places: from ready to runnable, and what they hold until they end.
//!
//! ```text
//! ready -> [mapper: a choice, memory claimed] -> staging (store) -> staged -> [mapper: compute units granted] -> a worker's queue
//! waited -> [mapper: memory claimed again] -----^
//! ```
//!
//! The mapper is worked on by one thread at a time ([`Combiner`]): whoever has news posts it and, if nobody is at it, works through all that was
//! posted. What the decisions ask for (copies, queueing) is done without the lock.
//!
//! From its placement until it is queued a task counts as an [actor](super::actors): a copy under way is something that moves.
//!
//! Order of locks: a slot of the graph, then that of the notes or `flights`; `desk`, then an array's (the policy asks what is missing). Those of the notes
//! and `flights` are held for a few instructions only, and nothing is called under them.

mod flight;
mod pause;
mod staging;
mod whereabouts;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::time::Instant;

use parla_core::lock::Mutex;
use parla_core::{Claim, Combiner, DeviceId, MachineModel, TaskId};
use parla_data::{Operand, Store};
use rustc_hash::FxBuildHasher;
use smallvec::SmallVec;

use super::config::{DeviceStats, Placement, PlacingError};
use super::shared::Shared;
use super::unspawned::Unspawned;
use super::{Executor, SpawnError};
use crate::mapper::{Mapper, Placed, PolicyFault, World};
use crate::prefetch::{Prefetch, Sent};
use crate::{Assigned, Choice, Placing};
pub(super) use flight::Boarding;
use flight::Flight;
pub use whereabouts::PlacedState;

pub(super) struct Places {
    pub(super) store: Arc<Store>,
    start: Instant,
    desk: Combiner<Desk, News>,
    flights: Mutex<HashMap<TaskId, Flight, FxBuildHasher>>,
    /// Several CPU devices: each has one worker, of the same number.
    one_worker_per_cpu: bool,
    counts: Box<[Counts]>,
    /// Something has changed since somebody last looked which inputs can travel early.
    inputs_due: AtomicBool,
    pub(super) unspawned: Unspawned,
}

/// By device.
#[derive(Default)]
struct Counts {
    tasks: AtomicU64,
    busy_ns: AtomicU64,
    /// When it was done with the last task that drained: what came after waited in its queues until then.
    done_at: Mutex<Option<Instant>>,
}

/// What the mapper is to hear.
enum News {
    Spawned(TaskId, Arc<Placing>, i32, bool),
    Ready(TaskId),
    Staged(TaskId),
    Returned(TaskId),
    Suspended(TaskId),
    Drains(TaskId),
    Ended(TaskId, u64, bool),
    Held,
    Removed(TaskId),
    Arrived(DeviceId, u64),
}

/// The world as the mapper's policy sees it.
struct Outlook<'a>(&'a Places);

impl World for Outlook<'_> {
    fn now(&self) -> u64 {
        u64::try_from(self.0.start.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn missing_bytes(&self, placing: &Placing, devices: &[DeviceId]) -> u64 {
        self.0.store.missing_bytes(&placing.operands, devices)
    }

    fn transfer_ns(&self, placing: &Placing, devices: &[DeviceId]) -> u64 {
        self.0.store.missing_ns(&placing.operands, devices)
    }

    fn held(&self, device: DeviceId) -> u64 {
        self.0.store.held(device)
    }

    fn has_room(&self, placing: &Placing, choice: &Choice) -> bool {
        if placing.operands.is_empty() {
            return true; // claims are the mapper's own
        }
        let room = self.0.room(&choice.devices, &choice.claims);
        let store = &self.0.store;
        store.has_room(&placing.operands, &choice.devices, &room)
    }
}

/// What came of a round of the mapper.
#[derive(Default)]
struct Round {
    placed: Vec<Placed>,
    faults: Vec<PolicyFault>,
    runnable: Vec<(TaskId, i32)>,
    returning: Vec<TaskId>,
}

/// What the lock guards.
struct Desk {
    mapper: Mapper,
    prefetch: Prefetch,
}

impl Places {
    /// `n_workers`: threads that run bodies.
    pub(super) fn new(placement: Placement, n_workers: usize, trace: bool) -> Self {
        if trace {
            placement.store.keep_versions();
        }
        let model = placement.store.machine().model();
        let model = with_workers(model, n_workers);
        let cpus = |device: &&parla_core::DeviceModel| device.memory == MachineModel::HOST;
        Self {
            start: Instant::now(),
            one_worker_per_cpu: model.devices.iter().filter(cpus).count() > 1,
            counts: model.devices.iter().map(|_| Counts::default()).collect(),
            desk: Combiner::new(Desk {
                mapper: Mapper::new(Arc::clone(&model), placement.policy, placement.depth),
                prefetch: Prefetch::default(),
            }),
            store: placement.store,
            flights: Mutex::default(),
            unspawned: Unspawned::default(),
            inputs_due: AtomicBool::new(false),
        }
    }

    /// A task was spawned; called before anybody can see it, under its slot's lock. `early`: before one that it may depend on.
    pub(super) fn spawned(&self, id: TaskId, placing: &Arc<Placing>, priority: i32, early: bool) {
        let placing = Arc::clone(placing);
        self.desk.post(News::Spawned(id, placing, priority, early));
    }

    /// How long its devices were busy with a task: not while what came before it on them was going on.
    fn busy_ns(&self, assigned: &Assigned) -> u64 {
        let mut since = None;
        for device in &assigned.devices {
            let mut done_at = self.counts[device.0 as usize].done_at.lock();
            since = since.max(*done_at);
            *done_at = (*done_at).max(assigned.drained_at());
        }
        assigned.busy_ns(since)
    }

    fn check_data(&self, placing: &Placing) -> Result<(), PlacingError> {
        if placing.operands.is_empty() {
            return Ok(());
        }
        let mut first = None;
        for choice in &placing.choices {
            let devices = &choice.devices;
            let room = self.room(devices, &choice.claims);
            match self.store.check_room(&placing.operands, devices, &room) {
                Ok(()) => return Ok(()),
                Err(error) => first = first.or(Some(error)),
            }
        }
        first.map_or(Ok(()), |error| Err(error.into()))
    }

    /// What claims come to in the memories of devices; those of the host are the admission's.
    fn room(&self, devices: &[DeviceId], claims: &[Claim]) -> SmallVec<[u64; 2]> {
        let model = self.store.machine().model();
        let bytes = |(device, claim): (&DeviceId, &Claim)| {
            let exclusive = model.devices.get(device.0 as usize);
            if exclusive.is_some_and(|device| device.exclusive) {
                claim.memory
            } else {
                0
            }
        };
        devices.iter().zip(claims).map(bytes).collect()
    }

    /// The policy's name, if it was offered free devices and took none of the ready tasks.
    pub(super) fn stalled_policy(&self) -> Option<String> {
        let desk = self.desk.try_lock()?;
        let mapper = &desk.mapper;
        (mapper.is_stalled() && mapper.can_serve_any(&Outlook(self)))
            .then(|| mapper.policy().to_owned())
    }

    /// On which devices a task was placed that has not ended, and why, if the policy said: both in words.
    pub(super) fn placement_of(&self, id: TaskId) -> Option<(String, String)> {
        let desk = self.desk.lock();
        let (devices, note) = desk.mapper.placement(id)?;
        let model = self.store.machine().model();
        let name = |device: &DeviceId| model.device(*device).name.as_str();
        let names: Vec<_> = devices.iter().map(name).collect();
        let note = note.map(ToString::to_string).unwrap_or_default();
        Some((names.join(" and "), note))
    }

    pub(super) fn device_stats(&self) -> Vec<DeviceStats> {
        let model = self.store.machine().model();
        let one = |(device, counts): (&parla_core::DeviceModel, &Counts)| DeviceStats {
            name: device.name.clone(),
            tasks: counts.tasks.load(Ordering::Relaxed),
            busy_ns: counts.busy_ns.load(Ordering::Relaxed),
        };
        model.devices.iter().zip(&self.counts).map(one).collect()
    }

    /// Works through what was posted, unless somebody does. Returns what is to be done, several times if news keep coming.
    fn round(&self) -> Option<Round> {
        self.desk.round(|desk, news| self.hear(desk, news))
    }

    fn hear(&self, desk: &mut Desk, news: Vec<News>) -> Round {
        let Desk { mapper, prefetch } = desk;
        let world = Outlook(self);
        for one in news {
            match one {
                News::Spawned(id, placing, priority, early) => {
                    if early {
                        prefetch.spawned_early(id, &placing);
                    } else {
                        prefetch.spawned(id, &placing);
                    }
                    mapper.spawned(id, placing, priority);
                }
                News::Ready(id) => {
                    prefetch.ready(id);
                    mapper.ready(id, &world);
                }
                News::Staged(id) => mapper.staged(id),
                News::Returned(id) => mapper.returned(id),
                News::Suspended(id) => mapper.suspended(id),
                News::Drains(id) => mapper.drains(id),
                News::Ended(id, exec_ns, well) => {
                    prefetch.ended(id);
                    if well {
                        mapper.ended(id, exec_ns, &world);
                    } else {
                        mapper.failed(id, exec_ns, &world);
                    }
                }
                News::Held => mapper.held_changed(&world),
                News::Removed(id) => {
                    prefetch.ended(id);
                    mapper.removed(id, &world);
                }
                News::Arrived(device, ns) => prefetch.arrived(device, ns),
            }
        }
        let mut round = Round::default();
        loop {
            match mapper.assign(&world) {
                Ok(placed) => {
                    round.placed.extend(placed);
                    break;
                }
                Err(fault) => round.faults.push(fault),
            }
        }
        round.returning = mapper.take_returning(&world);
        round.runnable = mapper.take_runnable();
        if prefetch.has_any() {
            self.inputs_due.store(true, Ordering::SeqCst);
        }
        round
    }

    /// Whether inputs of tasks that still wait may have to be sent on their way.
    #[inline]
    pub(super) fn inputs_due(&self) -> bool {
        self.inputs_due.load(Ordering::SeqCst)
    }
}

impl<E: Executor> Shared<E> {
    fn places(&self) -> &Places {
        self.places
            .as_ref()
            .expect("a task with a placing is refused where there are no devices")
    }

    /// Whether a task can ever be served.
    pub(super) fn check_placing(&self, placing: &Placing) -> Result<(), SpawnError> {
        let refuse = |error| SpawnError::Placing(Arc::new(error));
        let places = self.places.as_ref().ok_or(SpawnError::NoDevices)?;
        places.check_data(placing).map_err(refuse)?;
        let checked = places.desk.lock().mapper.check(placing, &Outlook(places));
        self.hear_late_news();
        checked.map_err(refuse)
    }

    /// A task that is to be placed became ready, for the first time or again.
    pub(super) fn placed_ready(&self, id: TaskId) {
        self.tell(News::Ready(id));
    }

    /// A placed task was cancelled.
    pub(super) fn placed_removed(&self, id: TaskId) {
        let flight = self.places().flights.lock().remove(&id);
        drop(flight); // lets go of its data
        self.tell(News::Removed(id));
    }

    /// More or less memory than before is set aside.
    pub(super) fn held_changed(&self) {
        self.tell(News::Held);
    }

    fn post(&self, news: News) {
        self.places().desk.post(news);
    }

    fn tell(&self, news: News) {
        self.post(news);
        self.work_through();
    }

    /// For news posted without a round of their own, and for those who found the lock taken by somebody who only looked.
    #[inline]
    pub(super) fn hear_late_news(&self) {
        if self
            .places
            .as_ref()
            .is_some_and(|places| places.desk.has_news())
        {
            self.work_through();
        }
    }

    /// Lets the mapper hear what was posted and does what it decides.
    fn work_through(&self) {
        self.work_through_news();
        self.see_to_inputs();
    }

    fn work_through_news(&self) {
        // Counted as an actor between the decision and what is done about it.
        let _actor = self.act();
        while let Some(round) = self.places().round() {
            for fault in round.faults {
                if let Some(task) = fault.task {
                    self.refuse(task, fault.into());
                }
            }
            for placed in round.placed {
                self.stage(placed);
            }
            for task in round.returning {
                self.bring_back(task);
            }
            for (task, priority) in round.runnable {
                self.queue_runnable(task, priority);
            }
        }
    }

    /// Sees to it that inputs of tasks that still wait are sent on their way, beside what is ready to run: by a worker that has nothing to do, else here.
    #[inline]
    pub(super) fn see_to_inputs(&self) {
        if !self.places().inputs_due() {
            return;
        }
        if self.sleep.is_anybody_free() {
            self.sleep.work_added();
        } else {
            self.send_inputs();
        }
    }

    /// Sends on their way those inputs of waiting tasks that can travel.
    #[cold]
    pub(super) fn send_inputs(&self) {
        let places = self.places();
        let _actor = self.act();
        while places.inputs_due.swap(false, Ordering::SeqCst) {
            let found = {
                let Desk { mapper, prefetch } = &mut *places.desk.lock();
                let world = Outlook(places);
                let cost_ns = |operand: &Operand, device| {
                    let operand = std::slice::from_ref(operand);
                    places.store.missing_ns(operand, &[device])
                };
                prefetch.take(|id, taken| mapper.foresee(id, taken, &world), cost_ns)
            };
            for sent in found {
                self.send_input(&sent);
            }
            // Who came meanwhile found the lock taken.
            if places.desk.has_news() {
                self.work_through_news();
            }
        }
    }

    /// Sends one input on its way. Its arrival makes room for others.
    fn send_input(&self, sent: &Sent) {
        let (device, ns) = (sent.device, sent.ns);
        let shared = Arc::downgrade(&self.arc());
        let sending = Arc::new(AtomicBool::new(true));
        let still_sending = Arc::clone(&sending);
        let arrived = move || {
            if let Some(shared) = shared.upgrade() {
                shared.post(News::Arrived(device, ns));
                // Who sends looks at the news afterwards, and must not be called from here: there may be no end to it.
                fence(Ordering::SeqCst); // pairs with that of `has_news`, which comes after the sending
                if !still_sending.load(Ordering::Relaxed) {
                    shared.work_through();
                }
            }
        };
        let store = &self.places().store;
        store.prefetch(&sent.operand, device, &sent.ahead, Box::new(arrived));
        sending.store(false, Ordering::Relaxed);
    }
}

/// The machine with as many workers as this runtime has: a machine's single CPU device has them all, of several each has its own.
fn with_workers(model: &Arc<MachineModel>, n_workers: usize) -> Arc<MachineModel> {
    let n_workers = u32::try_from(n_workers).unwrap_or(u32::MAX);
    let is_cpu = |device: &parla_core::DeviceModel| !device.exclusive;
    let n_cpus = model.devices.iter().filter(|device| is_cpu(device)).count();
    let mut model = Arc::clone(model);
    if n_cpus == 1 {
        let devices = &mut Arc::make_mut(&mut model).devices;
        if let Some(cpu) = devices.iter_mut().find(|device| is_cpu(device)) {
            cpu.n_workers = n_workers;
        }
    }
    model
}
