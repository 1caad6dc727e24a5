//! What a worker thread does: find a task, run a step of it, settle what that sets free; sleep when there is nothing.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crossbeam_deque::{Steal, Worker};
use crossbeam_utils::CachePadded;
use parking_lot::Mutex;
use parla_core::{Completed, Ready, SlotCache, Spawned, Started, Suspended, TaskId, TraceEvent};

use super::{Counts, Executor, SeatShared, Shared, SpawnError, Step, Task, bump};

/// How often an idle worker looks at all queues before it sleeps.
const SEARCH_ROUNDS: u32 = 4;
/// After this many tasks in a row a worker looks at the common queues first, so that nothing there waits for ever.
const FAIRNESS: u32 = 61;

/// The right to run bodies, with the queue that goes with it. Passes from thread to thread when a body blocks.
pub(super) struct Seat {
    index: u16,
    deque: Worker<TaskId>,
    /// Made ready by the task that just ended: run next, while its data is warm.
    next: Option<TaskId>,
    cache: SlotCache,
    /// Steps since the start, for [`FAIRNESS`].
    tick: u32,
}

impl Seat {
    pub(super) fn make_all(n: usize) -> (Vec<Self>, Box<[SeatShared]>) {
        let index = |i: usize| u16::try_from(i).expect("the number of workers was checked");
        let seats: Vec<_> = (0..n)
            .map(|i| Self { index: index(i), deque: Worker::new_fifo(), next: None, cache: SlotCache::default(), tick: 0 })
            .collect();
        let shared = seats
            .iter()
            .map(|seat| SeatShared {
                stealer: seat.deque.stealer(),
                counts: CachePadded::new(Counts::default()),
                own: Mutex::new(VecDeque::new()),
                n_own: AtomicUsize::new(0),
            })
            .collect();
        (seats, shared)
    }
}

/// A worker thread as a body sees it: where it spawns and waits.
pub struct Cx<'a, E: Executor> {
    shared: &'a Arc<Shared<E>>,
    /// `None` after the body blocked and the seat passed on.
    seat: RefCell<Option<Seat>>,
    completed: RefCell<Completed<E::Body>>,
}

pub(super) fn main<E: Executor>(shared: &Arc<Shared<E>>) {
    let on_panic = BreakOnPanic(shared);
    let mut thread = shared.executor.enter();
    let cx = Cx { shared, seat: RefCell::new(None), completed: RefCell::default() };
    let mut fresh = true;
    while let Some(seat) = shared.threads.wait_for_seat(fresh) {
        fresh = false;
        shared.bind(seat.index);
        *cx.seat.borrow_mut() = Some(seat);
        cx.work(&mut thread);
        if shared.stopping.load(Ordering::SeqCst) {
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
    pub fn spawn(&self, task: Task<'_>, body: impl FnOnce(TaskId) -> E::Body) -> Result<TaskId, SpawnError> {
        let shared = self.shared;
        let mut seat = self.seat.borrow_mut();
        let Some(seat) = seat.as_mut() else { return shared.spawn_foreign(task, body) };
        shared.check(&task)?;
        let counts = &shared.seats[usize::from(seat.index)].counts;
        bump(&counts.spawned, 1);
        let body = shared.traced(&task, body);
        match shared.graph.spawn(&mut seat.cache, task.declared, task.dependencies, body, task.attrs) {
            Spawned::Ready(ready) => {
                shared.record(ready.id, TraceEvent::Ready, Some(seat.index));
                if !shared.queue_specially(ready) {
                    seat.deque.push(ready.id);
                }
                shared.sleep.work_added();
                Ok(ready.id)
            }
            Spawned::Waiting(id) => Ok(id),
            Spawned::Cancelled(id, completed) => {
                shared.settle_foreign(completed);
                Ok(id)
            }
            Spawned::Taken => {
                bump(&counts.finished, 1);
                Err(SpawnError::Taken(task.declared.unwrap_or(TaskId::from_u64(0))))
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
        let Some(mut seat) = self.seat.borrow_mut().take() else { return };
        if let Some(next) = seat.next.take() {
            seat.deque.push(next);
        }
        if let Err((seat, _)) = self.shared.seat_worker(seat) {
            // No thread to be had: block without a stand-in rather than fail the user's body.
            *self.seat.borrow_mut() = Some(seat);
        }
    }

    pub(super) fn has_seat(&self) -> bool {
        self.seat.borrow().is_some()
    }

    pub(super) fn shared(&self) -> &'a Arc<Shared<E>> {
        self.shared
    }

    /// Runs tasks until the seat is gone or the runtime stops.
    fn work(&self, thread: &mut E::Thread) {
        while let Some(ready) = self.find(thread) {
            self.step(thread, ready);
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
    fn find(&self, thread: &mut E::Thread) -> Option<TaskId> {
        let mut seat = self.seat.borrow_mut();
        let seat = seat.as_mut().expect("a thread without a seat does not look for work");
        let shared = self.shared;
        if shared.stopping.load(Ordering::Relaxed) {
            return None;
        }
        seat.tick = seat.tick.wrapping_add(1);
        if seat.tick.is_multiple_of(FAIRNESS) {
            if let Some(next) = seat.next.take() {
                seat.deque.push(next);
            }
            if let Some(task) = shared.take_common(seat) {
                return Some(task);
            }
        }
        if let Some(task) = shared.take_own(seat) {
            return Some(task);
        }
        shared.executor.pause(thread);
        shared.sleep.start_searching();
        let mut rounds = 0;
        loop {
            if shared.stopping.load(Ordering::SeqCst) {
                return None;
            }
            if let Some(task) = shared.take_own(seat).or_else(|| shared.take_common(seat)).or_else(|| shared.take_any(seat)) {
                shared.sleep.found_work();
                return Some(task);
            }
            rounds += 1;
            if rounds < SEARCH_ROUNDS {
                std::hint::spin_loop();
                continue;
            }
            rounds = 0;
            bump(&shared.seats[usize::from(seat.index)].counts.parks, 1);
            let nothing_left = || shared.nothing_for(seat.index) && !shared.stopping.load(Ordering::SeqCst);
            shared.sleep.park(seat.index, nothing_left, || shared.check_quiet());
        }
    }

    /// Runs one step of a task and settles what follows from it.
    fn step(&self, thread: &mut E::Thread, id: TaskId) {
        let shared = self.shared;
        let worker = self.worker();
        let Some(Started { body, claim, resumed }) = shared.graph.start(id) else {
            return; // cancelled meanwhile
        };
        shared.record(id, if resumed { TraceEvent::Resumed } else { TraceEvent::Running }, worker);
        let step = shared.executor.run(thread, self, id, body);
        let worker = self.worker();
        let mut completed = self.completed.borrow_mut();
        let mut ended = 1;
        let held_ns = || shared.executor.held_ns(thread);
        match step {
            Step::Done => {
                self.trace_end(id, TraceEvent::Done, worker, Vec::new(), held_ns);
                self.with_cache(|cache| shared.graph.finish(cache, id, &mut completed));
            }
            Step::Failed => {
                self.trace_end(id, TraceEvent::Failed, worker, Vec::new(), held_ns);
                shared.graph.fail(id, &mut completed);
            }
            Step::Await(body, awaited) => {
                self.trace_end(id, TraceEvent::Suspended, worker, awaited.clone(), held_ns);
                ended = 0;
                if let Suspended::Ready(ready) = shared.graph.suspend(id, body, &awaited) {
                    completed.ready.push(ready);
                }
            }
        }
        shared.release(&claim);
        ended += completed.cancelled.iter().filter(|c| c.body.is_some()).count() as u64;
        self.queue(&mut completed);
        if !(completed.cancelled.is_empty() && completed.watched.is_empty()) {
            // The executor may take its time (or a lock of its own): hold nothing of ours meanwhile.
            let mut own = std::mem::take(&mut *completed);
            drop(completed);
            shared.report(&mut own, worker);
        }
        self.count(ended);
    }

    fn trace_end(&self, id: TaskId, event: TraceEvent, worker: Option<u16>, tasks: Vec<TaskId>, held_ns: impl FnOnce() -> u64) {
        if let Some(trace) = &self.shared.trace {
            trace.push(id, event, worker, tasks, held_ns());
        }
    }

    fn with_cache<R>(&self, use_cache: impl FnOnce(&mut SlotCache) -> R) -> R {
        match self.seat.borrow_mut().as_mut() {
            Some(seat) => use_cache(&mut seat.cache),
            None => use_cache(&mut self.shared.foreign.lock()),
        }
    }

    /// Queues newly ready tasks: the first to be run next here, the others where they can be stolen.
    fn queue(&self, completed: &mut Completed<E::Body>) {
        let shared = self.shared;
        let mut seat = self.seat.borrow_mut();
        let mut n_shared = 0;
        for ready in completed.ready.drain(..) {
            shared.record(ready.id, TraceEvent::Ready, seat.as_ref().map(|s| s.index));
            match seat.as_mut() {
                None => shared.queue_foreign(ready),
                Some(_) if shared.queue_specially(ready) => {}
                Some(seat) if seat.next.is_none() => {
                    seat.next = Some(ready.id);
                    continue;
                }
                Some(seat) => seat.deque.push(ready.id),
            }
            n_shared += 1;
        }
        if n_shared > 0 {
            shared.sleep.work_added();
        }
    }

    fn count(&self, ended: u64) {
        match self.seat.borrow().as_ref() {
            Some(seat) => {
                let counts = &self.shared.seats[usize::from(seat.index)].counts;
                bump(&counts.steps, 1);
                bump(&counts.finished, ended);
            }
            None => {
                let _guard = self.shared.foreign.lock();
                bump(&self.shared.foreign_counts.steps, 1);
                bump(&self.shared.foreign_counts.finished, ended);
            }
        }
    }
}

impl<E: Executor> Shared<E> {
    /// What only this seat, or this seat first, may take.
    fn take_own(&self, seat: &mut Seat) -> Option<TaskId> {
        if let Some(ready) = self.pop_admitted(0) {
            return Some(ready.id);
        }
        let own = &self.seats[usize::from(seat.index)];
        if own.n_own.load(Ordering::SeqCst) > 0 {
            if let Some(task) = own.own.lock().pop_front() {
                own.n_own.fetch_sub(1, Ordering::SeqCst);
                return Some(task);
            }
        }
        seat.next.take().or_else(|| seat.deque.pop())
    }

    /// What came from outside.
    fn take_common(&self, seat: &Seat) -> Option<TaskId> {
        retry(|| self.injector.steal_batch_and_pop(&seat.deque))
    }

    /// What other seats have, or what nobody was in a hurry to run.
    fn take_any(&self, seat: &Seat) -> Option<TaskId> {
        let n = self.seats.len();
        let first = usize::from(seat.index) + 1;
        for victim in (first..first + n - 1).map(|i| &self.seats[i % n]) {
            if let Some(task) = retry(|| victim.stealer.steal_batch_and_pop(&seat.deque)) {
                bump(&self.seats[usize::from(seat.index)].counts.steals, 1);
                return Some(task);
            }
        }
        self.pop_admitted(i32::MIN).map(|ready: Ready| ready.id)
    }

    /// Whether this seat would find nothing now.
    fn nothing_for(&self, seat: u16) -> bool {
        self.injector.is_empty()
            && self.n_admitted.load(Ordering::SeqCst) == 0
            && self.seats.iter().all(|seat| seat.stealer.is_empty())
            && self.seats[usize::from(seat)].n_own.load(Ordering::SeqCst) == 0
    }

    fn bind(&self, seat: u16) {
        if let Some(core) = self.options.bind.get(usize::from(seat)) {
            // Binding is a matter of speed only: a system that refuses it still runs the tasks.
            let _ = parla_device::bind_current_thread(core);
        }
    }
}

fn retry(steal: impl Fn() -> Steal<TaskId>) -> Option<TaskId> {
    loop {
        match steal() {
            Steal::Success(task) => return Some(task),
            Steal::Empty => return None,
            Steal::Retry => std::hint::spin_loop(),
        }
    }
}
