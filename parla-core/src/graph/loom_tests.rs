//! Every interleaving of the graph's races, with two or three threads: each task becomes ready once, or is cancelled once.

use loom::sync::Arc;
use loom::thread;

use super::*;

type Graph = TaskGraph<&'static str>;

/// What a thread learned of: tasks made ready, cancelled (and acknowledged), reported to watchers.
#[derive(Debug, Default)]
struct Seen {
    ready: Vec<TaskId>,
    cancelled: Vec<TaskId>,
    watched: Vec<TaskId>,
}

impl Seen {
    /// As the runtime does it: the owner hears of the cancelled, then those who wait for them go on.
    fn settle(
        graph: &Graph,
        cache: &mut SlotCache,
        mut completed: Completed<&'static str>,
    ) -> Self {
        let cancelled: Vec<_> = completed.cancelled.iter().map(|c| c.id).collect();
        cancelled
            .iter()
            .for_each(|id| graph.acknowledge(cache, *id, &mut completed));
        let ready = completed.ready.iter().map(|r| r.id).collect();
        Self {
            ready,
            cancelled,
            watched: completed.watched,
        }
    }

    fn and(mut self, other: Self) -> Self {
        self.ready.extend(other.ready);
        self.cancelled.extend(other.cancelled);
        self.watched.extend(other.watched);
        self
    }
}

fn explore(test: impl Fn() + Send + Sync + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound.get_or_insert(3); // more by LOOM_MAX_PREEMPTIONS
    model.check(test);
}

/// A task that runs.
fn running(graph: &Graph, cache: &mut SlotCache) -> TaskId {
    let Spawned::Ready(ready) = graph.spawn(cache, None, &[], |_| "body", Attrs::default()) else {
        panic!("ready")
    };
    graph.start(ready.id).expect("it is ready");
    ready.id
}

fn spawn(graph: &Graph, cache: &mut SlotCache, on: &[TaskId]) -> (TaskId, Seen) {
    match graph.spawn(cache, None, on, |_| "body", Attrs::default()) {
        Spawned::Ready(ready) => (
            ready.id,
            Seen {
                ready: vec![ready.id],
                ..Seen::default()
            },
        ),
        Spawned::Waiting(id) => (id, Seen::default()),
        Spawned::Cancelled(id, completed) => (id, Seen::settle(graph, cache, completed)),
        Spawned::Taken => panic!("a new id"),
    }
}

fn finish(graph: &Graph, cache: &mut SlotCache, id: TaskId) -> Seen {
    let mut completed = Completed::default();
    graph.finish(cache, id, &mut completed);
    Seen::settle(graph, cache, completed)
}

fn fail(graph: &Graph, id: TaskId) -> Seen {
    let mut completed = Completed::default();
    graph.fail(id, &mut completed);
    Seen::settle(graph, &mut SlotCache::default(), completed)
}

fn cancel(graph: &Graph, id: TaskId) -> Seen {
    let mut completed = Completed::default();
    graph.cancel(id, &mut completed);
    Seen::settle(graph, &mut SlotCache::default(), completed)
}

fn on_thread(
    graph: &Arc<Graph>,
    act: impl FnOnce(&Graph) -> Seen + 'static,
) -> thread::JoinHandle<Seen> {
    let graph = Arc::clone(graph);
    thread::spawn(move || act(&graph))
}

fn new() -> (Arc<Graph>, SlotCache) {
    (Arc::new(Graph::new()), SlotCache::default())
}

#[test]
fn loom_linking_to_a_finishing_task_and_using_its_slot_again() {
    explore(|| {
        let (graph, mut cache) = new();
        let first = running(&graph, &mut cache);
        let finisher = on_thread(&graph, move |graph| {
            let mut own = SlotCache::default();
            let seen = finish(graph, &mut own, first);
            running(graph, &mut own); // in the slot of `first`: no edge may come to it
            seen
        });
        let (second, seen) = spawn(&graph, &mut cache, &[first]);
        let seen = seen.and(finisher.join().expect("no panic"));
        assert_eq!(seen.ready, [second]);
        assert!(graph.start(second).is_some());
        graph.validate().expect("consistent");
    });
}

#[test]
fn loom_the_last_of_two_dependencies_yields_the_task() {
    explore(|| {
        let (graph, mut cache) = new();
        let (a, b) = (running(&graph, &mut cache), running(&graph, &mut cache));
        let (last, _) = spawn(&graph, &mut cache, &[a, b]);
        let other = on_thread(&graph, move |graph| {
            finish(graph, &mut SlotCache::default(), a)
        });
        let seen = finish(&graph, &mut cache, b).and(other.join().expect("no panic"));
        assert_eq!(seen.ready, [last]);
        graph.validate().expect("consistent");
    });
}

#[test]
fn loom_two_finish_while_a_third_links_to_both() {
    explore(|| {
        let (graph, mut cache) = new();
        let (a, b) = (running(&graph, &mut cache), running(&graph, &mut cache));
        let others = [a, b].map(|id| {
            on_thread(&graph, move |graph| {
                finish(graph, &mut SlotCache::default(), id)
            })
        });
        let (last, mut seen) = spawn(&graph, &mut cache, &[a, b]);
        for other in others {
            seen = seen.and(other.join().expect("no panic"));
        }
        assert_eq!(seen.ready, [last]);
        graph.validate().expect("consistent");
    });
}

#[test]
fn loom_a_dependent_of_a_failing_task_is_cancelled_once() {
    explore(|| {
        let (graph, mut cache) = new();
        let bad = running(&graph, &mut cache);
        let failer = on_thread(&graph, move |graph| fail(graph, bad));
        let (child, seen) = spawn(&graph, &mut cache, &[bad]);
        let seen = seen.and(failer.join().expect("no panic"));
        assert_eq!((seen.cancelled, seen.ready), (vec![child], vec![]));
        assert_eq!(graph.cause(child), Some(bad));
        graph.validate().expect("consistent");
    });
}

#[test]
fn loom_cancelling_and_becoming_ready() {
    explore(|| {
        let (graph, mut cache) = new();
        let first = running(&graph, &mut cache);
        let (task, _) = spawn(&graph, &mut cache, &[first]);
        let starter = on_thread(&graph, move |graph| {
            let seen = finish(graph, &mut SlotCache::default(), first);
            let started = seen
                .ready
                .iter()
                .filter(|id| graph.start(**id).is_some())
                .copied()
                .collect();
            Seen {
                ready: started,
                ..seen
            }
        });
        let seen = cancel(&graph, task).and(starter.join().expect("no panic"));
        // It runs or is cancelled, never both and never neither.
        assert_eq!(seen.ready.len() + seen.cancelled.len(), 1, "{seen:?}");
        graph.validate().expect("consistent");
    });
}

#[test]
fn loom_suspending_while_the_awaited_ends_or_is_cancelled() {
    explore(|| {
        let (graph, mut cache) = new();
        let (me, good, ghost) = (
            running(&graph, &mut cache),
            running(&graph, &mut cache),
            graph.declare(&mut cache),
        );
        let (gone, _) = spawn(&graph, &mut cache, &[ghost]);
        let good_ends = on_thread(&graph, move |graph| {
            finish(graph, &mut SlotCache::default(), good)
        });
        let canceller = on_thread(&graph, move |graph| cancel(graph, gone));
        let at_once = match graph.suspend(me, "body", &[good, gone]) {
            Suspended::Ready(ready) => vec![ready.id],
            Suspended::Waiting => vec![],
        };
        let ended = good_ends
            .join()
            .expect("no panic")
            .and(canceller.join().expect("no panic"));
        let resumed = at_once.into_iter().chain(ended.ready).collect::<Vec<_>>();
        assert_eq!((resumed, ended.cancelled), (vec![me], vec![gone]));
        graph.validate().expect("consistent");
    });
}

#[test]
fn loom_watching_a_finishing_task() {
    explore(|| {
        let (graph, mut cache) = new();
        let task = running(&graph, &mut cache);
        let finisher = on_thread(&graph, move |graph| {
            finish(graph, &mut SlotCache::default(), task)
        });
        let is_watched = graph.watch(task);
        let seen = finisher.join().expect("no panic");
        assert_eq!(
            seen.watched.len(),
            usize::from(is_watched),
            "told if and only if it was promised"
        );
    });
}

#[test]
fn loom_forgetting_a_task_while_its_cancellation_is_heard_of() {
    explore(|| {
        let (graph, mut cache) = new();
        let (me, ghost) = (running(&graph, &mut cache), graph.declare(&mut cache));
        let (task, _) = spawn(&graph, &mut cache, &[ghost]);
        assert_eq!(graph.suspend(me, "body", &[task]), Suspended::Waiting);
        let canceller = on_thread(&graph, move |graph| cancel(graph, task));
        graph.forget(&mut cache, task);
        let seen = canceller.join().expect("no panic");
        graph.forget(&mut cache, task);
        assert_eq!((seen.ready, graph.state(task)), (vec![me], TaskState::Done));
        graph.validate().expect("consistent");
    });
}
