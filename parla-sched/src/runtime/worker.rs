//! What a worker thread does: [find](super::seat) a task, run a step of it, settle what that sets free.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use parla_core::{
    Claim, Completed, SlotCache, Spawned, Started, Suspended, TaskId, TraceEvent, TraceUse,
};

use super::ahead::Follows;
use super::places::Boarding;
use super::seat::{Found, Seat};
use super::shared::{Shared, bump, unbump};
use parla_device::DeviceError;

use super::{Executor, PlacingError, SpawnError, Step, Task};
use crate::{Assigned, Runahead};

/// A worker thread as a body sees it: where it spawns and waits.
pub struct Cx<'a, E: Executor> {
    shared: &'a Arc<Shared<E>>,
    /// `None` after the body blocked and the seat passed on. Not borrowed while code of the executor or the user runs.
    seat: RefCell<Option<Seat>>,
    /// The task that runs; `None` before the first.
    running: Cell<Option<TaskId>>,
    /// What the body that runs holds.
    granted: Cell<Claim>,
    /// Where it was placed, if a policy placed it.
    pub(super) assigned: RefCell<Option<Arc<Assigned>>>,
    /// The body blocked, and has not asked for its data since.
    pub(super) stepped_aside: Cell<bool>,
    /// Its data could not be brought again, and it has not heard of it.
    pub(super) trouble: RefCell<Option<PlacingError>>,
    /// It is about to run ahead of its devices.
    ahead: Cell<bool>,
    /// How its devices ended, if it waited for them.
    drained: RefCell<Option<Result<(), DeviceError>>>,
    /// It counts as searching already.
    looks: Cell<bool>,
    completed: RefCell<Completed<E::Body>>,
}

pub(super) fn main<E: Executor>(shared: &Arc<Shared<E>>) {
    let on_panic = BreakOnPanic(shared);
    let mut thread = shared.executor.enter();
    let cx = Cx {
        shared,
        seat: RefCell::new(None),
        running: Cell::default(),
        granted: Cell::default(),
        assigned: RefCell::default(),
        stepped_aside: Cell::default(),
        trouble: RefCell::default(),
        ahead: Cell::default(),
        drained: RefCell::default(),
        looks: Cell::default(),
        completed: RefCell::default(),
    };
    let mut fresh = true;
    while let Some(seat) = shared.threads.wait_for_seat(fresh) {
        fresh = false;
        shared.bind(seat.index);
        *cx.seat.borrow_mut() = Some(seat);
        cx.work(&mut thread);
        if shared.stopping.load(Ordering::SeqCst) {
            shared.strand();
            break;
        }
    }
    drop(cx);
    drop(thread);
    std::mem::forget(on_panic);
}

/// A worker that unwinds outside a body is a fault of this runtime: nobody must wait for it in vain.
struct BreakOnPanic<'a, E: Executor>(&'a Arc<Shared<E>>);

impl<E: Executor> Drop for BreakOnPanic<'_, E> {
    fn drop(&mut self) {
        self.0.waits.break_all();
    }
}

impl<'a, E: Executor> Cx<'a, E> {
    /// Spawns a task from inside a body. `body` is told the task's id before anyone can run it, and must not block.
    ///
    /// # Errors
    /// [`SpawnError`]; then nothing has changed.
    pub fn spawn(
        &self,
        task: Task<'_>,
        body: impl FnOnce(TaskId) -> E::Body,
    ) -> Result<TaskId, SpawnError> {
        let shared = self.shared;
        let mut borrowed = self.seat.borrow_mut();
        let Some(seat) = borrowed.as_mut() else {
            drop(borrowed);
            return shared.spawn_foreign(task, self.running.get(), body);
        };
        shared.check(&task)?;
        let counts = &shared.seats[usize::from(seat.index)].counts;
        bump(&counts.spawned, 1);
        let body = shared.traced(&task, self.running.get(), body);
        let spawned = shared.graph.spawn(
            &mut seat.cache,
            task.declared,
            task.dependencies,
            body,
            task.attrs,
        );
        shared.is_spawned(task.declared);
        match spawned {
            Spawned::Ready(ready) => {
                shared.record(ready.id, TraceEvent::Ready, Some(seat.index));
                if !shared.queue_specially(ready) {
                    seat.deque.push(ready.id);
                    shared.sleep.work_added();
                }
                Ok(ready.id)
            }
            Spawned::Waiting(id) => {
                shared.hear_late_news();
                Ok(id)
            }
            Spawned::Cancelled(id, completed) => {
                drop(borrowed); // the executor is told, and may spawn
                shared.settle_foreign(completed);
                Ok(id)
            }
            Spawned::Taken => {
                unbump(&counts.spawned);
                Err(SpawnError::Taken(
                    task.declared.unwrap_or(TaskId::from_u64(0)),
                ))
            }
        }
    }

    /// The seat this thread holds, if it still does.
    #[must_use]
    pub fn worker(&self) -> Option<u16> {
        self.seat.borrow().as_ref().map(|seat| seat.index)
    }

    /// Lets another thread go on with this worker's queue while the body on this thread blocks.
    ///
    /// The body finishes without a seat: for that long one more thread runs than there are workers.
    pub(super) fn leave_seat(&self) {
        let Some(mut seat) = self.seat.borrow_mut().take() else {
            return;
        };
        if let Some(next) = seat.next.take() {
            seat.deque.push(next);
        }
        if let Err((seat, _)) = self.shared.seat_worker(seat) {
            // No thread to be had: block without a stand-in rather than fail the user's body. Others may steal.
            *self.seat.borrow_mut() = Some(seat);
            self.shared.sleep.work_added();
        }
    }

    /// Where the running task was placed, if a policy placed it.
    #[must_use]
    pub fn assigned(&self) -> Option<Arc<Assigned>> {
        self.assigned.borrow().clone()
    }

    /// The running task comes back from [`Step::Draining`]: whether its devices did all that it gave them.
    ///
    /// # Errors
    /// The first error of a device.
    pub fn drained(&self) -> Option<Result<(), DeviceError>> {
        self.drained.borrow().clone()
    }

    /// The running task, if a policy placed it.
    pub(super) fn placed_running(&self) -> Option<TaskId> {
        self.running
            .get()
            .filter(|_| self.assigned.borrow().is_some())
    }

    pub(super) fn has_seat(&self) -> bool {
        self.seat.borrow().is_some()
    }

    /// Records that the running body blocks (`on` another task) or goes on.
    pub(super) fn trace_wait(&self, event: TraceEvent, on: &[TaskId]) {
        if let (Some(trace), Some(id)) = (&self.shared.trace, self.running.get()) {
            trace.push(id, event, self.worker(), on.to_vec(), 0);
        }
    }

    /// Records that the running body has learnt of the end of other tasks; a wait that suspends it is recorded anyway.
    pub fn trace_waited(&self, on: &[TaskId]) {
        self.trace_wait(TraceEvent::Waited, on);
    }

    /// Records which arrays the running body uses; what a policy placed is recorded anyway.
    pub fn trace_uses(&self, uses: Vec<TraceUse>) {
        if let (Some(trace), Some(id)) = (&self.shared.trace, self.running.get()) {
            trace.uses(id, uses);
        }
    }

    /// What the running body holds.
    pub(super) fn granted(&self) -> Claim {
        self.granted.get()
    }

    pub(super) fn shared(&self) -> &'a Arc<Shared<E>> {
        self.shared
    }

    /// Runs tasks until the seat is gone or the runtime stops.
    fn work(&self, thread: &mut E::Thread) {
        while let Some(found) = self.find(thread) {
            self.step(thread, found);
            if !self.has_seat() {
                // It blocked and ran on as an extra thread; now it is one no more.
                self.shared.executor.pause(thread);
                self.shared.leave_actors();
                return;
            }
        }
        self.shared.executor.pause(thread);
    }

    /// The next task to run; sleeps while there is none. `None`: the runtime stops.
    fn find(&self, thread: &mut E::Thread) -> Option<Found> {
        if self.shared.stopping.load(Ordering::Relaxed) {
            return None;
        }
        let looks = self.looks.take();
        if let Some(found) = self.with_seat(|seat| self.shared.take_near(seat)) {
            if looks {
                self.shared.found_work();
            }
            return Some(found);
        }
        self.shared.executor.pause(thread);
        if !looks {
            self.shared.sleep.start_searching();
        }
        self.with_seat(|seat| self.shared.search(thread, seat))
    }

    fn with_seat<R>(&self, f: impl FnOnce(&mut Seat) -> R) -> R {
        f(self
            .seat
            .borrow_mut()
            .as_mut()
            .expect("a thread without a seat does not look for work"))
    }

    /// Runs one step of a task and settles what follows from it.
    fn step(&self, thread: &mut E::Thread, found: Found) {
        let Found {
            id,
            granted,
            placed,
        } = found;
        let shared = self.shared;
        if placed && shared.cancel_doomed(id) {
            return shared.release(&granted);
        }
        let Some(Started { body, resumed, .. }) = shared.graph.start(id) else {
            shared.release(&granted);
            return; // cancelled meanwhile
        };
        if placed && let Some(of) = shared.ahead.take_epilogue(id) {
            self.epilogue(thread, id, of, body);
            return;
        }
        self.running.set(Some(id));
        self.granted.set(granted);
        if shared.trace.is_some() {
            shared.record(
                id,
                if resumed {
                    TraceEvent::Resumed
                } else {
                    TraceEvent::Running
                },
                self.worker(),
            );
        }
        let step = if placed {
            self.run_placed(thread, id, body, resumed)
        } else {
            shared.executor.run(thread, self, id, body)
        };

        if placed && self.has_seat() {
            // It will look for work next, and needs no help with the one task that this makes ready.
            shared.sleep.start_searching();
            self.looks.set(true);
        }
        let held_ns = || shared.executor.held_ns(thread);
        let mut completed = self.completed.borrow_mut();
        let mut n_ended = 1;
        match step {
            Step::Done => {
                self.trace_end(id, TraceEvent::Done, &[], held_ns);
                self.with_cache(|cache| shared.graph.finish(cache, id, &mut completed));
            }
            Step::Failed => {
                self.trace_end(id, TraceEvent::Failed, &[], held_ns);
                shared.graph.fail(id, &mut completed);
            }
            Step::Draining(body, events) => {
                self.trace_end(id, TraceEvent::Draining, &[], held_ns);
                n_ended = 0; // not before its last step
                if self.ahead.take() {
                    shared.run_ahead(id, &events);
                    self.with_cache(|cache| shared.graph.finish(cache, id, &mut completed));
                    completed.watched.retain(|watched| *watched != id); // woken at its end
                    shared.ends_later(id, events, body);
                } else {
                    shared.graph.hold(id, body);
                    shared.placed_drains(id, events);
                }
            }
            Step::Await(body, awaited) => {
                self.trace_end(id, TraceEvent::Suspended, &awaited, held_ns);
                n_ended = 0;
                shared.ahead.note(id, &awaited, || Follows::HoweverTheyEnd);
                if let Suspended::Ready(ready) = shared.graph.suspend(id, body, &awaited) {
                    completed.ready.push(ready);
                }
            }
        }
        shared.release(&granted);
        if completed.cancelled.is_empty() {
            self.settle(&mut completed, n_ended);
        } else {
            // The executor is told first, and may come back to us: hold nothing meanwhile.
            let mut own = std::mem::take(&mut *completed);
            drop(completed);
            n_ended += shared.report_cancelled(&mut own, self.worker(), |cancelled, own| {
                self.with_cache(|cache| {
                    cancelled
                        .iter()
                        .for_each(|id| shared.graph.acknowledge(cache, *id, own))
                });
            });
            self.settle(&mut own, n_ended);
        }
        if placed {
            shared.hear_late_news(); // of its own end, if nobody was told who waited for it
        }
    }

    /// Runs a step of a task that a policy placed, and says what has become of its data before anybody hears how the step went.
    #[cold]
    fn run_placed(
        &self,
        thread: &mut E::Thread,
        id: TaskId,
        body: E::Body,
        resumed: bool,
    ) -> Step<E::Body> {
        let shared = self.shared;
        let (assigned, drained) = match shared.board(id) {
            Boarding::Go(assigned, drained) => (assigned, drained),
            Boarding::Refused(error) => {
                shared.executor.refused(thread, self, id, body, &error);
                shared.placed_ended(id, false);
                return Step::Failed;
            }
        };
        if !resumed || shared.was_staged_again(id) {
            assigned.begin();
            shared.trace_uses(id, &assigned);
        }
        let runs_ahead = assigned.runahead != Runahead::Blocking
            && assigned
                .devices
                .iter()
                .all(|d| shared.is_stream_ordered(*d));
        *self.assigned.borrow_mut() = Some(assigned);
        *self.drained.borrow_mut() = drained;
        let step = shared.executor.run(thread, self, id, body);
        let assigned = self.assigned.borrow_mut().take();
        self.stepped_aside.set(false);
        self.trouble.take();
        self.drained.borrow_mut().take();
        drop(assigned);
        match &step {
            Step::Done => shared.placed_ended(id, true),
            Step::Failed => shared.placed_ended(id, false),
            Step::Await(..) => shared.placed_pauses(id),
            Step::Draining(..) => {
                shared.note_draining(id);
                self.ahead.set(runs_ahead);
            }
        }
        step
    }

    /// The last step of a task that ran ahead; `number` is what it is called in the graph.
    #[cold]
    fn epilogue(&self, thread: &mut E::Thread, number: TaskId, id: TaskId, body: E::Body) {
        let shared = self.shared;
        self.running.set(Some(id));
        self.granted.set(Claim::default());
        shared.record(id, TraceEvent::Resumed, self.worker());
        let step = self.run_placed(thread, id, body, true);
        let well = matches!(step, Step::Done);
        let event = if well {
            TraceEvent::Done
        } else {
            TraceEvent::Failed
        };
        self.trace_end(id, event, &[], || shared.executor.held_ns(thread));
        let mut completed = Completed::default();
        self.with_cache(|cache| shared.graph.finish(cache, number, &mut completed));
        shared.end_ahead(id, well);
        self.settle(&mut completed, 1);
        shared.hear_late_news();
    }

    fn trace_end(
        &self,
        id: TaskId,
        event: TraceEvent,
        tasks: &[TaskId],
        held_ns: impl FnOnce() -> u64,
    ) {
        if let Some(trace) = &self.shared.trace {
            trace.push(id, event, self.worker(), tasks.to_vec(), held_ns());
        }
    }

    #[inline]
    fn with_cache<R>(&self, use_cache: impl FnOnce(&mut SlotCache) -> R) -> R {
        match self.seat.borrow_mut().as_mut() {
            Some(seat) => use_cache(&mut seat.cache),
            None => use_cache(&mut self.shared.foreign.lock()),
        }
    }

    /// Counts a step, wakes who waits for the ended tasks, and queues the newly ready ones: the first to be run next here, the others
    /// where they can be stolen.
    #[inline]
    fn settle(&self, completed: &mut Completed<E::Body>, n_ended: u64) {
        let shared = self.shared;
        let mut seat = self.seat.borrow_mut();
        let Some(seat) = seat.as_mut() else {
            shared.count_foreign(1, n_ended);
            shared.settle_foreign(std::mem::take(completed));
            return;
        };
        let counts = &shared.seats[usize::from(seat.index)].counts;
        bump(&counts.steps, 1);
        bump(&counts.finished, n_ended);
        if !completed.watched.is_empty() {
            shared.waits.all_ended(&mut completed.watched);
        }
        let mut n_shared = 0;
        for ready in completed.ready.drain(..) {
            shared.record(ready.id, TraceEvent::Ready, Some(seat.index));
            if shared.queue_specially(ready) {
                continue;
            }
            if seat.next.is_none() {
                seat.next = Some(ready.id);
            } else {
                seat.deque.push(ready.id);
                n_shared += 1;
            }
        }
        if n_shared > 0 {
            shared.sleep.work_added();
        }
    }
}
