//! The task graph: states, edges, completion, failure, cancellation.
//!
//! # Protocol
//! Every task has one atomic word (its phase, its generation, how much is open for it) and one short lock (its body and its edges).
//! Nobody ever holds two of the locks, so there is no lock order and no deadlock. The race that matters is *adding a successor to a
//! task that is finishing at that moment*; both sides take that task's lock, so either the edge is in the list when `finish` takes the
//! list, or the adder sees that the task has ended.
//!
//! `open` counts the unfinished dependencies of a task. While `spawn` or `suspend` still adds edges it counts one more
//! (the *guard*), so the task cannot become ready before all its edges stand. It goes down by compare-and-swap, without the lock;
//! whoever brings it to zero gets the task: exactly one does. All else in the word changes under the lock only.
//!
//! A slot is used again once its task is done. The generation, part of the word, tells the old task from the
//! new one: an edge that leads to a task of another generation closes nothing. Only tasks that failed or were cancelled keep their slot until
//! [`TaskGraph::forget`], because whoever names them later must learn of the failure.
//!
//! Cancellation has two phases, because the owner of a cancelled task (who may have to note why it never ran) hears of it after
//! the fact: first the task and its dependents are cancelled and handed out; when the owner has acknowledged one, whoever
//! awaits or watches it goes on.
//!
//! Bodies are never dropped under a lock: they are handed to the caller.

mod cancel;
mod check;
mod node;
mod outcome;
mod slots;
mod word;

pub(crate) use node::EdgeKind;
use node::{Edge, Node, Slot};
pub use outcome::{Attrs, Cancelled, Completed, Ready, Spawned, Started, Suspended};
pub use slots::SlotCache;
use word::{MAX_OPEN, Phase, SPECIAL, STARTED, WATCHED, Word};

use crate::ids::GENERATION_MASK;
use crate::slab::Slab;
use crate::sync::{AtomicU32, Mutex, ShortMutexGuard};
use crate::{Claim, TaskId, TaskState};

/// All unfinished tasks of one runtime and the order between them.
///
/// `B` is the body: whatever a worker needs to run the task. All methods may be called from any thread.
pub struct TaskGraph<B> {
    slots: Slab<Slot<B>>,
    /// First index never used.
    fresh: AtomicU32,
    free: Mutex<Vec<u32>>,
}

impl<B> Default for TaskGraph<B> {
    fn default() -> Self {
        Self::new()
    }
}

impl<B> TaskGraph<B> {
    /// An empty graph.
    #[must_use]
    pub fn new() -> Self {
        Self {
            slots: Slab::new(),
            fresh: AtomicU32::new(0),
            free: Mutex::new(Vec::new()),
        }
    }

    /// Names a task that is to be spawned later, so that others can depend on it now.
    pub fn declare(&self, cache: &mut SlotCache) -> TaskId {
        let (index, slot) = self.allocate(cache);
        let word = slot.word();
        slot.set(word.enter(Phase::Declared, 0));
        TaskId::new(index, word.generation())
    }

    /// Adds a task that runs once all of `dependencies` are done.
    ///
    /// `declared` is the id it was [`declare`](Self::declare)d under, if it was. The order of spawning does not matter:
    /// dependencies may be declared only. Naming one twice counts once more and is let go once more.
    /// `body` is told the id before anyone can run the task; it may be called under the task's lock and must not block.
    ///
    /// # Panics
    /// When a task has 2^25 dependencies.
    pub fn spawn(
        &self,
        cache: &mut SlotCache,
        declared: Option<TaskId>,
        dependencies: &[TaskId],
        body: impl FnOnce(TaskId) -> B,
        attrs: Attrs,
    ) -> Spawned<B> {
        let open = if dependencies.is_empty() {
            0
        } else {
            open_for(dependencies)
        };
        let id = match declared {
            None => {
                let (index, slot) = self.allocate(cache);
                let id = TaskId::new(index, slot.word().generation());
                let body = body(id);
                Self::fill(slot, &mut slot.node.lock(), body, attrs, open);
                id
            }
            Some(id) => match self.lock(id) {
                Some((slot, mut node)) if slot.word().phase() == Phase::Declared => {
                    Self::fill(slot, &mut node, body(id), attrs, open);
                    id
                }
                _ => return Spawned::Taken,
            },
        };
        if open == 0 {
            return Spawned::Ready(Ready { id, attrs });
        }
        let mut closed = 1; // the guard, and every dependency that has ended
        let mut failure = None;
        for &dependency in dependencies {
            match self.link(dependency, Edge::new(id, EdgeKind::Dependency)) {
                Ok(()) => {}
                Err(None) => closed += 1,
                Err(Some(cause)) => failure = failure.or(Some(cause)),
            }
        }
        if let Some(cause) = failure {
            let mut completed = Completed::default();
            self.cancel_waiting(vec![(id, cause)], &mut completed);
            return Spawned::Cancelled(id, completed);
        }
        match self.release(id, closed) {
            Some(ready) => Spawned::Ready(ready),
            None => Spawned::Waiting(id),
        }
    }

    /// Makes a declared or new task one that waits.
    #[inline]
    fn fill(slot: &Slot<B>, node: &mut Node<B>, body: B, attrs: Attrs, open: u32) {
        node.body = Some(body);
        let mut word = slot.word().enter(Phase::Waiting, open);
        if !attrs.is_default() {
            node.rest_mut().attrs = attrs;
            word = word.with(SPECIAL);
        }
        slot.set(word);
    }

    /// Takes the body of a ready task to run it; `None` if it was cancelled meanwhile.
    #[must_use]
    #[inline]
    pub fn start(&self, id: TaskId) -> Option<Started<B>> {
        let (slot, mut node) = self.lock(id)?;
        let word = slot.word();
        if !word.is_ready() {
            return None;
        }
        slot.set(word.enter(Phase::Running, 0).with(STARTED));
        let claim = if word.has(SPECIAL) {
            attrs_of(word, &node).claim
        } else {
            Claim::default()
        };
        Some(Started {
            body: node.body.take()?,
            claim,
            resumed: word.has(STARTED),
        })
    }

    /// Puts a running task to sleep until all of `awaited` have ended, in whatever way.
    ///
    /// # Panics
    /// When a task awaits 2^25 others.
    pub fn suspend(&self, id: TaskId, body: B, awaited: &[TaskId]) -> Suspended {
        {
            let (slot, mut node) = self.lock(id).expect("a running task keeps its slot");
            debug_assert_eq!(slot.word().phase(), Phase::Running);
            node.body = Some(body);
            slot.set(slot.word().enter(Phase::Suspended, open_for(awaited)));
        }
        let mut closed = 1;
        for &other in awaited {
            if self.link(other, Edge::new(id, EdgeKind::Await)).is_err() {
                closed += 1;
            }
        }
        match self.release(id, closed) {
            Some(ready) => Suspended::Ready(ready),
            None => Suspended::Waiting,
        }
    }

    /// Puts a running task to sleep until [`resume`](Self::resume): it waits for something that is no task.
    pub fn hold(&self, id: TaskId, body: B) {
        let (slot, mut node) = self.lock(id).expect("a running task keeps its slot");
        debug_assert_eq!(slot.word().phase(), Phase::Running);
        node.body = Some(body);
        slot.set(slot.word().enter(Phase::Suspended, 1));
    }

    /// What a [held](Self::hold) task waited for has happened. `None`: it was cancelled meanwhile.
    #[must_use]
    pub fn resume(&self, id: TaskId) -> Option<Ready> {
        self.release(id, 1)
    }

    /// Ends a running task without error and yields what that sets free (appended to `completed`).
    #[inline]
    pub fn finish(&self, cache: &mut SlotCache, id: TaskId, completed: &mut Completed<B>) {
        let successors = {
            let (slot, mut node) = self.lock(id).expect("a running task keeps its slot");
            let word = slot.word();
            debug_assert_eq!(word.phase(), Phase::Running);
            if word.has(WATCHED) {
                completed.watched.push(id);
            }
            let successors = node.take_all();
            slot.set(next_free(word));
            successors
        };
        self.give_back(cache, id.index());
        successors.for_each(|edge| {
            if let Some(ready) = self.release(edge.to(), 1) {
                completed.ready.push(ready);
            }
        });
    }

    /// Ends a running task with an error: its dependents are cancelled, tasks that await it go on.
    pub fn fail(&self, id: TaskId, completed: &mut Completed<B>) {
        let successors = {
            let (slot, mut node) = self.lock(id).expect("a running task keeps its slot");
            let word = slot.word();
            debug_assert_eq!(word.phase(), Phase::Running);
            if word.has(WATCHED) {
                completed.watched.push(id);
            }
            node.rest_mut().cause = Some(id);
            slot.set(word.enter(Phase::Failed, 0));
            node.take_edges()
        };
        let mut dependents = Vec::new();
        successors.for_each(|edge| match edge.kind() {
            EdgeKind::Dependency => dependents.push((edge.to(), id)),
            EdgeKind::Await => completed.ready.extend(self.release(edge.to(), 1)),
        });
        self.cancel_waiting(dependents, completed);
    }

    /// Asks for the end of a task to be reported in [`Completed::watched`]. `false`: it has ended already.
    #[must_use]
    pub fn watch(&self, id: TaskId) -> bool {
        match self.lock(id) {
            Some((slot, _node)) if !slot.word().has_ended() => {
                slot.change(|word| word.with(WATCHED));
                true
            }
            _ => false,
        }
    }

    /// Whether a task has ended, and its owner knows.
    #[must_use]
    pub fn has_ended(&self, id: TaskId) -> bool {
        self.word(id).is_none_or(Word::has_ended)
    }

    /// Where a task is in its life.
    #[must_use]
    pub fn state(&self, id: TaskId) -> TaskState {
        self.word(id)
            .and_then(Word::state)
            .unwrap_or(TaskState::Done)
    }

    /// The task whose failure or cancellation ended `id`, if that is how it ended.
    #[must_use]
    pub fn cause(&self, id: TaskId) -> Option<TaskId> {
        self.lock(id)?.1.rest()?.cause
    }

    /// Looks at a waiting, ready or suspended task's body (to tell the user about it).
    pub fn with_body<R>(&self, id: TaskId, look: impl FnOnce(&B) -> R) -> Option<R> {
        self.lock(id)?.1.body.as_ref().map(look)
    }

    /// Adds `edge` to the successors of `to`. `Err`: it has ended, well (`None`) or with this cause.
    #[inline]
    fn link(&self, to: TaskId, edge: Edge) -> Result<(), Option<TaskId>> {
        let slot = self.slots.get(to.index()).ok_or(None)?;
        if slot.word().generation() != to.generation() {
            return Err(None); // most that have ended are seen to have without the lock
        }
        let mut node = slot.node.lock();
        let word = slot.word();
        if word.generation() != to.generation() {
            return Err(None);
        }
        let can_wait = word.is_alive() || (edge.kind() == EdgeKind::Await && !word.has_ended());
        if !can_wait {
            return Err(node.rest().and_then(|rest| rest.cause));
        }
        node.add_edge(edge);
        Ok(())
    }

    /// Closes `count` of a task's open dependencies; the one who closes the last gets it.
    #[inline]
    fn release(&self, id: TaskId, count: u32) -> Option<Ready> {
        let slot = self.slots.get(id.index())?;
        let word = slot.close(id.generation(), count)?;
        if word.open() > 0 {
            return None;
        }
        if !word.has(SPECIAL) {
            return Some(Ready {
                id,
                attrs: Attrs::default(),
            });
        }
        let (_, node) = self.lock(id)?;
        Some(Ready {
            id,
            attrs: attrs_of(word, &node),
        })
    }

    /// The task's word, unless its slot has passed on to another task.
    #[inline]
    fn word(&self, id: TaskId) -> Option<Word> {
        let word = self.slots.get(id.index())?.word();
        (word.generation() == id.generation()).then_some(word)
    }

    /// The task's slot, locked, unless it has passed on to another task.
    #[inline]
    fn lock(&self, id: TaskId) -> Option<(&Slot<B>, ShortMutexGuard<'_, Node<B>>)> {
        let slot = self.slots.get(id.index())?;
        let node = slot.node.lock();
        (slot.word().generation() == id.generation()).then_some((slot, node))
    }
}

/// The word of a slot whose task has gone: free, for the next generation. Generations begin at 1.
#[inline]
fn next_free(word: Word) -> Word {
    let generation = word.generation();
    Word::free(if generation == GENERATION_MASK {
        1
    } else {
        generation + 1
    })
}

/// How much is open for a task that waits for all of these, with the guard.
#[inline]
fn open_for(others: &[TaskId]) -> u32 {
    let n = u32::try_from(others.len()).unwrap_or(u32::MAX);
    assert!(
        n <= MAX_OPEN,
        "a task waits for fewer than 2^25 others, not {n}"
    );
    n + 1
}

#[inline]
fn attrs_of<B>(word: Word, node: &Node<B>) -> Attrs {
    match node.rest() {
        Some(rest) if word.has(SPECIAL) => rest.attrs,
        _ => Attrs::default(),
    }
}

#[cfg(all(test, loom))]
mod loom_tests;
#[cfg(all(test, not(loom)))]
mod tests;
