//! Errors, panics, cancellation: dependents never run, all others do, nothing is counted twice.

use super::*;

fn failing(rt: &Rt, task: Task<'_>) -> TaskId {
    rt.spawn(task, |_| Box::new(|_| Say::Fail)).expect("spawns")
}

#[test]
fn dependents_of_a_failure_are_cancelled_and_others_run() {
    at_each(|workers| {
        let rt = start(workers);
        let (blocker, gate) = blocked(&rt, Task::default());
        let bad = failing(&rt, after(&[blocker]));
        let child = spawn(&rt, after(&[bad]), |_| panic!("must not run"));
        let grandchild = spawn(&rt, after(&[child, blocker]), |_| panic!("must not run"));
        let ran = Arc::new(AtomicUsize::new(0));
        let other = Arc::clone(&ran);
        spawn(&rt, after(&[blocker]), move |_| add_one(&other));
        gate.open();
        settle(&rt);
        let late = spawn(&rt, after(&[grandchild]), |_| panic!("must not run"));
        settle(&rt);
        let mut cancelled = rt.executor().cancelled.lock().clone();
        cancelled.sort_unstable();
        let mut expected = [(child, bad), (grandchild, bad), (late, bad)];
        expected.sort_unstable();
        assert_eq!(cancelled, expected);
        assert_eq!(
            (rt.state(bad), rt.state(child)),
            (TaskState::Failed, TaskState::Cancelled)
        );
        assert_eq!((ran.load(Ordering::SeqCst), rt.cause(late)), (1, Some(bad)));
    });
}

#[test]
fn a_panic_is_a_failure_and_the_worker_lives_on() {
    at_each(|workers| {
        let rt = start(workers);
        for _ in 0..20 {
            let bad = spawn(&rt, Task::default(), |_| {
                std::panic::resume_unwind(Box::new("quiet"))
            });
            assert!(matches!(rt.wait(bad, None, None), Waited::Ended));
            assert_eq!(rt.state(bad), TaskState::Failed);
            rt.forget(bad);
            assert_eq!(rt.state(bad), TaskState::Done, "its record is gone");
        }
        spawn(&rt, Task::default(), |_| {});
        settle(&rt);
    });
}

#[test]
fn an_awaiter_learns_of_an_end_only_after_the_executor() {
    // An awaiter that goes on must find the cancelled task in the executor's book.
    at_each(|workers| {
        let rt = start(workers);
        let missed = Arc::new(AtomicUsize::new(0));
        for _ in 0..300 {
            let bad = rt.declare();
            let child = spawn(&rt, after(&[bad]), |_| panic!("must not run"));
            let mut first = true;
            let missed = Arc::clone(&missed);
            rt.spawn(Task::default(), |_| {
                Box::new(move |cx| {
                    if std::mem::take(&mut first) {
                        return Say::Await(vec![child]);
                    }
                    let book = cx.shared().executor.cancelled.lock();
                    if !book.iter().any(|(id, _)| *id == child) {
                        missed.fetch_add(1, Ordering::SeqCst);
                    }
                    Say::Done
                })
            })
            .expect("spawns");
            failing(
                &rt,
                Task {
                    declared: Some(bad),
                    ..Task::default()
                },
            );
        }
        settle(&rt);
        assert_eq!(missed.load(Ordering::SeqCst), 0);
    });
}

#[test]
fn cancelling_is_in_time_or_too_late() {
    at_each(|workers| {
        let rt = start(workers);
        let (running, gate) = blocked(&rt, Task::default());
        let queued = spawn(&rt, after(&[running]), |_| panic!("must not run"));
        let child = spawn(&rt, after(&[queued]), |_| panic!("must not run"));
        assert!(!rt.cancel(running));
        assert!(rt.cancel(queued) && !rt.cancel(queued) && !rt.cancel(child));
        assert!(matches!(rt.wait(child, None, None), Waited::Ended));
        gate.open();
        settle(&rt);
        assert_eq!(rt.cause(child), Some(queued));
        assert!(!rt.cancel(running));
    });
}

#[test]
fn cancelling_races_with_everything() {
    at_each(|workers| {
        let rt = start(workers);
        let ran = Arc::new(AtomicUsize::new(0));
        let (tell, ids) = channel::<TaskId>();
        let canceller = {
            let rt = Arc::clone(&rt);
            std::thread::spawn(move || ids.iter().filter(|id| rt.cancel(*id)).count())
        };
        let mut last = Vec::new();
        for i in 0..4_000 {
            let ran = Arc::clone(&ran);
            let attrs = Attrs {
                priority: i % 3,
                claim: Claim {
                    vcus: Vcus(u32::from(i % 5 == 0) * 700),
                    memory: 0,
                },
                ..Attrs::default()
            };
            let id = spawn(
                &rt,
                Task {
                    dependencies: &last,
                    attrs,
                    ..Task::default()
                },
                move |_| {
                    ran.fetch_add(1, Ordering::SeqCst);
                },
            );
            last = if i % 4 == 0 { Vec::new() } else { vec![id] };
            if i % 7 == 0 {
                tell.send(id).expect("it listens");
            }
        }
        drop(tell);
        let n_did = canceller.join().expect("no panic");
        settle(&rt);
        let n_cancelled = rt.executor().cancelled.lock().len();
        assert!(n_did <= n_cancelled);
        assert_eq!(ran.load(Ordering::SeqCst) + n_cancelled, 4_000);
    });
}

#[test]
fn a_cancelled_task_gives_back_what_it_was_granted() {
    // Admitted, then cancelled before a worker took it: the claim must come back, or the next one waits for ever.
    at_each(|workers| {
        let rt = start(workers);
        let gates: Vec<_> = (0..workers)
            .map(|_| blocked(&rt, Task::default()).1)
            .collect();
        let attrs = |worker| Attrs {
            worker,
            claim: Claim {
                vcus: Vcus(800),
                memory: 5,
            },
            ..Attrs::default()
        };
        for worker in [None, Some(0)] {
            let id = spawn(
                &rt,
                Task {
                    attrs: attrs(worker),
                    ..Task::default()
                },
                |_| panic!("must not run"),
            );
            assert!(rt.cancel(id));
        }
        spawn(
            &rt,
            Task {
                attrs: attrs(None),
                ..Task::default()
            },
            |_| {},
        );
        gates.iter().for_each(Gate::open);
        settle(&rt);
    });
}

#[test]
fn cancelling_all_that_has_not_started_ends_what_is_pending() {
    at_each(|workers| {
        let rt = start(workers);
        let (running, gate) = blocked(&rt, Task::default());
        let ghost = rt.declare();
        for _ in 0..100 {
            spawn(&rt, after(&[running]), |_| panic!("must not run"));
            spawn(&rt, after(&[ghost]), |_| panic!("must not run"));
        }
        rt.cancel_unstarted();
        assert_eq!(rt.n_pending(), 1);
        gate.open();
        settle(&rt);
        assert_eq!(
            rt.executor().cancelled.lock().len(),
            201,
            "the tasks, and the id that was only declared"
        );
        spawn(&rt, Task::default(), |_| {});
        settle(&rt);
    });
}
