//! Waiting for the end of tasks, from inside and outside, and finding out that a wait can never end.
//!
//! When all workers sleep, all queues are empty and there is no [actor](super::actors), nothing will ever move again: whoever still waits is
//! stalled. Who wakes a waiting thread counts it as an actor before it can be overlooked.
//!
//! Order of locks: `state`, then the graph's, the sleepers' or a waiter's.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};
use std::time::{Duration, Instant};

use parla_core::lock::{Condvar, Mutex};
use parla_core::{Diagnosis, TaskId, TaskState};
use rustc_hash::FxBuildHasher;

use super::places::Places;
use super::shared::Shared;
use super::{Executor, Runtime};

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
    /// Length of `state.idle`, readable without the lock.
    n_idle: AtomicUsize,
    pub(super) n_actors: AtomicUsize,
    broken: AtomicBool,
    readmitted: Mutex<Vec<u64>>,
    readmission: Condvar,
    numbers: AtomicU64,
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
    /// These watched tasks have ended.
    pub(super) fn all_ended(&self, tasks: &mut Vec<TaskId>) {
        for id in tasks.drain(..) {
            let waiters = self.state.lock().tasks.remove(&id).unwrap_or_default();
            for waiter in waiters {
                self.wake(&waiter, Waited::Ended);
            }
        }
    }

    fn wake(&self, waiter: &Waiter, outcome: Waited) {
        if !waiter.timed {
            self.n_actors.fetch_add(1, Ordering::SeqCst);
        }
        *waiter.outcome.lock() = Some(outcome);
        waiter.changed.notify_one();
    }

    pub(super) fn break_all(&self) {
        self.broken.store(true, Ordering::SeqCst);
        let all = self.take_all(&mut self.state.lock());
        for waiter in all {
            self.wake(&waiter, Waited::Broken);
        }
    }

    fn take_all(&self, state: &mut State) -> Vec<Arc<Waiter>> {
        let tasks = std::mem::take(&mut state.tasks).into_values().flatten();
        tasks.chain(self.take_idle(state)).collect()
    }

    fn take_idle(&self, state: &mut State) -> Vec<Arc<Waiter>> {
        self.n_idle.store(0, Ordering::SeqCst);
        std::mem::take(&mut state.idle)
    }

    /// A number for one who wants to be readmitted.
    pub(super) fn next_number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn readmit(&self, number: u64) {
        self.readmitted.lock().push(number);
        self.readmission.notify_all();
    }

    pub(super) fn await_readmission(&self, number: u64) {
        let mut readmitted = self.readmitted.lock();
        loop {
            if let Some(at) = readmitted.iter().position(|n| *n == number) {
                readmitted.swap_remove(at);
                return;
            }
            self.readmission.wait(&mut readmitted);
        }
    }
}

/// What to wait for.
#[derive(Clone, Copy)]
pub(super) enum Target {
    Task(TaskId),
    Idle,
}

impl<E: Executor> Runtime<E> {
    /// Waits for the end of a task, good or bad, from a thread that is no worker. `None`: no time limit.
    pub fn wait(&self, id: TaskId, timeout: Option<Duration>, tick: Option<Tick<'_>>) -> Waited {
        self.shared.enlist_this_thread();
        self.shared.wait(Target::Task(id), timeout, tick)
    }

    /// The same for several tasks. The time is for all of them together.
    pub fn wait_all(
        &self,
        ids: &[TaskId],
        timeout: Option<Duration>,
        tick: Option<Tick<'_>>,
    ) -> Waited {
        self.shared.enlist_this_thread();
        self.shared.wait_all(ids, timeout, tick)
    }

    /// Waits until nothing is pending, from a thread that is no worker.
    pub fn wait_idle(&self, timeout: Option<Duration>, tick: Option<Tick<'_>>) -> Waited {
        self.shared.enlist_this_thread();
        self.shared.wait(Target::Idle, timeout, tick)
    }
}

impl<E: Executor> Shared<E> {
    /// Waits for the end of each. The caller counts as an actor.
    pub(super) fn wait_all(
        &self,
        ids: &[TaskId],
        timeout: Option<Duration>,
        mut tick: Option<Tick<'_>>,
    ) -> Waited {
        let begun = Instant::now();
        for &id in ids {
            let left = timeout.map(|timeout| timeout.saturating_sub(begun.elapsed()));
            let tick = tick.as_mut().map(|tick| &mut **tick as Tick<'_>);
            match self.wait(Target::Task(id), left, tick) {
                Waited::Ended => {}
                other => return other,
            }
        }
        Waited::Ended
    }

    /// The caller counts as an actor.
    pub(super) fn wait(
        &self,
        target: Target,
        timeout: Option<Duration>,
        tick: Option<Tick<'_>>,
    ) -> Waited {
        let waiter = Arc::new(Waiter {
            timed: timeout.is_some(),
            ..Waiter::default()
        });
        {
            let mut state = self.waits.state.lock();
            match target {
                Target::Task(id) => {
                    // One that runs ahead leaves `ahead` before those are woken who are in the list by then.
                    if !self.graph.watch(id) && !self.ahead.is_open(id) {
                        return Waited::Ended;
                    }
                    if self.waits.broken.load(Ordering::SeqCst) {
                        return Waited::Broken;
                    }
                    state.tasks.entry(id).or_default().push(Arc::clone(&waiter));
                }
                Target::Idle => {
                    self.waits
                        .n_idle
                        .store(state.idle.len() + 1, Ordering::SeqCst); // before n_pending: see check_idle
                    let at_once = match self.n_pending() {
                        0 => Some(Waited::Ended),
                        _ => self
                            .waits
                            .broken
                            .load(Ordering::SeqCst)
                            .then_some(Waited::Broken),
                    };
                    if let Some(at_once) = at_once {
                        self.waits.n_idle.store(state.idle.len(), Ordering::SeqCst);
                        return at_once;
                    }
                    state.idle.push(Arc::clone(&waiter));
                }
            }
        }
        fence(Ordering::SeqCst); // what this thread has spawned is visible to whoever sets `stopping` after this load
        if self.stopping.load(Ordering::SeqCst) {
            self.strand();
        }
        if !waiter.timed {
            self.leave_actors();
        }

        match self.sleep_until_woken(target, &waiter, timeout, tick) {
            // Somebody who could not be known has ended it between the verdict and now.
            Waited::Stalled(_) if self.ends_at_last(target) => Waited::Ended,
            waited => waited,
        }
    }

    /// Whether it has ended, or does in a moment: a thread is in the middle of cancelling it.
    fn ends_at_last(&self, target: Target) -> bool {
        if let Target::Task(id) = target {
            let is_cancelled = || self.graph.state(id) == TaskState::Cancelled && !self.is_over(id);
            while is_cancelled() && !self.waits.broken.load(Ordering::SeqCst) {
                std::thread::yield_now();
            }
        }
        self.has_ended(target)
    }

    fn has_ended(&self, target: Target) -> bool {
        match target {
            Target::Task(id) => self.is_over(id),
            Target::Idle => self.n_pending() == 0,
        }
    }

    fn sleep_until_woken(
        &self,
        target: Target,
        waiter: &Arc<Waiter>,
        timeout: Option<Duration>,
        mut tick: Option<Tick<'_>>,
    ) -> Waited {
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
                let _actor = self.act(); // whatever it runs may spawn
                if tick().is_break() {
                    return self.give_up(target, waiter, Waited::Interrupted);
                }
            }
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return self.give_up(target, waiter, Waited::TimedOut);
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
        let at = list
            .as_ref()
            .and_then(|list| list.iter().position(|w| Arc::ptr_eq(w, waiter)));
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
        match target {
            Target::Task(id) if list.is_empty() => drop(state.tasks.remove(&id)),
            Target::Task(_) => {}
            Target::Idle => self.waits.n_idle.store(state.idle.len(), Ordering::SeqCst),
        }
        drop(state);
        if !waiter.timed {
            self.join_actors();
        }
        reason
    }

    /// Lets those go on who wait for nothing to be pending, if so it is. Cheap when nobody does.
    ///
    /// Whoever ends the last task calls this afterwards. He finds `n_idle` above 0, or the waiter, which sets it before it looks,
    /// finds that nothing is pending.
    #[inline]
    pub(super) fn check_idle(&self) {
        fence(Ordering::SeqCst);
        if self.waits.n_idle.load(Ordering::SeqCst) > 0 && self.n_pending() == 0 {
            self.end_idle();
        }
    }

    #[cold]
    fn end_idle(&self) {
        let idle = {
            let mut state = self.waits.state.lock();
            // Once more: now it is known that whoever is in the list was there when nothing was pending.
            if self.n_pending() == 0 {
                self.waits.take_idle(&mut state)
            } else {
                Vec::new()
            }
        };
        for waiter in idle {
            self.waits.wake(&waiter, Waited::Ended);
        }
    }

    /// If nothing will ever move again, wakes those who wait for it.
    pub(super) fn check_quiet(&self) {
        self.check_idle();
        if self.waits.n_actors.load(Ordering::SeqCst) > 0
            || !self.sleep.is_quiet(|| self.queues_empty())
        {
            return;
        }
        let stalled = {
            let mut state = self.waits.state.lock();
            // Once more, for exactly those in the list: each had added what it had to add when it ceased to be an actor.
            let no_actor = self.waits.n_actors.load(Ordering::SeqCst) == 0;
            if no_actor && self.sleep.is_quiet(|| self.queues_empty()) {
                self.waits.take_all(&mut state)
            } else {
                Vec::new()
            }
        };
        if stalled.is_empty() {
            return;
        }
        let mut diagnosis = self.graph.diagnose();
        diagnosis.stalled_policy = self.places.as_ref().and_then(Places::stalled_policy);
        self.hear_late_news();
        let diagnosis = Arc::new(diagnosis);
        for waiter in stalled {
            self.waits
                .wake(&waiter, Waited::Stalled(Arc::clone(&diagnosis)));
        }
    }
}
