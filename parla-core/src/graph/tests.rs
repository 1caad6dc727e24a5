//! The graph by example; `size` has large graphs, `oracle` random programs.

use std::collections::BTreeSet;

use super::*;
use crate::Reason;

mod oracle;
mod size;

struct Harness {
    graph: TaskGraph<&'static str>,
    cache: SlotCache,
}

impl Harness {
    fn new() -> Self {
        Self {
            graph: TaskGraph::new(),
            cache: SlotCache::default(),
        }
    }

    fn declare(&mut self) -> TaskId {
        self.graph.declare(&mut self.cache)
    }

    fn spawn(&mut self, declared: Option<TaskId>, on: &[TaskId]) -> Spawned<&'static str> {
        let spawned = self
            .graph
            .spawn(&mut self.cache, declared, on, |_| "body", Attrs::default());
        self.graph.validate().expect("consistent after spawn");
        spawned
    }

    fn ready(&mut self, on: &[TaskId]) -> TaskId {
        match self.spawn(None, on) {
            Spawned::Ready(ready) => ready.id,
            other => panic!("not ready: {other:?}"),
        }
    }

    fn waiting(&mut self, on: &[TaskId]) -> TaskId {
        match self.spawn(None, on) {
            Spawned::Waiting(id) => id,
            other => panic!("not waiting: {other:?}"),
        }
    }

    fn finish(&mut self, id: TaskId) -> Completed<&'static str> {
        let mut completed = Completed::default();
        self.graph.finish(&mut self.cache, id, &mut completed);
        self.graph.validate().expect("consistent after finish");
        completed
    }

    fn start(&self, id: TaskId) -> Option<&'static str> {
        self.graph.start(id).map(|started| started.body)
    }

    /// The owner hears of the cancelled tasks.
    fn acknowledge(&mut self, completed: &mut Completed<&'static str>) {
        let ids: Vec<_> = completed.cancelled.iter().map(|c| c.id).collect();
        ids.iter()
            .for_each(|id| self.graph.acknowledge(&mut self.cache, *id, completed));
        self.graph
            .validate()
            .expect("consistent after acknowledging");
    }

    fn run(&mut self, id: TaskId) -> Vec<TaskId> {
        assert_eq!(self.start(id), Some("body"));
        self.finish(id).ready.iter().map(|r| r.id).collect()
    }

    fn fail(&mut self, id: TaskId) -> Completed<&'static str> {
        assert!(self.graph.start(id).is_some());
        let mut completed = Completed::default();
        self.graph.fail(id, &mut completed);
        self.graph.validate().expect("consistent after fail");
        self.acknowledge(&mut completed);
        completed
    }
}

#[test]
fn a_task_becomes_ready_with_its_last_dependency() {
    let mut h = Harness::new();
    let (a, b) = (h.ready(&[]), h.ready(&[]));
    let c = h.waiting(&[a, b, a]);
    assert_eq!(h.run(a), []);
    assert_eq!(h.run(b), [c]);
    assert_eq!(h.run(c), []);
    assert_eq!(h.graph.state(c), TaskState::Done);
}

#[test]
fn the_order_of_spawning_does_not_matter() {
    let mut h = Harness::new();
    let early = h.declare();
    let dependent = h.waiting(&[early]);
    assert_eq!(h.graph.state(early), TaskState::Declared);
    let Spawned::Ready(ready) = h.spawn(Some(early), &[]) else {
        panic!("nothing to wait for")
    };
    assert_eq!(ready.id, early);
    assert_eq!(h.run(early), [dependent]);
}

#[test]
fn an_id_is_spawned_once() {
    let mut h = Harness::new();
    let id = h.declare();
    let Spawned::Ready(_) = h.spawn(Some(id), &[]) else {
        panic!("first spawn")
    };
    let Spawned::Taken = h.spawn(Some(id), &[]) else {
        panic!("second spawn while alive")
    };
    h.run(id);
    let Spawned::Taken = h.spawn(Some(id), &[]) else {
        panic!("second spawn after its end")
    };
}

#[test]
fn failure_cancels_dependents_and_wakes_awaiters() {
    let mut h = Harness::new();
    let bad = h.ready(&[]);
    let child = h.waiting(&[bad]);
    let grandchild = h.waiting(&[child]);
    let other = h.ready(&[]);
    let awaiter = h.ready(&[]);
    let body = h.start(awaiter).expect("ready");
    assert_eq!(
        h.graph.suspend(awaiter, body, &[bad, other]),
        Suspended::Waiting
    );
    h.graph.validate().expect("consistent while suspended");
    assert_eq!(h.run(other), []);
    let completed = h.fail(bad);
    assert_eq!(
        completed.ready.iter().map(|r| r.id).collect::<Vec<_>>(),
        [awaiter]
    );
    let cancelled: Vec<_> = completed
        .cancelled
        .iter()
        .map(|c| (c.id, c.cause))
        .collect();
    assert_eq!(cancelled, [(child, bad), (grandchild, bad)]);
    assert_eq!(h.graph.cause(grandchild), Some(bad));
    let Spawned::Cancelled(late, completed) = h.spawn(None, &[grandchild]) else {
        panic!("its dependency never ran")
    };
    assert_eq!(
        (completed.cancelled[0].id, completed.cancelled[0].cause),
        (late, bad)
    );
}

#[test]
fn cancelling_reaches_all_that_has_not_started() {
    let mut h = Harness::new();
    let running = h.ready(&[]);
    assert!(h.graph.start(running).is_some());
    let queued = h.ready(&[]);
    let waiting = h.waiting(&[running]);
    let mut completed = Completed::default();
    assert!(!h.graph.cancel(running, &mut completed));
    h.graph.cancel_unstarted(&mut completed);
    assert_eq!(
        completed
            .cancelled
            .iter()
            .map(|c| c.id)
            .collect::<BTreeSet<_>>(),
        BTreeSet::from([queued, waiting])
    );
    assert_eq!(h.start(queued), None);
    assert_eq!(h.finish(running).ready, []);
}

#[test]
fn a_suspended_task_goes_on_at_once_when_nothing_is_open() {
    let mut h = Harness::new();
    let done = h.ready(&[]);
    h.run(done);
    let task = h.ready(&[]);
    let body = h.start(task).expect("ready");
    let Suspended::Ready(ready) = h.graph.suspend(task, body, &[done]) else {
        panic!("nothing is open")
    };
    assert_eq!(h.run(ready.id), []);
}

#[test]
fn slots_are_used_again_and_old_ids_stay_done() {
    let mut h = Harness::new();
    let first = h.ready(&[]);
    h.run(first);
    for _ in 0..3_000 {
        let id = h.ready(&[]);
        assert_ne!(id, first);
        h.run(id);
    }
    assert!(
        h.graph.slots.iter().count() <= 1024,
        "3 000 tasks one after another need one chunk"
    );
    assert_eq!(h.graph.state(first), TaskState::Done);
}

#[test]
fn forgotten_failures_give_their_slot_back() {
    let mut h = Harness::new();
    for _ in 0..1_500 {
        let bad = h.ready(&[]);
        let child = h.waiting(&[bad]);
        h.fail(bad);
        h.graph.forget(&mut h.cache, bad);
        h.graph.forget(&mut h.cache, child);
    }
    assert!(h.graph.slots.iter().count() <= 1024);
}

#[test]
fn the_never_spawned_can_be_forgotten_once_nobody_waits_for_it() {
    let mut h = Harness::new();
    let ghost = h.declare();
    let child = h.waiting(&[ghost]);
    h.graph.forget(&mut h.cache, ghost);
    assert_eq!(h.graph.state(ghost), TaskState::Declared);
    assert!(h.graph.cancel(child, &mut Completed::default()));
    assert_eq!(h.graph.diagnose().never_spawned, []);
    h.graph.forget(&mut h.cache, ghost);
    assert_ne!(h.graph.state(ghost), TaskState::Declared);
    h.graph.validate().expect("consistent");
}

#[test]
fn an_edge_to_a_task_that_is_gone_means_nothing_to_the_next_in_its_slot() {
    let mut h = Harness::new();
    let (first, other) = (h.ready(&[]), h.ready(&[]));
    let gone = h.waiting(&[first]);
    let mut completed = Completed::default();
    assert!(h.graph.cancel(gone, &mut completed));
    h.acknowledge(&mut completed);
    h.graph.forget(&mut h.cache, gone);
    let next = h.waiting(&[other]);
    assert_eq!(next.index(), gone.index(), "the slot is used again");
    assert_eq!(h.run(first), []);
    assert_eq!(h.run(other), [next]);
}

#[test]
fn what_is_stranded_is_cancelled_even_if_suspended() {
    let mut h = Harness::new();
    let ghost = h.declare();
    let (running, suspended, queued) = (h.ready(&[]), h.ready(&[]), h.ready(&[]));
    assert!(h.graph.start(running).is_some());
    let body = h.start(suspended).expect("ready");
    assert_eq!(
        h.graph.suspend(suspended, body, &[ghost, queued]),
        Suspended::Waiting
    );
    let mut completed = Completed::default();
    h.graph.cancel_stranded(&mut completed);
    assert_eq!(
        completed
            .cancelled
            .iter()
            .map(|c| c.id)
            .collect::<BTreeSet<_>>(),
        BTreeSet::from([ghost, suspended, queued])
    );
    assert_eq!(h.graph.state(running), TaskState::Running);
}

#[test]
fn who_awaits_a_cancelled_task_goes_on_when_its_owner_knows() {
    let mut h = Harness::new();
    let (gone, early, late) = (h.ready(&[]), h.ready(&[]), h.ready(&[]));
    let body = h.start(early).expect("ready");
    assert_eq!(h.graph.suspend(early, body, &[gone]), Suspended::Waiting);
    let mut completed = Completed::default();
    assert!(h.graph.cancel(gone, &mut completed));
    assert!(completed.ready.is_empty() && !h.graph.has_ended(gone) && h.graph.watch(gone));
    let body = h.start(late).expect("ready");
    assert_eq!(
        h.graph.suspend(late, body, &[gone]),
        Suspended::Waiting,
        "the owner does not know yet"
    );
    h.graph.forget(&mut h.cache, gone); // too early, and remembered
    h.acknowledge(&mut completed);
    assert_eq!(
        completed.ready.iter().map(|r| r.id).collect::<Vec<_>>(),
        [early, late]
    );
    assert_eq!(
        (completed.watched, h.graph.state(gone)),
        (vec![gone], TaskState::Done)
    );
}

#[test]
fn watchers_hear_of_every_end() {
    let mut h = Harness::new();
    let (good, bad) = (h.ready(&[]), h.ready(&[]));
    let child = h.waiting(&[bad]);
    assert!(h.graph.watch(good) && h.graph.watch(bad) && h.graph.watch(child));
    assert!(h.graph.start(good).is_some());
    assert_eq!(h.finish(good).watched, [good]);
    assert_eq!(h.fail(bad).watched, [bad, child]);
    assert!(!h.graph.watch(good) && !h.graph.watch(child));
}

#[test]
fn diagnosis_names_circles_and_the_never_spawned() {
    let mut h = Harness::new();
    let (a, b) = (h.declare(), h.declare());
    let ghost = h.declare();
    let Spawned::Waiting(_) = h.spawn(Some(a), &[b]) else {
        panic!("waits for b")
    };
    let Spawned::Waiting(_) = h.spawn(Some(b), &[a, ghost]) else {
        panic!("waits for a")
    };
    let me = h.declare();
    let Spawned::Waiting(_) = h.spawn(Some(me), &[me]) else {
        panic!("waits for itself")
    };
    let diagnosis = h.graph.diagnose();
    assert_eq!(diagnosis.never_spawned, [ghost]);
    assert_eq!(diagnosis.cycles, [vec![a, b], vec![me]]);
    let of_b = diagnosis
        .blocked
        .iter()
        .find(|t| t.id == b)
        .expect("b is blocked");
    assert_eq!(
        of_b.reasons,
        [Reason::DependsOn(a), Reason::DependsOn(ghost)]
    );
}
