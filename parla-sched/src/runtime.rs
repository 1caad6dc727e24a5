//! The runtime: shared state, spawning, ending.

mod threads;
mod trace;
mod wait;
mod worker;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use crossbeam_deque::{Injector, Stealer};
use crossbeam_utils::CachePadded;
use parking_lot::Mutex;
use parla_core::{
    Attrs, Cancelled, Claim, ClaimError, Completed, Diagnosis, Ready, SlotCache, Spawned, TaskGraph, TaskId,
    TaskState, TraceEvent, TraceRecord, Vcus,
};
use thiserror::Error;

use crate::admission::Admission;
use crate::sleep::Sleep;
use threads::Threads;
use trace::Trace;
use wait::Waits;
pub use wait::{Tick, Waited};
pub use worker::Cx;
use worker::Seat;

/// What a body is and how to run it. The runtime knows nothing else about tasks.
pub trait Executor: Send + Sync + Sized + 'static {
    /// What a task runs.
    type Body: Send + 'static;
    /// What a worker thread keeps between tasks; made, used and dropped on that thread.
    type Thread;

    /// A worker thread starts.
    fn enter(&self) -> Self::Thread;

    /// Runs `body`. Must not unwind: a panic in a body is a failed task ([`Step::Failed`]).
    fn run(&self, thread: &mut Self::Thread, cx: &Cx<'_, Self>, task: TaskId, body: Self::Body) -> Step<Self::Body>;

    /// The worker is about to look further than its own queue, or to sleep: let go of whatever others may need.
    fn pause(&self, _thread: &mut Self::Thread) {}

    /// These tasks will never run. Called without any lock held, from any thread.
    fn cancelled(&self, tasks: Vec<Cancelled<Self::Body>>);

    /// Nanoseconds since the body last started in which `thread` held an exclusive resource (Python: the GIL); for traces.
    fn held_ns(&self, _thread: &Self::Thread) -> u64 {
        0
    }
}

/// What running a body came to.
#[derive(Debug)]
#[must_use]
pub enum Step<B> {
    /// It returned.
    Done,
    /// It raised an error or panicked; the executor keeps the details.
    Failed,
    /// It wants to go on with this body when all of these tasks have ended.
    Await(B, Vec<TaskId>),
}

/// How to set up a [`Runtime`].
#[derive(Clone, Debug)]
pub struct Options {
    /// Worker threads that run bodies at the same time, at least 1.
    pub workers: usize,
    /// What the CPU device has to give to claims.
    pub capacity: Claim,
    /// Keep a record of everything that happens.
    pub trace: bool,
    /// Threads are named `<name>-<number>`.
    pub name: String,
    /// Bind the worker of seat `k` to the `k`-th core; empty: not bound.
    pub bind: Vec<parla_device::Core>,
}

impl Default for Options {
    /// One worker per physical core available to this process, all of its memory, no trace.
    fn default() -> Self {
        let workers = parla_device::Topology::detect().default_workers();
        // Where the system does not say how much memory there is, no claim is refused for its size.
        let memory = parla_device::available_memory().unwrap_or(u64::MAX);
        let capacity = Claim { vcus: Vcus::WHOLE, memory };
        Self { workers, capacity, trace: false, name: "parla".to_owned(), bind: Vec::new() }
    }
}

/// Why a runtime could not be made or used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RuntimeError {
    /// Between 1 and 65 535 workers.
    #[error("a runtime has between 1 and 65535 workers, not {0}")]
    Workers(usize),
    /// The operating system gave no thread.
    #[error("cannot start worker thread {name}: {source}")]
    Thread {
        /// The thread's name.
        name: String,
        /// What the operating system said.
        source: std::io::Error,
    },
}

/// Why a task could not be spawned.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum SpawnError {
    /// The runtime takes no more tasks.
    #[error("the runtime is closed")]
    Closed,
    /// The id was spawned before.
    #[error("{0} was spawned before")]
    Taken(TaskId),
    /// The claim can never be satisfied.
    #[error(transparent)]
    Claim(#[from] ClaimError),
    /// No such worker.
    #[error("worker {wanted} does not exist: the runtime has {workers}")]
    Worker {
        /// The worker that the task asks for.
        wanted: u16,
        /// How many there are.
        workers: usize,
    },
}

/// A task to be spawned, but for its body.
#[derive(Clone, Debug, Default)]
pub struct Task<'a> {
    /// The id it was [declared](Runtime::declare) under, if it was.
    pub declared: Option<TaskId>,
    /// Tasks that must be done before; declared ones may be spawned later.
    pub dependencies: &'a [TaskId],
    /// Priority, claim, worker.
    pub attrs: Attrs,
}

/// Counts since the runtime started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Tasks spawned.
    pub spawned: u64,
    /// Tasks that have ended, in whatever way.
    pub finished: u64,
    /// One entry per worker seat.
    pub workers: Vec<WorkerStats>,
    /// What is claimed at this moment.
    pub claimed: Claim,
}

/// Counts of one worker seat.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WorkerStats {
    /// Bodies run (an awaiting body counts each time it goes on).
    pub steps: u64,
    /// Batches of tasks taken from another worker.
    pub steals: u64,
    /// Times it went to sleep.
    pub parks: u64,
}

/// A runtime: workers and the tasks they have to do. Dropping it cancels what has not started and joins the workers.
pub struct Runtime<E: Executor> {
    pub(crate) shared: Arc<Shared<E>>,
}

pub(crate) struct Shared<E: Executor> {
    graph: TaskGraph<E::Body>,
    executor: E,
    /// Ready tasks from threads that are no workers.
    injector: Injector<TaskId>,
    seats: Box<[SeatShared]>,
    sleep: Sleep,
    admission: Mutex<Admission>,
    /// Admitted tasks that wait for a worker; a hint, so that workers need not take the lock.
    n_admitted: AtomicUsize,
    /// Slots and counts of spawning threads that are no workers.
    foreign: Mutex<SlotCache>,
    foreign_counts: Counts,
    waits: Waits,
    threads: Threads,
    trace: Option<Trace>,
    /// No new tasks.
    closed: AtomicBool,
    /// Workers go home.
    stopping: AtomicBool,
    options: Options,
}

/// What others may see of a seat.
struct SeatShared {
    stealer: Stealer<TaskId>,
    counts: CachePadded<Counts>,
    /// Tasks that only this seat may run.
    own: Mutex<std::collections::VecDeque<TaskId>>,
    n_own: AtomicUsize,
}

/// Written by one thread at a time, read by all.
#[derive(Default)]
struct Counts {
    spawned: AtomicU64,
    finished: AtomicU64,
    steps: AtomicU64,
    steals: AtomicU64,
    parks: AtomicU64,
}

/// Adds to a count that no other thread writes at this moment.
fn bump(count: &AtomicU64, by: u64) {
    count.store(count.load(Ordering::Relaxed) + by, Ordering::Release);
}

impl<E: Executor> Runtime<E> {
    /// Starts the workers.
    ///
    /// # Errors
    /// [`RuntimeError`] when the number of workers is out of range or the system has no thread to give.
    pub fn new(executor: E, options: Options) -> Result<Self, RuntimeError> {
        let n = options.workers;
        if n == 0 || n > usize::from(u16::MAX) {
            return Err(RuntimeError::Workers(n));
        }
        let (seats, seats_shared) = Seat::make_all(n);
        let shared = Arc::new(Shared {
            graph: TaskGraph::new(),
            executor,
            injector: Injector::new(),
            seats: seats_shared,
            sleep: Sleep::new(n),
            admission: Mutex::new(Admission::new(options.capacity)),
            n_admitted: AtomicUsize::new(0),
            foreign: Mutex::new(SlotCache::default()),
            foreign_counts: Counts::default(),
            waits: Waits::default(),
            threads: Threads::default(),
            trace: options.trace.then(Trace::start),
            closed: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            options,
        });
        let runtime = Self { shared };
        for seat in seats {
            runtime.shared.seat_worker(seat).map_err(|(_, error)| error)?;
        }
        Ok(runtime)
    }

    /// What runs the bodies.
    #[must_use]
    pub fn executor(&self) -> &E {
        &self.shared.executor
    }

    /// Number of worker seats.
    #[must_use]
    pub fn n_workers(&self) -> usize {
        self.shared.seats.len()
    }

    /// Names a task that is spawned later, so that others can depend on it now.
    pub fn declare(&self) -> TaskId {
        self.shared.graph.declare(&mut self.shared.foreign.lock())
    }

    /// Spawns a task. `body` is told the task's id before anyone can run it, and must not block.
    ///
    /// # Errors
    /// [`SpawnError`]; then nothing has changed.
    pub fn spawn(&self, task: Task<'_>, body: impl FnOnce(TaskId) -> E::Body) -> Result<TaskId, SpawnError> {
        self.shared.enlist_this_thread();
        self.shared.spawn_foreign(task, body)
    }

    /// Cancels a task that has not started (or is suspended), and with it its dependents. `false`: too late.
    pub fn cancel(&self, id: TaskId) -> bool {
        let mut completed = Completed::default();
        let did = self.shared.graph.cancel(id, &mut completed);
        self.shared.settle_foreign(completed);
        did
    }

    /// Cancels everything that has not started.
    pub fn cancel_unstarted(&self) {
        let mut completed = Completed::default();
        self.shared.graph.cancel_unstarted(&mut completed);
        self.shared.settle_foreign(completed);
    }

    /// Where a task is in its life.
    #[must_use]
    pub fn state(&self, id: TaskId) -> TaskState {
        self.shared.graph.state(id)
    }

    /// The failed or cancelled task that ended this one, if that is how it ended.
    #[must_use]
    pub fn cause(&self, id: TaskId) -> Option<TaskId> {
        self.shared.graph.cause(id)
    }

    /// Nobody names this task any more: if it failed or was never spawned, its record can go.
    pub fn forget(&self, id: TaskId) {
        self.shared.graph.forget(&mut self.shared.foreign.lock(), id);
    }

    /// Takes no more tasks from here on.
    pub fn close(&self) {
        self.shared.closed.store(true, Ordering::SeqCst);
    }

    /// Whether [`close`](Self::close) was called.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.shared.closed.load(Ordering::SeqCst)
    }

    /// Why tasks that have not ended cannot go on.
    #[must_use]
    pub fn diagnose(&self) -> Diagnosis {
        self.shared.graph.diagnose()
    }

    /// Looks at the body of a task that is not running.
    pub fn with_body<R>(&self, id: TaskId, look: impl FnOnce(&E::Body) -> R) -> Option<R> {
        self.shared.graph.with_body(id, look)
    }

    /// Counts since the start.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.shared.stats()
    }

    /// Number of tasks spawned and not ended.
    #[must_use]
    pub fn n_pending(&self) -> u64 {
        self.shared.n_pending()
    }

    /// Everything that happened so far, in order of time; empty without [`Options::trace`].
    #[must_use]
    pub fn trace(&self) -> Vec<TraceRecord> {
        self.shared.trace.as_ref().map(Trace::records).unwrap_or_default()
    }

    /// Checks the invariants of graph and ledger. Meaningful while nothing runs.
    ///
    /// # Errors
    /// A sentence naming what is violated.
    pub fn validate(&self) -> Result<(), String> {
        self.shared.graph.validate()?;
        let claimed = self.shared.admission.lock().claimed();
        if self.n_pending() == 0 && !claimed.is_empty() {
            return Err(format!("nothing is pending, yet {claimed:?} is claimed"));
        }
        Ok(())
    }

    /// Stops the workers after their current bodies and joins them. What has not started is cancelled.
    ///
    /// Must not be called from a body of this runtime.
    pub fn shutdown(&self) {
        self.close();
        self.cancel_unstarted();
        self.shared.stop();
        self.shared.threads.join_all();
        #[cfg(debug_assertions)]
        if let Err(violated) = self.shared.graph.validate() {
            debug_assert!(false, "after shutdown: {violated}");
        }
    }

    /// Like [`shutdown`](Self::shutdown) but leaves running bodies to themselves: their threads end when the bodies do.
    pub fn abandon(&self) {
        self.close();
        self.cancel_unstarted();
        self.shared.stop();
        self.shared.threads.forget_all();
    }
}

impl<E: Executor> Drop for Runtime<E> {
    fn drop(&mut self) {
        self.shutdown();
    }
}

impl<E: Executor> Shared<E> {
    fn check(&self, task: &Task<'_>) -> Result<(), SpawnError> {
        if self.closed.load(Ordering::Relaxed) {
            return Err(SpawnError::Closed);
        }
        if !task.attrs.claim.is_empty() {
            self.admission.lock().check(&task.attrs.claim)?;
        }
        match task.attrs.worker {
            Some(wanted) if usize::from(wanted) >= self.seats.len() => {
                Err(SpawnError::Worker { wanted, workers: self.seats.len() })
            }
            _ => Ok(()),
        }
    }

    fn spawn_foreign(
        &self,
        task: Task<'_>,
        body: impl FnOnce(TaskId) -> E::Body,
    ) -> Result<TaskId, SpawnError> {
        self.check(&task)?;
        let spawned = {
            let mut cache = self.foreign.lock();
            bump(&self.foreign_counts.spawned, 1);
            let spawned = self.graph.spawn(&mut cache, task.declared, task.dependencies, self.traced(&task, body), task.attrs);
            if matches!(spawned, Spawned::Taken) {
                bump(&self.foreign_counts.finished, 1);
            }
            spawned
        };
        match spawned {
            Spawned::Ready(ready) => {
                self.record(ready.id, TraceEvent::Ready, None);
                self.queue_foreign(ready);
                self.sleep.work_added();
                Ok(ready.id)
            }
            Spawned::Waiting(id) => Ok(id),
            Spawned::Cancelled(id, completed) => {
                self.settle_foreign(completed);
                Ok(id)
            }
            Spawned::Taken => Err(SpawnError::Taken(task.declared.unwrap_or(TaskId::from_u64(0)))),
        }
    }

    /// The body's maker, which also records the spawn: before anybody can run the task.
    fn traced<'a>(
        &'a self,
        task: &'a Task<'_>,
        body: impl FnOnce(TaskId) -> E::Body + 'a,
    ) -> impl FnOnce(TaskId) -> E::Body + 'a {
        move |id| {
            if let Some(trace) = &self.trace {
                trace.spawned(id, task.dependencies, task.attrs.claim);
            }
            body(id)
        }
    }

    /// Queues a ready task where every worker finds it; the caller tells [`Sleep::work_added`].
    fn queue_foreign(&self, ready: Ready) {
        if !self.queue_specially(ready) {
            self.injector.push(ready.id);
        }
    }

    /// Queues tasks that are not for the fast path. `false`: this one is.
    fn queue_specially(&self, ready: Ready) -> bool {
        if let Some(seat) = ready.attrs.worker {
            let own = &self.seats[usize::from(seat)];
            own.own.lock().push_back(ready.id);
            own.n_own.fetch_add(1, Ordering::SeqCst);
            self.sleep.work_added_for(seat);
            true
        } else if ready.attrs.priority != 0 || !ready.attrs.claim.is_empty() {
            let mut admission = self.admission.lock();
            let n = admission.push(ready);
            self.n_admitted.fetch_add(n, Ordering::SeqCst);
            true
        } else {
            false
        }
    }

    /// Takes an admitted task of at least this priority.
    fn pop_admitted(&self, floor: i32) -> Option<Ready> {
        if self.n_admitted.load(Ordering::SeqCst) == 0 {
            return None;
        }
        let admitted = self.admission.lock().pop(floor)?;
        self.n_admitted.fetch_sub(1, Ordering::SeqCst);
        Some(admitted.0)
    }

    fn release(&self, claim: &Claim) {
        if !claim.is_empty() {
            let n = self.admission.lock().release(claim);
            if n > 0 {
                self.n_admitted.fetch_add(n, Ordering::SeqCst);
                self.sleep.work_added();
            }
        }
    }

    /// Handles what a completion set free, from a thread without a seat.
    fn settle_foreign(&self, mut completed: Completed<E::Body>) {
        let n_ended = completed.cancelled.iter().filter(|c| c.body.is_some()).count() as u64;
        for ready in completed.ready.drain(..) {
            self.record(ready.id, TraceEvent::Ready, None);
            self.queue_foreign(ready);
            self.sleep.work_added();
        }
        self.report(&mut completed, None);
        if n_ended > 0 {
            let _guard = self.foreign.lock();
            bump(&self.foreign_counts.finished, n_ended);
        }
        self.check_quiet();
    }

    /// Tells the executor of cancelled tasks and waiters of ended ones.
    fn report(&self, completed: &mut Completed<E::Body>, worker: Option<u16>) {
        if !completed.cancelled.is_empty() {
            for task in &completed.cancelled {
                if task.body.is_some() {
                    self.record(task.id, TraceEvent::Cancelled, worker);
                }
            }
            self.executor.cancelled(std::mem::take(&mut completed.cancelled));
        }
        for id in completed.watched.drain(..) {
            self.waits.ended(id);
        }
    }

    fn record(&self, task: TaskId, event: TraceEvent, worker: Option<u16>) {
        if let Some(trace) = &self.trace {
            trace.push(task, event, worker, Vec::new(), 0);
        }
    }

    /// Whether all queues are empty. Exact only while nobody adds or takes.
    fn queues_empty(&self) -> bool {
        self.injector.is_empty()
            && self.n_admitted.load(Ordering::SeqCst) == 0
            && self.seats.iter().all(|seat| seat.stealer.is_empty() && seat.n_own.load(Ordering::SeqCst) == 0)
    }

    /// Finished is read first: if the sums are equal, nothing was pending at a moment between the two readings.
    fn n_pending(&self) -> u64 {
        let sum = |count: fn(&Counts) -> &AtomicU64| -> u64 {
            let seats = self.seats.iter().map(|s| count(&s.counts).load(Ordering::SeqCst)).sum::<u64>();
            seats + count(&self.foreign_counts).load(Ordering::SeqCst)
        };
        let finished = sum(|c| &c.finished);
        sum(|c| &c.spawned).saturating_sub(finished)
    }

    fn stats(&self) -> Stats {
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let all = || self.seats.iter().map(|s| &*s.counts).chain([&self.foreign_counts]);
        Stats {
            spawned: all().map(|c| load(&c.spawned)).sum(),
            finished: all().map(|c| load(&c.finished)).sum(),
            workers: self
                .seats
                .iter()
                .map(|s| WorkerStats { steps: load(&s.counts.steps), steals: load(&s.counts.steals), parks: load(&s.counts.parks) })
                .collect(),
            claimed: self.admission.lock().claimed(),
        }
    }

    fn stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        self.sleep.wake_all();
        self.threads.stop_spares();
    }
}

#[cfg(test)]
mod tests;
