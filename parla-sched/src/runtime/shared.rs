//! What all threads of a runtime share: spawning, queueing, settling, counting.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};
use std::sync::{Arc, Weak};

use crossbeam_deque::Injector;
use crossbeam_utils::CachePadded;
use parla_core::lock::Mutex;
use parla_core::{Claim, Completed, Ready, SlotCache, Spawned, TaskGraph, TaskId, TraceEvent};

use super::ahead::{Ahead, Follows, Verdict};
use super::config::Placement;
use super::places::Places;
use super::seat::SeatShared;
use super::threads::Threads;
use super::wait::Waits;
use super::{Executor, Options, SpawnError, Stats, Task, Trace, WorkerStats};
use crate::Assigned;
use crate::admission::{Admission, Claimant};
use crate::sleep::Sleep;

pub(crate) struct Shared<E: Executor> {
    /// Itself, for what outlives the call that starts it.
    me: Weak<Self>,
    /// For tasks that a policy places.
    pub(super) places: Option<Places>,
    pub(super) ahead: Ahead,
    pub(super) graph: TaskGraph<E::Body>,
    pub(super) executor: E,
    /// Ready tasks from threads that are no workers.
    pub(super) injector: Injector<TaskId>,
    pub(super) seats: Box<[SeatShared]>,
    pub(super) sleep: Sleep,
    pub(super) admission: Mutex<Admission>,
    /// Admitted tasks that wait for a worker; a hint, so that workers need not take the lock. Never too low.
    n_admitted: CachePadded<AtomicUsize>,
    /// Slots of spawning threads that are no workers. Who holds it may write `foreign_counts`.
    pub(super) foreign: Mutex<SlotCache>,
    foreign_counts: Counts,
    pub(super) waits: Waits,
    pub(super) threads: Threads,
    pub(super) trace: Option<Trace>,
    /// No new tasks.
    pub(super) closed: AtomicBool,
    /// Workers go home: what does not run now never will. Set under `foreign`, so that no foreign spawn overlaps it.
    pub(super) stopping: AtomicBool,
    /// Threads are called so, with a number.
    pub(super) name: String,
    /// The core of each seat's worker; empty: not bound.
    pub(super) bind: Vec<parla_device::Core>,
}

/// Written by one thread at a time (who holds the seat, or the lock `foreign`), read by all.
#[derive(Default)]
pub(super) struct Counts {
    pub(super) spawned: AtomicU64,
    pub(super) finished: AtomicU64,
    pub(super) steps: AtomicU64,
    pub(super) steals: AtomicU64,
    pub(super) parks: AtomicU64,
}

/// Adds to a count that no other thread writes at this moment.
pub(super) fn bump(count: &AtomicU64, by: u64) {
    count.store(count.load(Ordering::Relaxed) + by, Ordering::Release);
}

/// Takes back a [`bump`] for something that has not happened after all.
pub(super) fn unbump(count: &AtomicU64) {
    count.store(count.load(Ordering::Relaxed) - 1, Ordering::Release);
}

impl<E: Executor> Shared<E> {
    pub(super) fn new(executor: E, seats: Box<[SeatShared]>, options: Options) -> Arc<Self> {
        Arc::new_cyclic(|me| Self {
            me: Weak::clone(me),
            ahead: Ahead::new(
                options
                    .placement
                    .as_ref()
                    .is_some_and(Placement::is_stream_ordered),
            ),
            places: (options.placement)
                .map(|placement| Places::new(placement, seats.len(), options.trace)),
            graph: TaskGraph::new(),
            executor,
            injector: Injector::new(),
            sleep: Sleep::new(seats.len()),
            seats,
            admission: Mutex::new(Admission::new(options.capacity)),
            n_admitted: CachePadded::default(),
            foreign: Mutex::new(SlotCache::default()),
            foreign_counts: Counts::default(),
            waits: Waits::default(),
            threads: Threads::default(),
            trace: options.trace.then(Trace::start),
            closed: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            name: options.name,
            bind: options.bind,
        })
    }

    pub(super) fn arc(&self) -> Arc<Self> {
        self.me.upgrade().expect("whoever calls holds one")
    }

    #[inline]
    pub(super) fn check(&self, task: &Task<'_>) -> Result<(), SpawnError> {
        if self.closed.load(Ordering::Relaxed) {
            return Err(SpawnError::Closed);
        }
        if task.attrs.is_default() {
            Ok(())
        } else {
            self.check_attrs(task)
        }
    }

    #[cold]
    fn check_attrs(&self, task: &Task<'_>) -> Result<(), SpawnError> {
        if task.attrs.placed {
            let placing = task.placing.as_ref().ok_or(SpawnError::NoDevices)?;
            self.check_placing(placing)?;
        }
        if !task.attrs.claim.is_empty() {
            self.admission.lock().check(&task.attrs.claim)?;
        }
        match task.attrs.worker {
            Some(wanted) if usize::from(wanted) >= self.seats.len() => Err(SpawnError::Worker {
                wanted,
                workers: self.seats.len(),
            }),
            _ => Ok(()),
        }
    }

    /// Spawns from a thread without a seat; the caller counts as an actor.
    pub(super) fn spawn_foreign(
        &self,
        task: Task<'_>,
        parent: Option<TaskId>,
        body: impl FnOnce(TaskId) -> E::Body,
    ) -> Result<TaskId, SpawnError> {
        self.check(&task)?;
        let spawned = {
            let mut cache = self.foreign.lock();
            if self.stopping.load(Ordering::Relaxed) {
                return Err(SpawnError::Closed);
            }
            bump(&self.foreign_counts.spawned, 1);
            let body = self.traced(&task, parent, body);
            let spawned = self.graph.spawn(
                &mut cache,
                task.declared,
                task.dependencies,
                body,
                task.attrs,
            );
            self.is_spawned(task.declared);
            if matches!(spawned, Spawned::Taken) {
                unbump(&self.foreign_counts.spawned);
            }
            spawned
        };
        match spawned {
            Spawned::Ready(ready) => {
                self.record(ready.id, TraceEvent::Ready, None);
                self.queue_foreign(ready);
                Ok(ready.id)
            }
            Spawned::Waiting(id) => {
                self.hear_late_news();
                Ok(id)
            }
            Spawned::Cancelled(id, completed) => {
                self.settle_foreign(completed);
                Ok(id)
            }
            Spawned::Taken => Err(SpawnError::Taken(
                task.declared.unwrap_or(TaskId::from_u64(0)),
            )),
        }
    }

    /// The body's maker, which also records the spawn: before anybody can run the task.
    pub(super) fn traced<'a>(
        &'a self,
        task: &'a Task<'_>,
        parent: Option<TaskId>,
        body: impl FnOnce(TaskId) -> E::Body + 'a,
    ) -> impl FnOnce(TaskId) -> E::Body + 'a {
        let places = self.places.as_ref();
        let early = places.is_some_and(|places| {
            let unspawned = &places.unspawned;
            unspawned.is_any(&self.graph, task.dependencies)
        });
        move |id| {
            if let Some(trace) = &self.trace {
                trace.spawned(id, parent, task.dependencies, task.attrs.claim);
            }
            let body = body(id);
            self.ahead.note(id, task.dependencies, || {
                if self.in_stream_order(task.placing.as_ref()) {
                    Follows::InStreamOrder
                } else {
                    Follows::AtTheEnd
                }
            });
            if let (Some(places), Some(placing)) = (&self.places, &task.placing) {
                places.spawned(id, placing, task.attrs.priority, early);
            }
            body
        }
    }

    /// A task was spawned.
    #[inline]
    pub(super) fn is_spawned(&self, declared: Option<TaskId>) {
        if let Some(places) = &self.places {
            places.unspawned.spawned(declared);
        }
    }

    /// Queues a ready task where every worker finds it, and sees to it that one looks.
    pub(super) fn queue_foreign(&self, ready: Ready) {
        if !self.queue_specially(ready) {
            self.injector.push(ready.id);
            self.sleep.work_added();
        }
    }

    /// Queues tasks that are not for the fast path. `false`: this one is.
    #[inline]
    pub(super) fn queue_specially(&self, ready: Ready) -> bool {
        match self.ahead.judge(ready) {
            Verdict::Goes => {}
            Verdict::Held => return true,
            Verdict::Doomed => {
                self.queue_refused(ready.id);
                return true;
            }
        }
        let is_special = !ready.attrs.is_default();
        if is_special && ready.attrs.placed {
            self.placed_ready(ready.id);
        } else if is_special {
            self.queue_admitted(ready);
        }
        is_special
    }

    /// Queues a task that can run as soon as what it claims of the CPUs is free.
    pub(super) fn queue_admitted(&self, ready: Ready) {
        self.admit(|admission| admission.push(ready));
    }

    /// Changes the admission (which says how many more tasks any worker may run now), and sends the admitted on their way.
    #[cold]
    pub(super) fn admit(&self, change: impl FnOnce(&mut Admission) -> usize) {
        let (n_admitted, routed) = {
            let mut admission = self.admission.lock();
            let n_admitted = change(&mut admission);
            self.n_admitted.fetch_add(n_admitted, Ordering::SeqCst);
            (n_admitted, admission.take_routed())
        };
        if n_admitted > 0 {
            self.sleep.work_added();
        }
        for (claimant, claim) in routed {
            match claimant {
                Claimant::Body(number) => self.waits.readmit(number),
                Claimant::Task(ready) => match ready.attrs.worker {
                    Some(seat) => self.queue_own(seat, ready),
                    None => debug_assert!(false, "{ready:?} with {claim:?} has nowhere to go"),
                },
            }
        }
    }

    fn queue_own(&self, seat: u16, ready: Ready) {
        let own = &self.seats[usize::from(seat)];
        {
            let mut queue = own.own.lock();
            queue.push(ready);
            own.n_own.fetch_add(1, Ordering::SeqCst);
        }
        self.sleep.work_added_for(seat);
    }

    /// Takes an admitted task of at least this priority.
    #[inline]
    pub(super) fn pop_admitted(&self, floor: i32) -> Option<Ready> {
        if self.n_admitted.load(Ordering::SeqCst) == 0 {
            None
        } else {
            self.pop_admitted_locked(floor)
        }
    }

    #[cold]
    fn pop_admitted_locked(&self, floor: i32) -> Option<Ready> {
        let admitted = self.admission.lock().pop(floor)?;
        self.n_admitted.fetch_sub(1, Ordering::SeqCst);
        Some(admitted)
    }

    /// Gives a claim back, and lets in whom that makes room for.
    #[inline]
    pub(super) fn release(&self, claim: &Claim) {
        if !claim.is_empty() {
            self.admit(|admission| admission.release(claim));
        }
    }

    /// A body wants back the claim it gave back to wait; blocks until it has it.
    pub(super) fn reclaim(&self, claim: &Claim) {
        if !claim.is_empty() {
            let number = self.waits.next_number();
            self.admit(|admission| admission.push_body(number, *claim));
            self.waits.await_readmission(number);
        }
    }

    /// Handles what a completion set free, from a thread without a seat that counts as an actor.
    pub(super) fn settle_foreign(&self, mut completed: Completed<E::Body>) {
        let n_ended = self.report_cancelled(&mut completed, None, |cancelled, completed| {
            let mut cache = self.foreign.lock();
            cancelled
                .iter()
                .for_each(|id| self.graph.acknowledge(&mut cache, *id, completed));
        });
        if n_ended > 0 {
            self.count_foreign(0, n_ended);
        }
        self.waits.all_ended(&mut completed.watched);
        for ready in completed.ready.drain(..) {
            self.record(ready.id, TraceEvent::Ready, None);
            self.queue_foreign(ready);
        }
        self.check_idle();
    }

    /// Tells the executor of cancelled tasks, and only then (`acknowledge`) lets those go on who wait for them. Returns how many
    /// spawned tasks have ended that way.
    pub(super) fn report_cancelled(
        &self,
        completed: &mut Completed<E::Body>,
        worker: Option<u16>,
        acknowledge: impl FnOnce(&[TaskId], &mut Completed<E::Body>),
    ) -> u64 {
        if completed.cancelled.is_empty() {
            return 0;
        }
        let tasks = std::mem::take(&mut completed.cancelled);
        let ids: Vec<_> = tasks.iter().map(|task| task.id).collect();
        for task in &tasks {
            self.ahead.forget(task.id);
            if task.attrs.placed {
                self.placed_removed(task.id);
            }
        }
        // One that was only declared has no body, and never counted as spawned.
        let spawned: Vec<_> = tasks
            .iter()
            .filter(|task| task.body.is_some())
            .map(|task| task.id)
            .collect();
        spawned
            .iter()
            .for_each(|id| self.record(*id, TraceEvent::Cancelled, worker));
        self.executor.cancelled(tasks);
        acknowledge(&ids, completed);
        spawned.len() as u64
    }

    pub(super) fn count_foreign(&self, steps: u64, ended: u64) {
        let _guard = self.foreign.lock();
        bump(&self.foreign_counts.steps, steps);
        bump(&self.foreign_counts.finished, ended);
    }

    pub(super) fn record(&self, task: TaskId, event: TraceEvent, worker: Option<u16>) {
        if let Some(trace) = &self.trace {
            trace.push(task, event, worker, Vec::new(), 0);
        }
    }

    /// Records what a placed body found when it began or went on.
    pub(super) fn trace_uses(&self, task: TaskId, assigned: &Assigned) {
        if let Some(trace) = &self.trace {
            trace.uses(task, assigned.uses());
        }
    }

    /// Whether the queues from which any worker takes are empty. Exact only while nobody adds or takes.
    #[inline]
    pub(super) fn common_queues_empty(&self) -> bool {
        self.injector.is_empty()
            && self.n_admitted.load(Ordering::SeqCst) == 0
            && self.seats.iter().all(|seat| seat.stealer.is_empty())
    }

    /// Whether all queues are empty. Exact only while nobody adds or takes.
    pub(super) fn queues_empty(&self) -> bool {
        self.common_queues_empty()
            && self
                .seats
                .iter()
                .all(|seat| seat.n_own.load(Ordering::SeqCst) == 0)
    }

    /// Finished is read first: if the sums are equal, nothing was pending at a moment between the two readings.
    pub(super) fn n_pending(&self) -> u64 {
        let sum = |count: fn(&Counts) -> &AtomicU64| -> u64 {
            let seats = self
                .seats
                .iter()
                .map(|s| count(&s.counts).load(Ordering::SeqCst))
                .sum::<u64>();
            seats + count(&self.foreign_counts).load(Ordering::SeqCst)
        };
        let finished = sum(|c| &c.finished);
        sum(|c| &c.spawned).saturating_sub(finished)
    }

    pub(super) fn stats(&self) -> Stats {
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let all = || {
            self.seats
                .iter()
                .map(|s| &*s.counts)
                .chain([&self.foreign_counts])
        };
        let worker = |s: &SeatShared| WorkerStats {
            steps: load(&s.counts.steps),
            steals: load(&s.counts.steals),
            parks: load(&s.counts.parks),
        };
        Stats {
            spawned: all().map(|c| load(&c.spawned)).sum(),
            finished: all().map(|c| load(&c.finished)).sum(),
            workers: self.seats.iter().map(worker).collect(),
            claimed: self.admission.lock().claimed(),
            devices: self
                .places
                .as_ref()
                .map(Places::device_stats)
                .unwrap_or_default(),
            data: self.places.as_ref().map(|places| places.store.stats()),
        }
    }

    pub(super) fn stop(&self) {
        {
            let _no_foreign_spawn = self.foreign.lock();
            self.stopping.store(true, Ordering::SeqCst);
        }
        fence(Ordering::SeqCst); // pairs with the fence of a thread that begins to wait
        self.sleep.wake_all();
        self.threads.stop_spares();
    }

    /// After [`stop`](Self::stop): cancels whatever nobody will run, so that nobody waits for it in vain.
    ///
    /// A foreign spawn was over before `stopping` was set, or is refused. A worker calls this once more when its last body is over and
    /// before it blocks in a wait, for what that body has spawned or left suspended.
    pub(super) fn strand(&self) {
        let _actor = self.act();
        let mut completed = Completed::default();
        self.graph.cancel_stranded(&mut completed);
        self.settle_foreign(completed);
        // Those in these queues hold claims that a body may want back.
        let own = self
            .seats
            .iter()
            .flat_map(|seat| std::iter::from_fn(|| seat.pop_own()));
        let admitted = std::iter::from_fn(|| self.pop_admitted(i32::MIN));
        for ready in own.chain(admitted) {
            self.release(&ready.attrs.claim);
        }
    }
}
