//! Runahead: tasks whose body is over while their devices are still at work.
//!
//! On [stream-ordered](parla_device::Device::stream_ordered) devices such a task *runs ahead*: the graph sees it end at once, and dependents that are
//! sure to run on such devices follow, their streams waiting for its events; no thread of the host waits between them. Whoever
//! needs the true end (tasks elsewhere, awaits, waits, the end of the runtime) is held until the task's **epilogue** has run: its body's last step, after
//! its events are done.
//!
//! A task stands in `open` from before the graph sees it end until its epilogue is over. Whoever finds in the graph that it has ended looks
//! here afterwards, and so never takes a task that runs ahead for one that is over, nor one whose devices failed for one that went well: those are
//! remembered, as the graph knows nothing of it, and whoever depends on them is *doomed*: a worker cancels it instead of running it. Which tasks one depends on is noted (`follows`)
//! before anybody can see it, and looked up when it becomes ready.
//!
//! Without a stream-ordered device nothing is noted, and all this costs one branch per ready task.

use std::sync::Arc;

use parla_core::lock::Mutex;
use parla_core::{Attrs, Completed, Ready, Spawned, TaskId};
use parla_device::Event;
use rustc_hash::{FxHashMap, FxHashSet};

use super::Executor;
use super::shared::Shared;
use crate::Placing;

#[derive(Default)]
pub(super) struct Ahead {
    /// There are stream-ordered devices.
    enabled: bool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    open: FxHashMap<TaskId, Open>,
    follows: FxHashMap<TaskId, Follower>,
    /// Events that the streams of a task wait for.
    before: FxHashMap<TaskId, Vec<Arc<dyn Event>>>,
    /// Epilogues that wait for a worker, by the number they have in the graph.
    epilogues: FxHashMap<TaskId, TaskId>,
    /// Ran ahead, and failed after all.
    failed: FxHashSet<TaskId>,
    /// Ready tasks that are to be cancelled, and the failed ones they depend on.
    doomed: FxHashMap<TaskId, TaskId>,
}

/// A task that runs ahead.
struct Open {
    events: Vec<Arc<dyn Event>>,
    /// Ready but for its end.
    held: Vec<Ready>,
}

/// A task that is not ready.
struct Follower {
    on: Box<[TaskId]>,
    how: Follows,
}

/// How a task goes on after others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Follows {
    /// As their dependent, on devices that are sure to be stream-ordered: when they have run ahead.
    InStreamOrder,
    /// As their dependent, when they are over, if they ended well.
    AtTheEnd,
    /// It awaits them: when they are over, however they ended.
    HoweverTheyEnd,
}

/// What becomes of a ready task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(super) enum Verdict {
    /// It can run.
    Goes,
    /// It waits for the end of one that runs ahead, and is queued again then.
    Held,
    /// A worker is to [cancel](Shared::cancel_doomed) it.
    Doomed,
}

impl Ahead {
    pub(super) fn new(enabled: bool) -> Self {
        Self {
            enabled,
            ..Self::default()
        }
    }

    /// A task will depend on these or awaits them; called before it can become ready.
    #[inline]
    pub(super) fn note(&self, id: TaskId, on: &[TaskId], how: impl FnOnce() -> Follows) {
        if self.enabled && !on.is_empty() {
            let follower = Follower {
                on: on.into(),
                how: how(),
            };
            self.state.lock().follows.insert(id, follower);
        }
    }

    /// It will never be ready.
    pub(super) fn forget(&self, id: TaskId) {
        if self.enabled {
            let mut state = self.state.lock();
            state.follows.remove(&id);
            state.before.remove(&id);
            state.doomed.remove(&id);
        }
    }

    /// Whether a ready task can run, for all that others did that ran ahead.
    #[inline]
    pub(super) fn judge(&self, ready: Ready) -> Verdict {
        if self.enabled {
            self.judge_slowly(ready)
        } else {
            Verdict::Goes
        }
    }

    #[cold]
    fn judge_slowly(&self, ready: Ready) -> Verdict {
        let mut state = self.state.lock();
        let State {
            open,
            follows,
            before,
            failed,
            doomed,
            ..
        } = &mut *state;
        let Some(follower) = follows.get(&ready.id) else {
            return Verdict::Goes;
        };
        if follower.how != Follows::HoweverTheyEnd
            && let Some(cause) = follower.on.iter().find(|on| failed.contains(on))
        {
            doomed.insert(ready.id, *cause);
            follows.remove(&ready.id);
            return Verdict::Doomed;
        }
        let mut still_open = follower.on.iter().filter(|on| open.contains_key(on));
        if follower.how == Follows::InStreamOrder {
            let events: Vec<_> = still_open.flat_map(|on| open[on].events.clone()).collect();
            if !events.is_empty() {
                before.insert(ready.id, events);
            }
        } else if let Some(on) = still_open.next().copied() {
            open.entry(on).and_modify(|open| open.held.push(ready));
            return Verdict::Held;
        }
        follows.remove(&ready.id);
        Verdict::Goes
    }

    /// What the streams of a task have to wait for.
    pub(super) fn events_before(&self, id: TaskId) -> Vec<Arc<dyn Event>> {
        if !self.enabled {
            return Vec::new();
        }
        self.state.lock().before.remove(&id).unwrap_or_default()
    }

    /// Whether a task that the graph has seen end is not over yet.
    #[inline]
    pub(super) fn is_open(&self, id: TaskId) -> bool {
        self.enabled && self.state.lock().open.contains_key(&id)
    }

    fn open(&self, id: TaskId, events: &[Arc<dyn Event>]) {
        let open = Open {
            events: events.to_vec(),
            held: Vec::new(),
        };
        self.state.lock().open.insert(id, open);
    }

    /// The task whose epilogue has this number in the graph.
    pub(super) fn take_epilogue(&self, number: TaskId) -> Option<TaskId> {
        if !self.enabled {
            return None;
        }
        self.state.lock().epilogues.remove(&number)
    }

    /// The failed task that this one depends on, if it is doomed.
    fn take_doomed(&self, id: TaskId) -> Option<TaskId> {
        if !self.enabled {
            return None;
        }
        self.state.lock().doomed.remove(&id)
    }
}

impl<E: Executor> Shared<E> {
    /// Whether a task is over: ended in the graph, and not running ahead.
    #[inline]
    pub(super) fn is_over(&self, id: TaskId) -> bool {
        self.graph.has_ended(id) && !self.ahead.is_open(id)
    }

    /// Whether all of a task's choices are stream-ordered devices.
    pub(super) fn in_stream_order(&self, placing: Option<&Arc<Placing>>) -> bool {
        let (Some(places), Some(placing)) = (&self.places, placing) else {
            return false;
        };
        let machine = places.store.machine();
        let mut devices = placing.choices.iter().flat_map(|choice| &choice.devices);
        devices.all(|device| machine.device(*device).stream_ordered())
    }

    /// The body of `id` is over and its devices are at work up to `events`: to be called before the graph sees it end, ...
    pub(super) fn run_ahead(&self, id: TaskId, events: &[Arc<dyn Event>]) {
        self.ahead.open(id, events);
        self.placed_runs_ahead(id, events);
    }

    /// ... and this afterwards.
    pub(super) fn ends_later(&self, id: TaskId, events: Vec<Arc<dyn Event>>, body: E::Body) {
        self.when_done(events, move |shared, error| {
            shared.note_drained(id, error);
            shared.queue_epilogue(id, body);
        });
    }

    /// The epilogue goes to a worker as a task of its own, which nobody counts: the task it belongs to has been, and has not finished.
    fn queue_epilogue(&self, id: TaskId, body: E::Body) {
        let attrs = Attrs {
            placed: true,
            ..Attrs::default()
        };
        let note = |number| {
            self.ahead.state.lock().epilogues.insert(number, id);
            body
        };
        let mut cache = self.foreign.lock();
        let spawned = self.graph.spawn(&mut cache, None, &[], note, attrs);
        drop(cache);
        if let Spawned::Ready(ready) = spawned {
            self.queue_admitted(ready);
        }
    }

    /// The epilogue of `id` is over.
    pub(super) fn end_ahead(&self, id: TaskId, well: bool) {
        let open = {
            let mut state = self.ahead.state.lock();
            if !well {
                // Its device failed after the graph had let its dependents go: they must not run.
                state.failed.insert(id);
            }
            state.open.remove(&id)
        };
        self.waits.all_ended(&mut vec![id]);
        for ready in open.map(|open| open.held).unwrap_or_default() {
            self.queue_foreign(ready);
        }
    }

    /// A worker has come to a task that a policy places or that is doomed. If it is doomed, cancels it; whether it was.
    pub(super) fn cancel_doomed(&self, id: TaskId) -> bool {
        let Some(cause) = self.ahead.take_doomed(id) else {
            return false;
        };
        let mut completed = Completed::default();
        self.graph.cancel_after(id, cause, &mut completed);
        self.settle_foreign(completed);
        true
    }
}
