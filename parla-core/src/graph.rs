//! The task graph: states, edges, completion, failure, cancellation.
//!
//! # Protocol
//! Every task has one short lock (its slot's). Nobody ever holds two of them, so there is no lock order and no
//! deadlock. The race that matters is *adding a successor to a task that is finishing at that moment*; both sides take
//! that task's lock, so either the edge is in the list when `finish` takes the list, or the adder sees a terminal state.
//!
//! `open` counts the unfinished dependencies of a task. While `spawn` or `suspend` still adds edges it counts one more
//! (the *guard*), so the task cannot become ready before all its edges stand. Whoever brings `open` to zero, under the
//! task's lock, makes it ready: exactly one does.
//!
//! A slot is used again once its task is done. The generation, compared under the lock, tells the old task from the
//! new one. Only tasks that failed or were cancelled keep their slot until [`TaskGraph::forget`], because whoever names them later must
//! learn of the failure.
//!
//! Cancellation has two phases, because the owner of a cancelled task (who may have to note why it never ran) hears of it after
//! the fact: first the task and its dependents are cancelled and handed out; when the owner has acknowledged one, whoever
//! awaits or watches it goes on.
//!
//! Bodies are never dropped under a lock: they are handed to the caller.

use smallvec::SmallVec;

use crate::ids::GENERATION_MASK;
use crate::slab::Slab;
use crate::sync::{AtomicU32, Mutex, MutexGuard, Ordering};
use crate::{Claim, TaskId, TaskState};

/// What the scheduler must know of a task when it becomes ready.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attrs {
    /// Higher runs earlier; 0 is the default.
    pub priority: i32,
    /// The one worker that may run it, or `None` for any.
    pub worker: Option<u16>,
    /// What it holds while it runs.
    pub claim: Claim,
}

/// A task whose turn has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ready {
    /// Which.
    pub id: TaskId,
    /// How it is to be run.
    pub attrs: Attrs,
}

/// What became of a task at `spawn`.
#[derive(Debug)]
#[must_use]
pub enum Spawned<B> {
    /// It has no unfinished dependency: queue it.
    Ready(Ready),
    /// The last of its dependencies will yield it.
    Waiting(TaskId),
    /// A dependency had failed already. `completed` holds it and the dependents cancelled with it.
    Cancelled(TaskId, Completed<B>),
    /// The id was not a declared one: it was spawned before, nothing has changed.
    Taken,
}

/// A task that begins to run, or goes on after it awaited others.
#[derive(Debug, PartialEq, Eq)]
pub struct Started<B> {
    /// What to run.
    pub body: B,
    /// What it holds until it ends or suspends.
    pub claim: Claim,
    /// It ran before.
    pub resumed: bool,
}

/// What became of a running task at `suspend`.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub enum Suspended {
    /// It waits; the last awaited task will yield it.
    Waiting,
    /// Everything it awaits has ended already: queue it again.
    Ready(Ready),
}

/// A task that will never run, with the body it would have run.
#[derive(Debug)]
pub struct Cancelled<B> {
    /// Which.
    pub id: TaskId,
    /// The failed or cancelled task this one depended on first of all; itself if the user cancelled it.
    pub cause: TaskId,
    /// Its body, to be dropped by the caller outside all locks.
    pub body: Option<B>,
    /// What it held: a suspended task holds nothing, so this is only informative.
    pub attrs: Attrs,
}

/// What the end of a task sets free. Kept by each worker and used again, so that completion allocates nothing.
#[derive(Debug)]
pub struct Completed<B> {
    /// Tasks whose last dependency this was.
    pub ready: Vec<Ready>,
    /// Dependents (transitively) that will never run. To be [acknowledged](TaskGraph::acknowledge).
    pub cancelled: Vec<Cancelled<B>>,
    /// Ended tasks that somebody [`watch`](TaskGraph::watch)es.
    pub watched: Vec<TaskId>,
}

impl<B> Default for Completed<B> {
    fn default() -> Self {
        Self { ready: Vec::new(), cancelled: Vec::new(), watched: Vec::new() }
    }
}

/// Free slots at hand for one spawning thread or worker.
#[derive(Debug, Default)]
pub struct SlotCache {
    free: Vec<u32>,
}

/// How many slots travel between a cache and the common list at once.
const SLOT_BATCH: usize = 64;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum EdgeKind {
    /// The successor must not start before, and not at all after a failure.
    Dependency,
    /// The successor has started and awaits the end, good or bad.
    Await,
}

/// A successor and why it waits, in 8 bytes.
#[derive(Clone, Copy)]
struct Edge(u64);

impl Edge {
    const AWAIT: u64 = 1 << 63;

    fn new(to: TaskId, kind: EdgeKind) -> Self {
        Self(to.as_u64() | if kind == EdgeKind::Await { Self::AWAIT } else { 0 })
    }

    fn unpack(self) -> (TaskId, EdgeKind) {
        let kind = if self.0 & Self::AWAIT == 0 { EdgeKind::Dependency } else { EdgeKind::Await };
        (TaskId::from_u64(self.0 & !Self::AWAIT), kind)
    }
}

type Edges = SmallVec<[Edge; 2]>;

struct Node<B> {
    generation: u32,
    /// `None`: the slot is free.
    state: Option<TaskState>,
    /// Somebody waits for its end from outside the graph.
    watched: bool,
    /// Its body ran before.
    started: bool,
    /// Cancelled, and its owner has not [acknowledged](TaskGraph::acknowledge) it: who awaits it still waits.
    unheard: bool,
    /// Forgotten while unheard: the acknowledgement gives the slot back.
    forgotten: bool,
    /// Unfinished dependencies, plus the guard.
    open: u32,
    successors: Edges,
    /// Some(_) while Waiting, Ready and Suspended; the runner has it while Running.
    body: Option<B>,
    attrs: Attrs,
    /// The first failure, for Cancelled tasks.
    cause: Option<TaskId>,
}

impl<B> Node<B> {
    /// Whether nobody has to wait for it any more.
    fn has_ended(&self) -> bool {
        self.state.is_none_or(TaskState::is_terminal) && !self.unheard
    }
}

struct Slot<B>(Mutex<Node<B>>);

impl<B> Default for Slot<B> {
    fn default() -> Self {
        Self(Mutex::new(Node {
            generation: 0,
            state: None,
            watched: false,
            started: false,
            unheard: false,
            forgotten: false,
            open: 0,
            successors: Edges::new(),
            body: None,
            attrs: Attrs::default(),
            cause: None,
        }))
    }
}

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
        Self { slots: Slab::new(), fresh: AtomicU32::new(0), free: Mutex::new(Vec::new()) }
    }

    /// Names a task that is to be spawned later, so that others can depend on it now.
    pub fn declare(&self, cache: &mut SlotCache) -> TaskId {
        let (index, mut node) = self.allocate(cache);
        node.state = Some(TaskState::Declared);
        TaskId::new(index, node.generation)
    }

    /// Adds a task that runs once all of `dependencies` are done.
    ///
    /// `declared` is the id it was [`declare`](Self::declare)d under, if it was. The order of spawning does not matter:
    /// dependencies may be declared only. Naming one twice counts once more and is let go once more.
    /// `body` is told the id before anyone can run the task; it is called under the task's lock and must not block.
    ///
    /// # Panics
    /// When a task has 2^32 dependencies.
    pub fn spawn(
        &self,
        cache: &mut SlotCache,
        declared: Option<TaskId>,
        dependencies: &[TaskId],
        body: impl FnOnce(TaskId) -> B,
        attrs: Attrs,
    ) -> Spawned<B> {
        let (id, mut node) = match declared {
            None => {
                let (index, node) = self.allocate(cache);
                (TaskId::new(index, node.generation), node)
            }
            Some(id) => match self.lock(id) {
                Some(node) if node.state == Some(TaskState::Declared) => (id, node),
                _ => return Spawned::Taken,
            },
        };
        node.body = Some(body(id));
        node.attrs = attrs;
        if dependencies.is_empty() {
            node.state = Some(TaskState::Ready);
            return Spawned::Ready(Ready { id, attrs });
        }
        node.state = Some(TaskState::Waiting);
        node.open = u32::try_from(dependencies.len()).expect("a task has fewer than 2^32 dependencies") + 1;
        drop(node);

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

    /// Takes the body of a ready task to run it; `None` if it was cancelled meanwhile.
    #[must_use]
    pub fn start(&self, id: TaskId) -> Option<Started<B>> {
        let mut node = self.lock(id)?;
        if node.state != Some(TaskState::Ready) {
            return None;
        }
        node.state = Some(TaskState::Running);
        let resumed = std::mem::replace(&mut node.started, true);
        Some(Started { body: node.body.take()?, claim: node.attrs.claim, resumed })
    }

    /// Puts a running task to sleep until all of `awaited` have ended, in whatever way.
    pub fn suspend(&self, id: TaskId, body: B, awaited: &[TaskId]) -> Suspended {
        {
            let mut node = self.lock(id).expect("a running task keeps its slot");
            debug_assert_eq!(node.state, Some(TaskState::Running));
            node.state = Some(TaskState::Suspended);
            node.body = Some(body);
            node.open = u32::try_from(awaited.len()).expect("a task awaits fewer than 2^32 others") + 1;
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

    /// Ends a running task without error and yields what that sets free (appended to `completed`).
    pub fn finish(&self, cache: &mut SlotCache, id: TaskId, completed: &mut Completed<B>) {
        let successors = {
            let mut node = self.lock(id).expect("a running task keeps its slot");
            debug_assert_eq!(node.state, Some(TaskState::Running));
            if node.watched {
                completed.watched.push(id);
            }
            let successors = std::mem::take(&mut node.successors);
            Self::recycle(&mut node);
            successors
        };
        self.give_back(cache, id.index());
        for edge in successors {
            completed.ready.extend(self.release(edge.unpack().0, 1));
        }
    }

    /// Ends a running task with an error: its dependents are cancelled, tasks that await it go on.
    pub fn fail(&self, id: TaskId, completed: &mut Completed<B>) {
        let successors = {
            let mut node = self.lock(id).expect("a running task keeps its slot");
            debug_assert_eq!(node.state, Some(TaskState::Running));
            if node.watched {
                completed.watched.push(id);
            }
            node.state = Some(TaskState::Failed);
            node.cause = Some(id);
            std::mem::take(&mut node.successors)
        };
        let worklist = self.let_go(successors, id, completed);
        self.cancel_waiting(worklist, completed);
    }

    /// Cancels a task that has not started or is suspended, and with it its dependents.
    ///
    /// Returns whether it did: running and ended tasks stay as they are.
    pub fn cancel(&self, id: TaskId, completed: &mut Completed<B>) -> bool {
        let before = completed.cancelled.len();
        self.cancel_waiting(vec![(id, id)], completed);
        completed.cancelled.len() > before
    }

    /// Cancels every task that has not started. Suspended ones go on: what they await ends, well or cancelled.
    pub fn cancel_unstarted(&self, completed: &mut Completed<B>) {
        self.cancel_where(|state| matches!(state, TaskState::Waiting | TaskState::Ready | TaskState::Declared), completed);
    }

    /// Cancels every task that is not running at this moment, suspended ones too: for when nobody will run any more.
    pub fn cancel_stranded(&self, completed: &mut Completed<B>) {
        self.cancel_where(|state| !state.is_terminal() && state != TaskState::Running, completed);
    }

    fn cancel_where(&self, choose: impl Fn(TaskState) -> bool, completed: &mut Completed<B>) {
        for (index, slot) in self.slots.iter() {
            let id = {
                let node = slot.0.lock();
                match node.state {
                    Some(state) if choose(state) => TaskId::new(index, node.generation),
                    _ => continue,
                }
            };
            self.cancel_waiting(vec![(id, id)], completed);
        }
    }

    /// Asks for the end of a task to be reported in [`Completed::watched`]. `false`: it has ended already.
    #[must_use]
    pub fn watch(&self, id: TaskId) -> bool {
        match self.lock(id) {
            Some(mut node) if !node.has_ended() => {
                node.watched = true;
                true
            }
            _ => false,
        }
    }

    /// Whether a task has ended, and its owner knows.
    #[must_use]
    pub fn has_ended(&self, id: TaskId) -> bool {
        self.lock(id).is_none_or(|node| node.has_ended())
    }

    /// Where a task is in its life.
    #[must_use]
    pub fn state(&self, id: TaskId) -> TaskState {
        self.lock(id).and_then(|node| node.state).unwrap_or(TaskState::Done)
    }

    /// The task whose failure or cancellation ended `id`, if that is how it ended.
    #[must_use]
    pub fn cause(&self, id: TaskId) -> Option<TaskId> {
        self.lock(id)?.cause
    }

    /// Gives back the slot of a failed, cancelled or never-spawned task that nobody names any more.
    ///
    /// Does nothing to tasks in any other state, and nothing to declared ones that somebody waits for.
    pub fn forget(&self, cache: &mut SlotCache, id: TaskId) {
        let waiting = match self.lock(id) {
            Some(node) if node.state == Some(TaskState::Declared) => node.successors.clone(),
            _ => Edges::new(),
        };
        if waiting.iter().any(|edge| matches!(self.state(edge.unpack().0), TaskState::Waiting | TaskState::Suspended)) {
            return;
        }
        {
            let Some(mut node) = self.lock(id) else { return };
            match node.state {
                Some(TaskState::Cancelled) if node.unheard => {
                    node.forgotten = true;
                    return;
                }
                Some(TaskState::Failed | TaskState::Cancelled) => {}
                // Those that were in the list a moment ago have been cancelled; any others have come meanwhile.
                Some(TaskState::Declared) if node.successors.len() == waiting.len() && !node.watched => {}
                _ => return,
            }
            Self::recycle(&mut node);
        }
        self.give_back(cache, id.index());
    }

    /// Looks at a waiting, ready or suspended task's body (to tell the user about it).
    pub fn with_body<R>(&self, id: TaskId, look: impl FnOnce(&B) -> R) -> Option<R> {
        self.lock(id)?.body.as_ref().map(look)
    }

    /// Every task that is alive: its id, its state and the tasks that wait for it.
    pub(crate) fn snapshot(&self) -> Vec<(TaskId, TaskState, Vec<(TaskId, EdgeKind)>)> {
        self.slots
            .iter()
            .filter_map(|(index, slot)| {
                let node = slot.0.lock();
                let id = TaskId::new(index, node.generation);
                Some((id, node.state?, node.successors.iter().map(|edge| edge.unpack()).collect()))
            })
            .collect()
    }

    /// Checks what must hold whenever no call is in progress; the error says what does not.
    ///
    /// # Errors
    /// A sentence for the first violated invariant: an open count that is not the number of edges leading to the task, a body where
    /// none may be (or the reverse), an edge kept by an ended task, a waiting task with nothing open.
    pub fn validate(&self) -> Result<(), String> {
        let mut open = std::collections::BTreeMap::<TaskId, u32>::new();
        for (_, _, successors) in self.snapshot() {
            for (to, _) in successors {
                *open.entry(to).or_default() += 1;
            }
        }
        for (index, slot) in self.slots.iter() {
            let node = slot.0.lock();
            let id = TaskId::new(index, node.generation);
            let edges = open.get(&id).copied().unwrap_or(0);
            let check = |ok: bool, what: &str| if ok { Ok(()) } else { Err(format!("{id} in {:?}: {what}", node.state)) };
            let holds_body = node.body.is_some();
            match node.state {
                None => check(!holds_body && node.successors.is_empty(), "a free slot holds something")?,
                Some(TaskState::Waiting | TaskState::Suspended) => {
                    check(holds_body, "its body is gone")?;
                    check(node.open == edges && edges > 0, &format!("{} open, {edges} edges lead to it", node.open))?;
                }
                Some(TaskState::Ready) => check(holds_body && node.open == 0 && edges == 0, "not ready in truth")?,
                Some(TaskState::Declared) => check(!holds_body && edges == 0, "declared, yet it has a past")?,
                Some(TaskState::Running) => check(!holds_body && edges == 0, "runs too early")?,
                Some(state) => {
                    check(!holds_body && (node.unheard || node.successors.is_empty()), "an ended task holds something")?;
                    check(state != TaskState::Done, "a done task still has its slot")?;
                }
            }
        }
        Ok(())
    }

    /// Adds `edge` to the successors of `to`. `Err`: it has ended, well (`None`) or with this cause.
    fn link(&self, to: TaskId, edge: Edge) -> Result<(), Option<TaskId>> {
        let Some(mut node) = self.lock(to) else { return Err(None) };
        let awaits = edge.unpack().1 == EdgeKind::Await;
        match node.state {
            Some(state) if !state.is_terminal() || (awaits && node.unheard) => {
                node.successors.push(edge);
                Ok(())
            }
            _ => Err(node.cause),
        }
    }

    /// Closes `count` of a task's open dependencies; the one who closes the last gets it.
    fn release(&self, id: TaskId, count: u32) -> Option<Ready> {
        let mut node = self.lock(id)?;
        if !matches!(node.state, Some(TaskState::Waiting | TaskState::Suspended)) {
            return None; // cancelled before
        }
        node.open -= count;
        if node.open > 0 {
            return None;
        }
        node.state = Some(TaskState::Ready);
        Some(Ready { id, attrs: node.attrs })
    }

    /// After a bad end: awaiting successors go on, dependent ones are returned with the cause.
    fn let_go(&self, successors: Edges, cause: TaskId, completed: &mut Completed<B>) -> Vec<(TaskId, TaskId)> {
        let mut dependents = Vec::new();
        for edge in successors {
            match edge.unpack() {
                (to, EdgeKind::Dependency) => dependents.push((to, cause)),
                (to, EdgeKind::Await) => completed.ready.extend(self.release(to, 1)),
            }
        }
        dependents
    }

    /// Cancels the tasks of `worklist` (with their causes) and all that depend on them; no recursion, however long the chain.
    fn cancel_waiting(&self, mut worklist: Vec<(TaskId, TaskId)>, completed: &mut Completed<B>) {
        while let Some((id, cause)) = worklist.pop() {
            let successors = {
                let Some(mut node) = self.lock(id) else { continue };
                match node.state {
                    Some(TaskState::Waiting | TaskState::Ready | TaskState::Declared | TaskState::Suspended) => {}
                    _ => continue,
                }
                node.state = Some(TaskState::Cancelled);
                node.cause = Some(cause);
                node.unheard = true;
                let body = node.body.take();
                completed.cancelled.push(Cancelled { id, cause, body, attrs: node.attrs });
                let (awaiters, dependents): (Edges, Edges) =
                    std::mem::take(&mut node.successors).into_iter().partition(|edge| edge.unpack().1 == EdgeKind::Await);
                node.successors = awaiters;
                dependents
            };
            worklist.extend(successors.into_iter().map(|edge| (edge.unpack().0, cause)));
        }
    }

    /// The owner of a cancelled task has noted its end: tasks that await it go on, who watches it hears of it (both appended
    /// to `completed`).
    pub fn acknowledge(&self, cache: &mut SlotCache, id: TaskId, completed: &mut Completed<B>) {
        let (awaiters, forgotten) = {
            let Some(mut node) = self.lock(id) else { return };
            if !std::mem::take(&mut node.unheard) {
                return;
            }
            if node.watched {
                completed.watched.push(id);
            }
            let awaiters = std::mem::take(&mut node.successors);
            let forgotten = node.forgotten;
            if forgotten {
                Self::recycle(&mut node);
            }
            (awaiters, forgotten)
        };
        if forgotten {
            self.give_back(cache, id.index());
        }
        for edge in awaiters {
            completed.ready.extend(self.release(edge.unpack().0, 1));
        }
    }

    /// The task's node, unless its slot has passed on to another task.
    #[inline]
    fn lock(&self, id: TaskId) -> Option<MutexGuard<'_, Node<B>>> {
        let node = self.slots.get(id.index())?.0.lock();
        (node.generation == id.generation()).then_some(node)
    }

    fn allocate(&self, cache: &mut SlotCache) -> (u32, MutexGuard<'_, Node<B>>) {
        let index = match cache.free.pop() {
            Some(index) => index,
            None => self.refill(cache),
        };
        let node = self.slots.get(index).expect("free slots have been made").0.lock();
        debug_assert_eq!(node.state, None);
        (index, node)
    }

    #[cold]
    fn refill(&self, cache: &mut SlotCache) -> u32 {
        {
            let mut free = self.free.lock();
            let keep = free.len().saturating_sub(SLOT_BATCH);
            cache.free.extend(free.drain(keep..));
        }
        cache.free.pop().unwrap_or_else(|| {
            let first = self.fresh.fetch_add(SLOT_BATCH as u32, Ordering::Relaxed);
            self.slots.ensure(first); // SLOT_BATCH divides the slab's chunk size: one chunk holds the whole batch
            cache.free.extend((first + 1..first + SLOT_BATCH as u32).rev());
            first
        })
    }

    fn recycle(node: &mut Node<B>) {
        node.generation = (node.generation + 1) & GENERATION_MASK;
        node.state = None;
        node.watched = false;
        node.started = false;
        node.unheard = false;
        node.forgotten = false;
        node.open = 0;
        node.cause = None;
        node.successors = Edges::new();
        debug_assert!(node.body.is_none(), "bodies are handed out before their slot is given back");
    }

    fn give_back(&self, cache: &mut SlotCache, index: u32) {
        cache.free.push(index);
        if cache.free.len() >= 2 * SLOT_BATCH {
            let keep = cache.free.len() - SLOT_BATCH;
            self.free.lock().extend(cache.free.drain(keep..));
        }
    }
}

#[cfg(test)]
mod tests;
