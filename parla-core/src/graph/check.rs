//! Looking at the whole graph: for diagnosis, and to check that it is consistent.

use std::collections::BTreeMap;

use super::TaskGraph;
use super::node::EdgeKind;
use super::word::{Phase, UNHEARD};
use crate::{TaskId, TaskState};

/// A task that is alive: its id, its state and the tasks that wait for it.
pub(crate) type Alive = (TaskId, TaskState, Vec<(TaskId, EdgeKind)>);

impl<B> TaskGraph<B> {
    /// Every task that is alive: its id, its state and the tasks that wait for it.
    pub(crate) fn snapshot(&self) -> Vec<Alive> {
        self.slots
            .iter()
            .filter_map(|(index, slot)| {
                let node = slot.node.lock();
                let word = slot.word();
                let id = TaskId::new(index, word.generation());
                Some((
                    id,
                    word.state()?,
                    node.edges().map(|edge| (edge.to(), edge.kind())).collect(),
                ))
            })
            .collect()
    }

    /// Checks what must hold whenever no call is in progress; the error says what does not.
    ///
    /// # Errors
    /// A sentence for the first violated invariant: an open count that is not the number of edges leading to the task, a body where
    /// none may be (or the reverse), an edge kept by an ended task.
    pub fn validate(&self) -> Result<(), String> {
        let mut open = BTreeMap::<TaskId, u32>::new();
        for (_, _, successors) in self.snapshot() {
            for (to, _) in successors {
                *open.entry(to).or_default() += 1;
            }
        }
        for (index, slot) in self.slots.iter() {
            let node = slot.node.lock();
            let word = slot.word();
            let id = TaskId::new(index, word.generation());
            let edges = open.get(&id).copied().unwrap_or(0);
            let check = |ok: bool, what: &str| {
                if ok {
                    Ok(())
                } else {
                    Err(format!("{id} in {:?}: {what}", word.phase()))
                }
            };
            let (holds_body, has_successors) = (node.body.is_some(), node.edges().next().is_some());
            match word.phase() {
                Phase::Free => check(
                    !holds_body && !has_successors && node.rest().is_none(),
                    "a free slot holds something",
                )?,
                Phase::Waiting | Phase::Suspended => {
                    check(holds_body, "its body is gone")?;
                    check(
                        word.open() == edges,
                        &format!("{} open, {edges} edges lead to it", word.open()),
                    )?;
                }
                Phase::Declared => check(!holds_body && edges == 0, "declared, yet it has a past")?,
                Phase::Running => check(!holds_body && edges == 0, "runs too early")?,
                Phase::Failed | Phase::Cancelled => {
                    check(
                        !holds_body && (word.has(UNHEARD) || !has_successors),
                        "an ended task holds something",
                    )?;
                }
            }
        }
        Ok(())
    }
}
