//! Tasks that never run, and slots whose tasks nobody names any more.

use super::node::{Edge, EdgeKind};
use super::word::{FORGOTTEN, Phase, UNHEARD, WATCHED};
use super::{Cancelled, Completed, SlotCache, TaskGraph, attrs_of, next_free};
use crate::{TaskId, TaskState};

impl<B> TaskGraph<B> {
    /// Cancels a task that has not started or is suspended, and with it its dependents.
    ///
    /// Returns whether it did: running and ended tasks stay as they are.
    pub fn cancel(&self, id: TaskId, completed: &mut Completed<B>) -> bool {
        let before = completed.cancelled.len();
        self.cancel_waiting(vec![(id, id)], completed);
        completed.cancelled.len() > before
    }

    /// The same, since `cause` failed after this graph had seen it end: the task and its dependents are cancelled on its account.
    pub fn cancel_after(&self, id: TaskId, cause: TaskId, completed: &mut Completed<B>) {
        self.cancel_waiting(vec![(id, cause)], completed);
    }

    /// Cancels every task that has not started. Suspended ones go on: what they await ends, well or cancelled.
    pub fn cancel_unstarted(&self, completed: &mut Completed<B>) {
        self.cancel_where(
            |phase| matches!(phase, Phase::Waiting | Phase::Declared),
            completed,
        );
    }

    /// Cancels every task that is not running at this moment, suspended ones too: for when nobody will run any more.
    pub fn cancel_stranded(&self, completed: &mut Completed<B>) {
        self.cancel_where(
            |phase| matches!(phase, Phase::Waiting | Phase::Declared | Phase::Suspended),
            completed,
        );
    }

    fn cancel_where(&self, choose: impl Fn(Phase) -> bool, completed: &mut Completed<B>) {
        for (index, slot) in self.slots.iter() {
            let word = slot.word();
            if choose(word.phase()) {
                let id = TaskId::new(index, word.generation());
                self.cancel_waiting(vec![(id, id)], completed);
            }
        }
    }

    /// Cancels the tasks of `worklist` (with their causes) and all that depend on them; no recursion, however long the chain.
    pub(super) fn cancel_waiting(
        &self,
        mut worklist: Vec<(TaskId, TaskId)>,
        completed: &mut Completed<B>,
    ) {
        while let Some((id, cause)) = worklist.pop() {
            let Some((slot, mut node)) = self.lock(id) else {
                continue;
            };
            let word = slot.word();
            if !word.is_waiting() && word.phase() != Phase::Declared {
                continue;
            }
            slot.change(|word| word.enter(Phase::Cancelled, 0).with(UNHEARD));
            let attrs = attrs_of(word, &node);
            completed.cancelled.push(Cancelled {
                id,
                cause,
                body: node.body.take(),
                attrs,
            });
            node.take_edges().for_each(|edge| match edge.kind() {
                EdgeKind::Dependency => worklist.push((edge.to(), cause)),
                EdgeKind::Await => node.add_edge(edge),
            });
            node.rest_mut().cause = Some(cause);
        }
    }

    /// The owner of a cancelled task has noted its end: tasks that await it go on, who watches it hears of it (both appended
    /// to `completed`).
    pub fn acknowledge(&self, cache: &mut SlotCache, id: TaskId, completed: &mut Completed<B>) {
        let (awaiters, is_forgotten) = {
            let Some((slot, mut node)) = self.lock(id) else {
                return;
            };
            let word = slot.word();
            if !word.has(UNHEARD) {
                return;
            }
            if word.has(WATCHED) {
                completed.watched.push(id);
            }
            if word.has(FORGOTTEN) {
                slot.set(next_free(word));
                (node.take_all(), true)
            } else {
                slot.set(word.without(UNHEARD));
                (node.take_edges(), false)
            }
        };
        if is_forgotten {
            self.give_back(cache, id.index());
        }
        awaiters.for_each(|edge| completed.ready.extend(self.release(edge.to(), 1)));
    }

    /// Gives back the slot of a failed, cancelled or never-spawned task that nobody names any more.
    ///
    /// Does nothing to tasks in any other state, and nothing to declared ones that somebody waits for.
    pub fn forget(&self, cache: &mut SlotCache, id: TaskId) {
        let waiting: Vec<Edge> = match self.lock(id) {
            Some((slot, node)) if slot.word().phase() == Phase::Declared => node.edges().collect(),
            _ => Vec::new(),
        };
        if waiting.iter().any(|edge| {
            matches!(
                self.state(edge.to()),
                TaskState::Waiting | TaskState::Suspended
            )
        }) {
            return;
        }
        {
            let Some((slot, mut node)) = self.lock(id) else {
                return;
            };
            let word = slot.word();
            match word.phase() {
                Phase::Cancelled if word.has(UNHEARD) => {
                    slot.set(word.with(FORGOTTEN));
                    return;
                }
                Phase::Failed | Phase::Cancelled => {}
                // Those that were in the list a moment ago have been cancelled; any others have come meanwhile.
                Phase::Declared if node.edges().count() == waiting.len() && !word.has(WATCHED) => {}
                _ => return,
            }
            slot.set(next_free(word));
            drop(node.take_all());
        }
        self.give_back(cache, id.index());
    }
}
