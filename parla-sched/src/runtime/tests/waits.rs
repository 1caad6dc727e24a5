//! Waits: inside bodies at any depth, with time limits and ticks, and those that can never end.

use std::ops::ControlFlow;

use super::*;

/// The stall's diagnosis.
fn stalled(waited: Waited) -> Arc<Diagnosis> {
    match waited {
        Waited::Stalled(diagnosis) => diagnosis,
        other => panic!("{other:?}"),
    }
}

#[test]
fn nested_waits_never_exhaust_the_pool() {
    fn nest(cx: &Cx<'_, Script>, depth: usize) {
        if depth > 0 {
            let child = cx
                .spawn(Task::default(), |_| once(move |cx| nest(cx, depth - 1)))
                .expect("spawns");
            assert!(matches!(cx.wait(child, None, None), Waited::Ended));
        }
    }
    at_each(|workers| {
        let rt = start(workers);
        let ids: Vec<_> = (0..4)
            .map(|_| spawn(&rt, Task::default(), |cx| nest(cx, 25)))
            .collect();
        settle(&rt);
        assert!(
            ids.iter().all(|id| rt.state(*id) == TaskState::Done),
            "a failed assertion is a failed task"
        );
        let n_alive = rt.executor().n_threads.load(Ordering::SeqCst);
        assert!(n_alive < workers + 100, "{n_alive} threads");
        rt.shutdown();
        assert_eq!(rt.executor().n_threads.load(Ordering::SeqCst), 0);
    });
}

#[test]
fn awaiting_costs_no_thread_at_any_depth() {
    fn nest(depth: usize) -> Body {
        let mut begun = false;
        Box::new(move |cx| {
            if depth == 0 || std::mem::replace(&mut begun, true) {
                return Say::Done;
            }
            Say::Await(vec![
                cx.spawn(Task::default(), |_| nest(depth - 1))
                    .expect("spawns"),
            ])
        })
    }
    at_each(|workers| {
        let rt = start(workers);
        rt.spawn(Task::default(), |_| nest(2_000)).expect("spawns");
        settle(&rt);
        assert!(rt.executor().n_threads.load(Ordering::SeqCst) <= workers);
        assert_eq!(
            rt.stats().workers.iter().map(|w| w.steps).sum::<u64>(),
            4_001
        );
    });
}

#[test]
fn what_was_never_spawned_is_named() {
    at_each(|workers| {
        let rt = start(workers);
        let ghost = rt.declare();
        let child = spawn(&rt, after(&[ghost]), |_| {});
        for diagnosis in [
            stalled(rt.wait_idle(None, None)),
            stalled(rt.wait(child, None, None)),
            stalled(rt.wait(ghost, None, None)),
        ] {
            assert_eq!(diagnosis.never_spawned, [ghost]);
            assert_eq!(
                diagnosis.blocked.iter().map(|b| b.id).collect::<Vec<_>>(),
                [child]
            );
        }
        // The runtime stays usable, and the stall ends when the missing task comes.
        spawn(
            &rt,
            Task {
                declared: Some(ghost),
                ..Task::default()
            },
            |_| {},
        );
        settle(&rt);
    });
}

#[test]
fn circles_are_named() {
    at_each(|workers| {
        let rt = start(workers);
        let (a, b, me) = (rt.declare(), rt.declare(), rt.declare());
        for (id, on) in [(a, b), (b, a), (me, me)] {
            spawn(
                &rt,
                Task {
                    declared: Some(id),
                    dependencies: &[on],
                    ..Task::default()
                },
                |_| panic!("must not run"),
            );
        }
        let diagnosis = stalled(rt.wait_idle(None, None));
        assert_eq!(diagnosis.cycles.len(), 2, "{diagnosis:?}");
        rt.cancel_unstarted();
        settle(&rt);
    });
}

#[test]
fn stalls_are_found_from_inside() {
    at_each(|workers| {
        let rt = start(workers);
        let found = Arc::new(AtomicUsize::new(0));
        let (ghost, me) = (rt.declare(), rt.declare());
        for (declared, target) in [(None, ghost), (Some(me), me)] {
            let found = Arc::clone(&found);
            spawn(
                &rt,
                Task {
                    declared,
                    ..Task::default()
                },
                move |cx| {
                    stalled(cx.wait(target, None, None));
                    found.fetch_add(1, Ordering::SeqCst);
                },
            );
        }
        assert!(matches!(
            rt.wait_idle(None, None),
            Waited::Ended | Waited::Stalled(_)
        ));
        while found.load(Ordering::SeqCst) < 2 {
            std::thread::yield_now();
        }
        settle(&rt);
    });
}

#[test]
fn two_that_await_each_other_are_a_circle() {
    at_each(|workers| {
        let rt = start(workers);
        let (a, b) = (rt.declare(), rt.declare());
        for (id, other) in [(a, b), (b, a)] {
            let mut begun = false;
            let body: Body = Box::new(move |_| {
                if std::mem::replace(&mut begun, true) {
                    Say::Done
                } else {
                    Say::Await(vec![other])
                }
            });
            rt.spawn(
                Task {
                    declared: Some(id),
                    ..Task::default()
                },
                |_| body,
            )
            .expect("spawns");
        }
        let diagnosis = stalled(rt.wait_idle(None, None));
        assert_eq!(diagnosis.cycles.len(), 1, "{diagnosis:?}");
        assert!(rt.cancel(a), "the suspended can be cancelled");
        settle(&rt);
    });
}

#[test]
fn nothing_is_stalled_while_a_foreign_thread_may_spawn() {
    at_each(|workers| {
        let rt = start(workers);
        for _ in 0..30 {
            let ghost = rt.declare();
            let (enlisted, go) = (Gate::default(), Gate::default());
            let other = {
                let (rt, enlisted, go) = (Arc::clone(&rt), enlisted.clone(), go.clone());
                std::thread::spawn(move || {
                    rt.enlist_this_thread();
                    enlisted.open();
                    go.pass();
                    spawn(
                        &rt,
                        Task {
                            declared: Some(ghost),
                            ..Task::default()
                        },
                        |_| {},
                    );
                })
            };
            enlisted.pass();
            spawn(&rt, after(&[ghost]), move |_| {});
            assert!(matches!(
                rt.wait_idle(Some(Duration::from_millis(1)), None),
                Waited::TimedOut
            ));
            go.open();
            settle(&rt);
            other.join().expect("no panic");
        }
        // That thread is gone: now a missing task is a stall.
        let ghost = rt.declare();
        spawn(&rt, after(&[ghost]), |_| {});
        stalled(rt.wait_idle(None, None));
        rt.cancel_unstarted();
    });
}

#[test]
fn many_threads_spawn_and_wait_without_false_stalls() {
    at_each(|workers| {
        let rt = start(workers);
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let rt = Arc::clone(&rt);
                std::thread::spawn(move || {
                    for i in 0..300 {
                        let id = spawn(&rt, Task::default(), |_| {});
                        let waited = match i % 3 {
                            0 => rt.wait(id, None, None),
                            1 => rt.wait_idle(None, None),
                            _ => rt.wait(spawn(&rt, after(&[id]), |_| {}), Some(LIMIT), None),
                        };
                        assert!(matches!(waited, Waited::Ended), "{waited:?}");
                    }
                })
            })
            .collect();
        threads
            .into_iter()
            .for_each(|t| t.join().expect("no false stall"));
        settle(&rt);
    });
}

#[test]
fn unenlisted_cancellers_cause_no_false_stall() {
    at_each(|workers| {
        let rt = start(workers);
        for _ in 0..200 {
            let ghost = rt.declare();
            let child = spawn(&rt, after(&[ghost]), |_| {});
            let canceller = {
                let rt = Arc::clone(&rt);
                std::thread::spawn(move || rt.cancel(child))
            };
            // A stall is a true answer before the cancellation, never after it.
            match rt.wait(child, None, None) {
                Waited::Ended => {}
                waited => assert!(stalled(waited).blocked.iter().any(|b| b.id == child)),
            }
            assert!(canceller.join().expect("no panic"));
            rt.forget(child);
            rt.forget(ghost);
        }
        settle(&rt);
    });
}

#[test]
fn time_limits_and_ticks_end_waits() {
    at_each(|workers| {
        let rt = start(workers);
        let (id, gate) = blocked(&rt, Task::default());
        assert!(matches!(
            rt.wait(id, Some(Duration::ZERO), None),
            Waited::TimedOut
        ));
        assert!(matches!(
            rt.wait_idle(Some(Duration::from_millis(5)), None),
            Waited::TimedOut
        ));
        let mut n_ticks = 0;
        let mut tick = || {
            n_ticks += 1;
            if n_ticks == 2 {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        };
        assert!(matches!(
            rt.wait(id, None, Some(&mut tick)),
            Waited::Interrupted
        ));
        assert!(matches!(
            rt.wait_idle(Some(LIMIT), Some(&mut || ControlFlow::Break(()))),
            Waited::Interrupted
        ));
        // A tick that spawns (a signal handler may) and opens the gate.
        let mut tick = || {
            spawn(&rt, Task::default(), |_| {});
            gate.open();
            ControlFlow::Continue(())
        };
        assert!(matches!(rt.wait(id, None, Some(&mut tick)), Waited::Ended));
        settle(&rt);
        // After all that, a stall is still found: the actors were counted right.
        let ghost = rt.declare();
        spawn(&rt, after(&[ghost]), |_| {});
        stalled(rt.wait_idle(None, Some(&mut || ControlFlow::Continue(()))));
        rt.cancel_unstarted();
    });
}

#[test]
fn waiting_for_the_past_returns_at_once() {
    let rt = start(1);
    let id = spawn(&rt, Task::default(), |_| {});
    settle(&rt);
    assert!(matches!(
        rt.wait(id, Some(Duration::ZERO), None),
        Waited::Ended
    ));
    assert!(matches!(
        rt.wait_idle(Some(Duration::ZERO), None),
        Waited::Ended
    ));
}

#[test]
fn several_ends_are_one_wait() {
    at_each(|workers| {
        let rt = start(workers);
        let parent = spawn(&rt, Task::default(), |cx| {
            let child = |_| cx.spawn(Task::default(), |_| once(|_| ())).expect("spawns");
            let children: Vec<_> = (0..5).map(child).collect();
            assert!(matches!(cx.wait_all(&children, None, None), Waited::Ended));
            let over = |id: &TaskId| cx.shared().is_over(*id);
            assert!(children.iter().all(over));
            assert!(matches!(cx.wait_all(&[], None, None), Waited::Ended));
        });
        settle(&rt);
        assert_eq!(rt.state(parent), TaskState::Done);
        // One that never ends, behind one that has ended: late, and stalled.
        let (held, gate) = blocked(&rt, Task::default());
        let ids = [parent, held];
        let late = rt.wait_all(&ids, Some(Duration::from_millis(5)), None);
        assert!(matches!(late, Waited::TimedOut));
        gate.open();
        assert!(matches!(
            rt.wait_all(&ids, Some(LIMIT), None),
            Waited::Ended
        ));
        let ghost = rt.declare();
        let stuck = spawn(&rt, after(&[ghost]), |_| {});
        stalled(rt.wait_all(&[parent, stuck], None, None));
        rt.cancel_unstarted();
    });
}
