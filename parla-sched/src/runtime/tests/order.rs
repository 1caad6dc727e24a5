//! Tasks run once each, after what they depend on; priorities and affinity.

use super::*;

#[test]
fn independent_tasks_all_run_once() {
    at_each(|workers| {
        let rt = start(workers);
        let n = Arc::new(AtomicUsize::new(0));
        for _ in 0..5_000 {
            let n = Arc::clone(&n);
            spawn(&rt, Task::default(), move |_| add_one(&n));
        }
        settle(&rt);
        assert_eq!(n.load(Ordering::SeqCst), 5_000);
        assert_eq!(
            rt.stats().workers.iter().map(|w| w.steps).sum::<u64>(),
            5_000
        );
    });
}

#[test]
fn a_chain_runs_in_order() {
    at_each(|workers| {
        let rt = start(workers);
        let log = Arc::new(Mutex::new(Vec::new()));
        let mut last = Vec::new();
        for i in 0..3_000 {
            let log = Arc::clone(&log);
            last = vec![spawn(&rt, after(&last), move |_| log.lock().push(i))];
        }
        settle(&rt);
        assert_eq!(*log.lock(), (0..3_000).collect::<Vec<_>>());
    });
}

#[test]
fn a_fan_opens_and_closes() {
    at_each(|workers| {
        let rt = start(workers);
        let n = Arc::new(AtomicUsize::new(0));
        let (source, gate) = blocked(&rt, Task::default());
        let leaves: Vec<_> = (0..2_000)
            .map(|_| {
                let n = Arc::clone(&n);
                spawn(&rt, after(&[source]), move |_| add_one(&n))
            })
            .collect();
        let seen = Arc::clone(&n);
        let sink = spawn(&rt, after(&leaves), move |_| {
            assert_eq!(seen.load(Ordering::SeqCst), 2_000)
        });
        assert_eq!(
            (n.load(Ordering::SeqCst), rt.state(sink)),
            (0, TaskState::Waiting)
        );
        gate.open();
        assert!(matches!(rt.wait(sink, None, None), Waited::Ended));
        settle(&rt);
        assert_eq!(rt.cause(sink), None, "it saw all leaves");
    });
}

#[test]
fn tasks_spawn_tasks_that_spawn() {
    fn tree(cx: &Cx<'_, Script>, depth: usize, n: &Arc<AtomicUsize>) {
        n.fetch_add(1, Ordering::SeqCst);
        for _ in 0..if depth > 0 { 2 } else { 0 } {
            let n = Arc::clone(n);
            cx.spawn(Task::default(), |_| once(move |cx| tree(cx, depth - 1, &n)))
                .expect("spawns");
        }
    }
    at_each(|workers| {
        let rt = start(workers);
        let n = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&n);
        spawn(&rt, Task::default(), move |cx| tree(cx, 10, &count));
        settle(&rt);
        assert_eq!(n.load(Ordering::SeqCst), (1 << 11) - 1);
    });
}

#[test]
fn a_dependency_may_be_spawned_after_its_dependents() {
    at_each(|workers| {
        let rt = start(workers);
        let log = Arc::new(Mutex::new(Vec::new()));
        let (early, late) = (rt.declare(), Arc::clone(&log));
        spawn(&rt, after(&[early]), move |_| late.lock().push("second"));
        let first = Arc::clone(&log);
        spawn(
            &rt,
            Task {
                declared: Some(early),
                ..Task::default()
            },
            move |_| first.lock().push("first"),
        );
        settle(&rt);
        assert_eq!(*log.lock(), ["first", "second"]);
    });
}

#[test]
fn an_id_is_spawned_once_and_the_first_is_unharmed() {
    let rt = start(1);
    let id = rt.declare();
    let task = || Task {
        declared: Some(id),
        ..Task::default()
    };
    let ran = Arc::new(AtomicUsize::new(0));
    let first = Arc::clone(&ran);
    spawn(&rt, task(), move |_| add_one(&first));
    let again = rt.spawn(task(), |_| -> Body {
        unreachable!("no body is made for it")
    });
    assert!(matches!(again, Err(SpawnError::Taken(taken)) if taken == id));
    settle(&rt);
    assert_eq!((ran.load(Ordering::SeqCst), rt.stats().spawned), (1, 1));
}

#[test]
fn one_worker_serves_higher_priorities_first() {
    limited(|| {
        let rt = start(1);
        let log = Arc::new(Mutex::new(Vec::new()));
        let (_, gate) = blocked(&rt, Task::default());
        for priority in [0, -1, 3, 7, 3, 0, -5] {
            let log = Arc::clone(&log);
            let attrs = Attrs {
                priority,
                ..Attrs::default()
            };
            spawn(
                &rt,
                Task {
                    attrs,
                    ..Task::default()
                },
                move |_| log.lock().push(priority),
            );
        }
        gate.open();
        settle(&rt);
        assert_eq!(*log.lock(), [7, 3, 3, 0, 0, -1, -5]);
    });
}

#[test]
fn a_pinned_task_runs_on_its_worker() {
    at_each(|workers| {
        let rt = start(workers);
        let wrong = Arc::new(AtomicUsize::new(0));
        for i in 0..400 {
            let (wrong, seat) = (Arc::clone(&wrong), u16::try_from(i % workers).expect("few"));
            let claim = Claim {
                vcus: Vcus(if i % 3 == 0 { 500 } else { 0 }),
                memory: 0,
            };
            let attrs = Attrs {
                worker: Some(seat),
                claim,
                ..Attrs::default()
            };
            spawn(
                &rt,
                Task {
                    attrs,
                    ..Task::default()
                },
                move |cx| {
                    if cx.worker() != Some(seat) {
                        wrong.fetch_add(1, Ordering::SeqCst);
                    }
                },
            );
        }
        settle(&rt);
        assert_eq!(wrong.load(Ordering::SeqCst), 0);
        let attrs = Attrs {
            worker: Some(8),
            ..Attrs::default()
        };
        let refused = rt.spawn(
            Task {
                attrs,
                ..Task::default()
            },
            |_| once(|_| {}),
        );
        assert!(
            matches!(refused, Err(SpawnError::Worker { wanted: 8, workers: n }) if n == workers)
        );
    });
}

#[test]
fn the_oldest_task_is_not_overtaken_for_ever() {
    // Each task makes the next one ready, without end, until a task from outside has run.
    limited(|| {
        let rt = start(1);
        let stop = Arc::new(AtomicUsize::new(0));
        fn again(cx: &Cx<'_, Script>, stop: Arc<AtomicUsize>) {
            if stop.load(Ordering::SeqCst) == 0 {
                let id = cx.shared().graph.declare(&mut cx.shared().foreign.lock());
                let next = Arc::clone(&stop);
                cx.spawn(after(&[id]), |_| once(move |cx| again(cx, next)))
                    .expect("spawns");
                cx.spawn(
                    Task {
                        declared: Some(id),
                        ..Task::default()
                    },
                    |_| once(|_| {}),
                )
                .expect("spawns");
            }
        }
        let (_, gate) = blocked(&rt, Task::default());
        let endless = Arc::clone(&stop);
        spawn(&rt, Task::default(), move |cx| again(cx, endless));
        let ends = Arc::clone(&stop);
        spawn(&rt, Task::default(), move |_| {
            ends.store(1, Ordering::SeqCst)
        });
        gate.open();
        settle(&rt);
    });
}

#[test]
fn work_is_shared_among_workers() {
    // Two tasks spawned by one body meet: that needs two workers.
    for workers in [2, 3, 8] {
        limited(move || {
            let rt = start(workers);
            for _ in 0..50 {
                let meeting = Arc::new(std::sync::Barrier::new(2));
                spawn(&rt, Task::default(), move |cx| {
                    for _ in 0..2 {
                        let meeting = Arc::clone(&meeting);
                        cx.spawn(Task::default(), |_| {
                            once(move |_| {
                                meeting.wait();
                            })
                        })
                        .expect("spawns");
                    }
                });
                settle(&rt);
            }
        });
    }
}

#[test]
fn the_trace_is_in_order() {
    at_each(|workers| {
        let rt = start_with(|options| (options.workers, options.trace) = (workers, true));
        let mut last = Vec::new();
        for _ in 0..100 {
            last = vec![
                spawn(&rt, after(&last), |_| {}),
                spawn(&rt, after(&last), |_| {}),
            ];
        }
        settle(&rt);
        let trace = rt.trace();
        let names: Vec<_> = trace.iter().map(|r| (r.task, r.event.name())).collect();
        let at = |task, event| {
            names
                .iter()
                .position(|n| *n == (task, event))
                .expect("is in the trace")
        };
        assert!(trace.is_sorted_by_key(|record| record.time_ns));
        let spawned = trace.iter().filter(|r| r.event.name() == "spawned");
        for record in spawned {
            let events =
                ["spawned", "ready", "running", "done"].map(|event| at(record.task, event));
            assert!(events.is_sorted(), "{:?}", record.task);
            for &dependency in &record.tasks {
                assert!(at(dependency, "done") < at(record.task, "ready"));
            }
        }
        assert_eq!(trace.len(), 4 * 200);
    });
}
