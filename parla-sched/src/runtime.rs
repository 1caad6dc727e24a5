//! The runtime: workers, the tasks they have to do, how it begins and ends.

mod actors;
mod ahead;
mod aside;
mod config;
mod places;
mod reserve;
mod seat;
mod shared;
mod threads;
mod trace;
mod unspawned;
mod wait;
mod worker;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use parla_core::{Cancelled, Completed, Diagnosis, TaskId, TaskState, TraceEvent, TraceRecord};

use parla_device::Event;

pub use config::{
    DeviceStats, Options, Placement, PlacingError, RuntimeError, SpawnError, Stats, Task,
    WorkerStats,
};
pub use places::PlacedState;
pub use reserve::Reservation;
use seat::Seat;
use shared::Shared;
use trace::Trace;
pub use wait::{Tick, Waited};
pub use worker::Cx;

/// What a body is and how to run it. The runtime knows nothing else about tasks.
pub trait Executor: Send + Sync + Sized + 'static {
    /// What a task runs.
    type Body: Send + 'static;
    /// What a worker thread keeps between tasks; made, used and dropped on that thread.
    type Thread;

    /// A worker thread starts.
    fn enter(&self) -> Self::Thread;

    /// Runs `body`. Must not unwind: a panic in a body is a failed task ([`Step::Failed`]).
    fn run(
        &self,
        thread: &mut Self::Thread,
        cx: &Cx<'_, Self>,
        task: TaskId,
        body: Self::Body,
    ) -> Step<Self::Body>;

    /// There is work: get hold of what running it takes (Python: the GIL), before any task is taken, so that tasks
    /// do not wait in the hands of a worker that cannot run them yet. Undone by [`pause`](Self::pause).
    fn prepare(&self, _thread: &mut Self::Thread) {}

    /// The worker is about to look further than its own queue, or to sleep: let go of whatever others may need.
    fn pause(&self, _thread: &mut Self::Thread) {}

    /// A task that was to be placed cannot run: `error` says why. It counts as failed.
    fn refused(
        &self,
        thread: &mut Self::Thread,
        cx: &Cx<'_, Self>,
        task: TaskId,
        body: Self::Body,
        error: &PlacingError,
    );

    /// The task's name in messages about its data.
    fn name_of(&self, task: TaskId) -> String {
        task.to_string()
    }

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
    /// It returned, and these events come after all that it gave to its devices. Once they are done it is run a last time with this
    /// body, and [`Cx::drained`] tells how that went; until then nobody sees it end.
    Draining(B, Vec<Arc<dyn Event>>),
    /// It wants to go on with this body when all of these tasks have ended.
    Await(B, Vec<TaskId>),
}

/// A runtime: workers and the tasks they have to do. Dropping it cancels what has not started and joins the workers.
pub struct Runtime<E: Executor> {
    pub(crate) shared: Arc<Shared<E>>,
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
        if let Some(seat) = seats_shared.first() {
            // Makes the deques' process-wide collector now, rather than in a worker: a fork must not catch one at it.
            seat.touch();
        }
        let runtime = Self {
            shared: Shared::new(executor, seats_shared, options),
        };
        for seat in seats {
            runtime
                .shared
                .seat_worker(seat)
                .map_err(|(_, error)| error)?;
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
    pub fn spawn(
        &self,
        task: Task<'_>,
        body: impl FnOnce(TaskId) -> E::Body,
    ) -> Result<TaskId, SpawnError> {
        self.shared.enlist_this_thread();
        self.shared.spawn_foreign(task, None, body)
    }

    /// Cancels a task that has not started (or is suspended), and with it its dependents. `false`: too late.
    pub fn cancel(&self, id: TaskId) -> bool {
        if self.shared.is_draining(id) {
            return false;
        }
        let _actor = self.shared.act();
        let mut completed = Completed::default();
        let did = self.shared.graph.cancel(id, &mut completed);
        self.shared.settle_foreign(completed);
        did
    }

    /// Cancels everything that has not started.
    pub fn cancel_unstarted(&self) {
        let _actor = self.shared.act();
        let mut completed = Completed::default();
        self.shared.graph.cancel_unstarted(&mut completed);
        self.shared.settle_foreign(completed);
    }

    /// Cancels everything that is not running, suspended tasks too, all before any of them could react: to break up a stall.
    pub fn cancel_stranded(&self) {
        let _actor = self.shared.act();
        let mut completed = Completed::default();
        self.shared.graph.cancel_stranded(&mut completed);
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
        self.shared
            .graph
            .forget(&mut self.shared.foreign.lock(), id);
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
        self.shared
            .trace
            .as_ref()
            .map(Trace::records)
            .unwrap_or_default()
    }

    /// Records that a thread outside of tasks has learnt of the end of a task.
    pub fn trace_waited(&self, id: TaskId) {
        self.shared.record(id, TraceEvent::Waited, None);
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

    /// Stops the workers after their current bodies and joins them. What does not run by then is cancelled, suspended
    /// tasks included; to let everything end first, [`wait_idle`](Self::wait_idle).
    ///
    /// Must not be called from a body of this runtime.
    pub fn shutdown(&self) {
        self.begin_stop();
        let joined_all = self.shared.threads.join_all();
        self.shared.strand();
        if joined_all {
            #[cfg(debug_assertions)]
            if let Err(violated) = self.validate() {
                debug_assert!(false, "after shutdown: {violated}");
            }
        }
    }

    /// Like [`shutdown`](Self::shutdown) but leaves running bodies to themselves: their threads end when the bodies do.
    pub fn abandon(&self) {
        self.begin_stop();
        self.shared.threads.forget_all();
    }

    fn begin_stop(&self) {
        let _actor = self.shared.act();
        self.close();
        self.cancel_unstarted();
        self.shared.stop();
        self.shared.strand();
    }
}

impl<E: Executor> Drop for Runtime<E> {
    fn drop(&mut self) {
        self.shutdown();
    }
}

#[cfg(test)]
mod tests;
