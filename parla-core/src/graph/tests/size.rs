//! Long chains on a small stack (nothing recurses over the graph) and a wide fan.

use super::*;

const MILLION: usize = 1_000_000;

/// Calls `test` on a small stack, with a graph of a million tasks that depend on each other in a row, its first one only declared.
fn on_a_long_chain(test: fn(TaskGraph<usize>, &mut SlotCache, TaskId)) {
    let run = move || {
        let graph = TaskGraph::<usize>::new();
        let cache = &mut SlotCache::default();
        let first = graph.declare(cache);
        let mut last = first;
        for i in 1..MILLION {
            let Spawned::Waiting(id) = graph.spawn(cache, None, &[last], |_| i, Attrs::default())
            else {
                panic!("waits")
            };
            last = id;
        }
        test(graph, cache, first);
    };
    #[expect(
        clippy::disallowed_methods,
        reason = "only a thread has a stack of a chosen size"
    )]
    let thread = std::thread::Builder::new()
        .stack_size(64 * 1024)
        .spawn(run)
        .expect("thread");
    thread.join().expect("no overflow");
}

#[test]
fn a_million_long_chain_runs_on_a_small_stack() {
    on_a_long_chain(|graph, cache, first| {
        let Spawned::Ready(mut ready) =
            graph.spawn(cache, Some(first), &[], |_| 0, Attrs::default())
        else {
            panic!("first")
        };
        let mut completed = Completed::default();
        for i in 0..MILLION {
            assert_eq!(graph.start(ready.id).map(|s| s.body), Some(i));
            graph.finish(cache, ready.id, &mut completed);
            if let Some(next) = completed.ready.pop() {
                ready = next;
            }
        }
        assert_eq!(
            graph
                .slots
                .iter()
                .filter(|(_, slot)| slot.word().phase() != Phase::Free)
                .count(),
            0
        );
    });
}

#[test]
fn a_million_long_chain_is_cancelled_on_a_small_stack() {
    on_a_long_chain(|graph, _, first| {
        let mut completed = Completed::default();
        assert!(graph.cancel(first, &mut completed));
        assert_eq!(completed.cancelled.len(), MILLION);
    });
}

#[test]
fn a_million_long_chain_is_diagnosed_and_dropped_on_a_small_stack() {
    on_a_long_chain(|graph, _, first| {
        let diagnosis = graph.diagnose();
        assert_eq!(
            (diagnosis.never_spawned, diagnosis.blocked.len()),
            (vec![first], MILLION - 1)
        );
        drop(graph);
    });
}

#[test]
fn a_wide_fan_is_linear() {
    const N: usize = 100_000;
    let mut h = Harness::new();
    let graph = &h.graph;
    let source = graph.declare(&mut h.cache);
    let mut leaves = Vec::new();
    for _ in 0..N {
        let Spawned::Waiting(id) =
            graph.spawn(&mut h.cache, None, &[source], |_| "leaf", Attrs::default())
        else {
            panic!("waits")
        };
        leaves.push(id);
    }
    let Spawned::Waiting(sink) =
        graph.spawn(&mut h.cache, None, &leaves, |_| "sink", Attrs::default())
    else {
        panic!("waits")
    };
    let Spawned::Ready(_) = graph.spawn(
        &mut h.cache,
        Some(source),
        &[],
        |_| "source",
        Attrs::default(),
    ) else {
        panic!("first")
    };
    let mut completed = Completed::default();
    let mut queue = vec![source];
    let mut last = source;
    while let Some(id) = queue.pop() {
        assert!(graph.start(id).is_some());
        graph.finish(&mut h.cache, id, &mut completed);
        queue.extend(completed.ready.drain(..).map(|r| r.id));
        last = id;
    }
    assert_eq!(last, sink);
}
