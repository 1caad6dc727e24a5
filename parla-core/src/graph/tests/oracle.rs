//! Random programs, compared with a brute-force oracle after each step.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use proptest::prelude::*;

use super::*;

/// A program for the graph: tasks are named by number, actions come in any order.
#[derive(Clone, Debug)]
enum Action {
    /// Spawn task `.0` (if not yet spawned) depending on the given ones, declared if need be.
    Spawn(usize, Vec<usize>),
    /// Start and end some ready task; `false`: with an error.
    Run(usize, bool),
    /// Start some ready task, suspend it on these.
    Await(usize, Vec<usize>),
    /// Cancel a task that may be anywhere in its life.
    Cancel(usize),
}

fn action() -> impl Strategy<Value = Action> {
    let task = 0..12_usize;
    let some = proptest::collection::vec(0..12_usize, 0..4);
    prop_oneof![
        5 => (task.clone(), some.clone()).prop_map(|(t, on)| Action::Spawn(t, on)),
        5 => (any::<usize>(), proptest::bool::weighted(0.85)).prop_map(|(k, ok)| Action::Run(k, ok)),
        2 => (any::<usize>(), some).prop_map(|(k, on)| Action::Await(k, on)),
        1 => task.prop_map(Action::Cancel),
    ]
}

/// The same thing the slow way: states by name, "ready" computed afresh each time from all dependencies.
#[derive(Default)]
struct Oracle {
    state: BTreeMap<usize, TaskState>,
    dependencies: BTreeMap<usize, Vec<usize>>,
    /// Suspended once: failures of what it waits for no longer cancel it.
    started: BTreeSet<usize>,
}

impl Oracle {
    fn state(&self, task: usize) -> TaskState {
        self.state
            .get(&task)
            .copied()
            .unwrap_or(TaskState::Declared)
    }

    /// Propagates ends until nothing changes.
    fn settle(&mut self) {
        loop {
            let mut changed = false;
            for (&task, on) in &self.dependencies {
                let state = self.state(task);
                if !matches!(state, TaskState::Waiting | TaskState::Suspended) {
                    continue;
                }
                let ends: Vec<_> = on.iter().map(|d| self.state(*d)).collect();
                let bad = ends
                    .iter()
                    .any(|e| matches!(e, TaskState::Failed | TaskState::Cancelled));
                let next = if bad && !self.started.contains(&task) {
                    TaskState::Cancelled
                } else if ends.iter().all(|e| e.is_terminal()) {
                    TaskState::Ready
                } else {
                    continue;
                };
                self.state.insert(task, next);
                changed = true;
                break;
            }
            if !changed {
                return;
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]
    #[test]
    fn agrees_with_a_brute_force_oracle(actions in proptest::collection::vec(action(), 1..60)) {
        let mut h = Harness::new();
        let mut ids = BTreeMap::<usize, TaskId>::new();
        let mut queue = VecDeque::<TaskId>::new();
        let mut oracle = Oracle::default();
        for action in actions {
            let mut completed = Completed::default();
            match action {
                Action::Spawn(task, on) => {
                    if oracle.state(task) != TaskState::Declared { continue; }
                    let mut id_of = |t: usize| *ids.entry(t).or_insert_with(|| h.graph.declare(&mut h.cache));
                    let me = id_of(task);
                    let dependencies: Vec<_> = on.iter().map(|&d| id_of(d)).collect();
                    match h.graph.spawn(&mut h.cache, Some(me), &dependencies, |_| "body", Attrs::default()) {
                        Spawned::Ready(ready) => queue.push_back(ready.id),
                        Spawned::Waiting(_) => {}
                        Spawned::Cancelled(_, c) => completed = c,
                        Spawned::Taken => prop_assert!(false, "first spawn of {task}"),
                    }
                    oracle.state.insert(task, TaskState::Waiting);
                    oracle.dependencies.insert(task, on);
                }
                Action::Run(k, ok) => {
                    if queue.is_empty() { continue; }
                    let id = queue.remove(k % queue.len()).expect("within bounds");
                    let Some(_) = h.graph.start(id) else { continue };
                    let task = *ids.iter().find(|(_, i)| **i == id).expect("known").0;
                    if ok {
                        h.graph.finish(&mut h.cache, id, &mut completed);
                    } else {
                        h.graph.fail(id, &mut completed);
                    }
                    oracle.state.insert(task, if ok { TaskState::Done } else { TaskState::Failed });
                }
                Action::Await(k, on) => {
                    if queue.is_empty() { continue; }
                    let id = queue.remove(k % queue.len()).expect("within bounds");
                    let Some(body) = h.start(id) else { continue };
                    let task = *ids.iter().find(|(_, i)| **i == id).expect("known").0;
                    let awaited: Vec<_> = on.iter().map(|&d| *ids.entry(d).or_insert_with(|| h.graph.declare(&mut h.cache))).collect();
                    if let Suspended::Ready(ready) = h.graph.suspend(id, body, &awaited) {
                        queue.push_back(ready.id);
                    }
                    oracle.state.insert(task, TaskState::Suspended);
                    oracle.dependencies.insert(task, on);
                    oracle.started.insert(task);
                }
                Action::Cancel(task) => {
                    let Some(&id) = ids.get(&task) else { continue };
                    let state = oracle.state(task);
                    let did = h.graph.cancel(id, &mut completed);
                    prop_assert_eq!(did, !state.is_terminal());
                    if did { oracle.state.insert(task, TaskState::Cancelled); }
                }
            }
            h.acknowledge(&mut completed);
            queue.extend(completed.ready.iter().map(|r| r.id));
            oracle.settle();
            h.graph.validate().map_err(TestCaseError::fail)?;
            for (&task, &id) in &ids {
                prop_assert_eq!(h.graph.state(id), oracle.state(task), "task {}", task);
            }
        }
    }
}
