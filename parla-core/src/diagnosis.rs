//! Why nothing moves: which tasks wait, for what, and whether they wait in a circle.

use std::collections::{BTreeMap, BTreeSet};

use crate::graph::EdgeKind;
use crate::{TaskGraph, TaskId, TaskState};

/// One reason why a task cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It depends on this task, which has not ended.
    DependsOn(TaskId),
    /// It started and awaits this task, which has not ended.
    Awaits(TaskId),
}

/// A task that cannot go on and what it waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blocked {
    /// Which.
    pub id: TaskId,
    /// Where it is in its life.
    pub state: TaskState,
    /// Everything that is still open for it.
    pub reasons: Vec<Reason>,
}

/// The state of a graph in which nothing moves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Diagnosis {
    /// Every spawned task that has not ended, in order of id.
    pub blocked: Vec<Blocked>,
    /// Ids that somebody waits for and nobody spawned.
    pub never_spawned: Vec<TaskId>,
    /// Circles of tasks that wait for each other, each once; the first waits for the second and so on, the last for the first.
    pub cycles: Vec<Vec<TaskId>>,
    /// The policy that was offered free devices and took none of the ready tasks, if that is why. The graph does not know; the runtime adds it.
    pub stalled_policy: Option<String>,
}

impl<B> TaskGraph<B> {
    /// Looks at every task that is alive and says what it waits for. Linear in tasks and edges, with a flat stack.
    #[must_use]
    pub fn diagnose(&self) -> Diagnosis {
        let mut blocked = BTreeMap::<TaskId, Blocked>::new();
        let mut never_spawned = Vec::new();
        let snapshot = self.snapshot();
        for &(id, state, _) in &snapshot {
            if state != TaskState::Declared && !state.is_terminal() {
                blocked.insert(
                    id,
                    Blocked {
                        id,
                        state,
                        reasons: Vec::new(),
                    },
                );
            }
        }
        for (id, state, successors) in snapshot {
            let mut is_waited_for = false;
            for (to, kind) in successors {
                if let Some(waiting) = blocked.get_mut(&to) {
                    is_waited_for = true;
                    waiting.reasons.push(match kind {
                        EdgeKind::Dependency => Reason::DependsOn(id),
                        EdgeKind::Await => Reason::Awaits(id),
                    });
                }
            }
            if is_waited_for && state == TaskState::Declared {
                never_spawned.push(id);
            }
        }
        let cycles = find_cycles(&blocked);
        never_spawned.sort_unstable();
        Diagnosis {
            blocked: blocked.into_values().collect(),
            never_spawned,
            cycles,
            stalled_policy: None,
        }
    }
}

/// Depth-first search over "waits for", one circle per back edge into the current path, at most one per start.
fn find_cycles(blocked: &BTreeMap<TaskId, Blocked>) -> Vec<Vec<TaskId>> {
    let waits_for = |id: &TaskId, nth: usize| {
        blocked
            .get(id)
            .and_then(|b| b.reasons.get(nth))
            .map(|reason| match *reason {
                Reason::DependsOn(on) | Reason::Awaits(on) => on,
            })
    };
    let mut cycles = Vec::new();
    let mut visited = BTreeSet::new();
    for &start in blocked.keys() {
        let mut path = vec![(start, 0)];
        let mut on_path = BTreeMap::from([(start, 0)]);
        if !visited.insert(start) {
            continue;
        }
        while let Some((id, nth)) = path.last_mut() {
            let next = waits_for(id, *nth);
            *nth += 1;
            match next {
                Some(next) => {
                    if let Some(&from) = on_path.get(&next) {
                        cycles.push(path[from..].iter().map(|&(id, _)| id).collect());
                    } else if visited.insert(next) {
                        on_path.insert(next, path.len());
                        path.push((next, 0));
                    }
                }
                None => {
                    on_path.remove(&id.to_owned());
                    path.pop();
                }
            }
        }
    }
    cycles
}
