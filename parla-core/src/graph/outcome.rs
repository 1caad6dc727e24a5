//! What goes into the graph with a task, and what comes out of it.

use crate::{Claim, TaskId};

/// What the scheduler must know of a task when it becomes ready.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attrs {
    /// Higher runs earlier; 0 is the default.
    pub priority: i32,
    /// The one worker that may run it, or `None` for any.
    pub worker: Option<u16>,
    /// What it holds while it runs.
    pub claim: Claim,
    /// A policy decides where it runs (and what it holds there).
    pub placed: bool,
}

impl Attrs {
    /// Whether any worker may run it at any time: no priority, no claim, no policy.
    #[inline]
    #[must_use]
    pub fn is_default(&self) -> bool {
        self.priority == 0 && self.worker.is_none() && self.claim.is_empty() && !self.placed
    }
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
    /// Dependents (transitively) that will never run. To be [acknowledged](crate::TaskGraph::acknowledge).
    pub cancelled: Vec<Cancelled<B>>,
    /// Ended tasks that somebody [`watch`](crate::TaskGraph::watch)es.
    pub watched: Vec<TaskId>,
}

impl<B> Default for Completed<B> {
    fn default() -> Self {
        Self {
            ready: Vec::new(),
            cancelled: Vec::new(),
            watched: Vec::new(),
        }
    }
}
