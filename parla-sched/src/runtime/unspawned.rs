//! Tasks that others depend on and nobody has spawned yet. As long as there are any, the order in which tasks are spawned is not one in which they can run,
//! which copying ahead goes by.

use parla_core::lock::Mutex;
use parla_core::{TaskGraph, TaskId, TaskState};
use rustc_hash::FxHashSet;

/// Their ids. Some that were cancelled instead may be among them.
#[derive(Default)]
pub(super) struct Unspawned(Mutex<FxHashSet<TaskId>>);

impl Unspawned {
    /// A task with these dependencies is about to be spawned: whether some task that it may depend on, directly or not, is yet to be.
    pub(super) fn is_any<B>(&self, graph: &TaskGraph<B>, dependencies: &[TaskId]) -> bool {
        let is_declared = |id: &&TaskId| graph.state(**id) == TaskState::Declared;
        for id in dependencies.iter().filter(is_declared) {
            self.0.lock().insert(*id);
            // Its spawner may have come before this, and does not come again.
            if !is_declared(&id) {
                self.0.lock().remove(id);
            }
        }
        !self.0.lock().is_empty()
    }

    /// A task was spawned, which the graph knows by now.
    pub(super) fn spawned(&self, declared: Option<TaskId>) {
        if let Some(id) = declared {
            self.0.lock().remove(&id);
        }
    }
}
