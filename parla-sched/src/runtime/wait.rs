//! Waiting for the end of tasks, from inside and outside, and finding out that a wait can never end.
//!
//! *Actors* are threads that may still add work though no worker runs: foreign threads that have spawned here and are
//! not blocked in a wait of ours, and bodies that blocked, gave up their seat and run on. Who wakes a waiting thread counts it as an
//! actor before it can be overlooked. When all workers sleep, all queues are empty and there is no actor, nothing will
//! ever move again: waits for ended runtimes are over, all others are stalled.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use parla_core::{Diagnosis, TaskId};
use rustc_hash::FxBuildHasher;

use super::{Cx, Executor, Runtime, Shared};

/// How a wait ended.
#[derive(Clone, Debug)]
#[must_use]
pub enum Waited {
    /// What was waited for has happened.
    Ended,
    /// The time given was over first.
    TimedOut,
    /// It can never happen; here is why.
    Stalled(Arc<Diagnosis>),
    /// The caller's tick said so.
    Interrupted,
    /// A worker died of a fault in the runtime.
    Broken,
}

/// Called now and then during a wait; breaks it off with `Break`.
pub type Tick<'a> = &'a mut dyn FnMut() -> ControlFlow<()>;

/// How often ticks are called.
const TICK: Duration = Duration::from_millis(50);

#[derive(Default)]
pub(super) struct Waits {
    state: Mutex<State>,
    actors: AtomicUsize,
    broken: AtomicBool,
}

#[derive(Default)]
struct State {
    tasks: HashMap<TaskId, Vec<Arc<Waiter>>, FxBuildHasher>,
    /// Waiting for nothing to be pending.
    idle: Vec<Arc<Waiter>>,
}

#[derive(Default)]
struct Waiter {
    outcome: Mutex<Option<Waited>>,
    changed: Condvar,
    /// It counts as an actor all the while: it will go on by itself.
    timed: bool,
}

impl Waits {
    /// A watched task has ended.
    pub(super) fn ended(&self, id: TaskId) {
        let waiters = self.state.lock().tasks.remove(&id).unwrap_or_default();
        for waiter in waiters {
            self.wake(&waiter, Waited::Ended);
        }
    }

    fn wake(&self, waiter: &Waiter, outcome: Waited) {
        if !waiter.timed {
            self.actors.fetch_add(1, Ordering::SeqCst);
        }
        *waiter.outcome.lock() = Some(outcome);
        waiter.changed.notify_one();
    }

    pub(super) fn break_all(&self) {
        self.broken.store(true, Ordering::SeqCst);
        self.wake_everyone(&Waited::Broken);
    }

    fn wake_everyone(&self, outcome: &Waited) {
        let State { tasks, idle } = std::mem::take(&mut *self.state.lock());
        for waiter in tasks.into_values().flatten().chain(idle) {
            self.wake(&waiter, outcome.clone());
        }
    }
}

/// What to wait for.
#[derive(Clone, Copy)]
enum Target {
    Task(TaskId),
    Idle,
}

impl<E: Executor> Runtime<E> {
    /// Waits for the end of a task, good or bad, from a thread that is no worker. `None`: no time limit.
    pub fn wait(&self, id: TaskId, timeout: Option<Duration>, tick: Option<Tick<'_>>) -> Waited {
        self.shared.enlist_this_thread();
        self.shared.wait(Target::Task(id), timeout, tick)
    }

    /// Waits until nothing is pending, from a thread that is no worker.
    pub fn wait_idle(&self, timeout: Option<Duration>, tick: Option<Tick<'_>>) -> Waited {
        self.shared.enlist_this_thread();
        self.shared.wait(Target::Idle, timeout, tick)
    }

    /// This thread may spawn: while it is alive and not waiting, nothing counts as stalled. Spawning does this, too.
    pub fn enlist_this_thread(&self) {
        self.shared.enlist_this_thread();
    }
}

impl<E: Executor> Cx<'_, E> {
    /// Waits for the end of a task inside a body. Another thread takes this worker's place meanwhile.
    pub fn wait(&self, id: TaskId, timeout: Option<Duration>, tick: Option<Tick<'_>>) -> Waited {
        let shared = self.shared();
        if shared.graph.state(id).is_terminal() {
            return Waited::Ended;
        }
        let had_seat = self.has_seat();
        if had_seat {
            shared.waits.actors.fetch_add(1, Ordering::SeqCst); // before the seat passes on: never uncounted
            self.leave_seat();
        }
        let waited = shared.wait(Target::Task(id), timeout, tick);
        if had_seat && self.has_seat() {
            shared.waits.actors.fetch_sub(1, Ordering::SeqCst); // it could not pass on: a worker as before
        }
        waited
    }
}

impl<E: Executor> Shared<E> {
    /// The caller counts as an actor.
    fn wait(&self, target: Target, timeout: Option<Duration>, mut tick: Option<Tick<'_>>) -> Waited {
        let waiter = Arc::new(Waiter { timed: timeout.is_some(), ..Waiter::default() });
        {
            let mut state = self.waits.state.lock();
            if self.waits.broken.load(Ordering::SeqCst) {
                return Waited::Broken;
            }
            match target {
                Target::Task(id) => {
                    if !self.graph.watch(id) {
                        return Waited::Ended;
                    }
                    state.tasks.entry(id).or_default().push(Arc::clone(&waiter));
                }
                Target::Idle => {
                    if self.n_pending() == 0 {
                        return Waited::Ended;
                    }
                    state.idle.push(Arc::clone(&waiter));
                }
            }
        }
        if !waiter.timed {
            self.waits.actors.fetch_sub(1, Ordering::SeqCst);
        }
        self.check_quiet();

        let deadline = timeout.and_then(|t| Instant::now().checked_add(t));
        loop {
            let mut outcome = waiter.outcome.lock();
            if let Some(outcome) = outcome.take() {
                return outcome;
            }
            let next_tick = tick.is_some().then(|| Instant::now() + TICK);
            match [deadline, next_tick].into_iter().flatten().min() {
                None => waiter.changed.wait(&mut outcome),
                Some(until) => {
                    waiter.changed.wait_until(&mut outcome, until);
                }
            }
            if let Some(outcome) = outcome.take() {
                return outcome;
            }
            drop(outcome);
            if let Some(tick) = &mut tick {
                if tick().is_break() {
                    return self.give_up(target, &waiter, Waited::Interrupted);
                }
            }
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return self.give_up(target, &waiter, Waited::TimedOut);
            }
        }
    }

    /// Takes a waiter out of the list, unless it was woken at the last moment.
    fn give_up(&self, target: Target, waiter: &Arc<Waiter>, reason: Waited) -> Waited {
        let mut state = self.waits.state.lock();
        let list = match target {
            Target::Task(id) => state.tasks.get_mut(&id),
            Target::Idle => Some(&mut state.idle),
        };
        let at = list.as_ref().and_then(|list| list.iter().position(|w| Arc::ptr_eq(w, waiter)));
        let (Some(list), Some(at)) = (list, at) else {
            drop(state);
            // It was taken out to be woken: that will happen in a moment.
            let mut outcome = waiter.outcome.lock();
            while outcome.is_none() {
                waiter.changed.wait(&mut outcome);
            }
            return outcome.take().unwrap_or(reason);
        };
        list.swap_remove(at);
        if !waiter.timed {
            self.waits.actors.fetch_add(1, Ordering::SeqCst);
        }
        reason
    }

    pub(super) fn leave_actors(&self) {
        self.waits.actors.fetch_sub(1, Ordering::SeqCst);
        self.check_quiet();
    }

    /// If nothing will ever move again, wakes those who wait for it.
    pub(super) fn check_quiet(&self) {
        let quiet = || {
            self.sleep.is_quiet(|| self.queues_empty()) && {
                let state = self.waits.state.lock();
                !(state.idle.is_empty() && state.tasks.is_empty())
            }
        };
        if !quiet() {
            return;
        }
        if self.n_pending() == 0 {
            let idle = std::mem::take(&mut self.waits.state.lock().idle);
            for waiter in idle {
                self.waits.wake(&waiter, Waited::Ended);
            }
        }
        if self.waits.actors.load(Ordering::SeqCst) == 0 && quiet() {
            let diagnosis = Arc::new(self.graph.diagnose());
            self.waits.wake_everyone(&Waited::Stalled(diagnosis));
        }
    }

    pub(super) fn enlist_this_thread(self: &Arc<Self>) {
        let key = Arc::as_ptr(self).addr();
        ENLISTED.with_borrow_mut(|enlisted| {
            if enlisted.iter().any(|e| e.key == key && e.alive()) {
                return;
            }
            enlisted.retain(Enlisted::alive);
            self.waits.actors.fetch_add(1, Ordering::SeqCst);
            let shared: Weak<Self> = Arc::downgrade(self);
            enlisted.push(Enlisted { key, runtime: Box::new(shared) });
        });
    }
}

/// A thread's entry in the list of actors of one runtime; taken back when the thread ends.
struct Enlisted {
    key: usize,
    runtime: Box<dyn Enlistment>,
}

impl Enlisted {
    fn alive(&self) -> bool {
        self.runtime.alive()
    }
}

trait Enlistment {
    fn alive(&self) -> bool;
    fn leave(&self);
}

impl<E: Executor> Enlistment for Weak<Shared<E>> {
    fn alive(&self) -> bool {
        self.strong_count() > 0
    }

    fn leave(&self) {
        if let Some(shared) = self.upgrade() {
            shared.leave_actors();
        }
    }
}

impl Drop for Enlisted {
    fn drop(&mut self) {
        self.runtime.leave();
    }
}

thread_local! {
    static ENLISTED: RefCell<Vec<Enlisted>> = const { RefCell::new(Vec::new()) };
}
