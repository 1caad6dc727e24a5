//! The life of a task.

/// Where a task is in its life.
///
/// ```text
/// Declared -> Waiting -> Ready -> Running -> Done | Failed
///                 \        \        |  ^
///                  \        \       v  |
///                   \        \   Suspended -> Cancelled
///                    `--------`-> Cancelled
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TaskState {
    /// Its id was named as a dependency, nobody spawned it yet.
    Declared,
    /// Spawned; some dependencies are unfinished.
    Waiting,
    /// Every dependency is done; it is in a queue or about to be put into one.
    Ready,
    /// Its body is running.
    Running,
    /// Its body (a coroutine) gave up the worker until the tasks it awaits have ended.
    Suspended,
    /// The body returned.
    Done,
    /// The body raised an error.
    Failed,
    /// It never ran to its end: cancelled by the user, or a dependency failed.
    Cancelled,
}

impl TaskState {
    /// Whether the task has ended, one way or another.
    #[must_use]
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Done | Self::Failed | Self::Cancelled)
    }
}
