//! Beginning and ending, many times over, and at the wrong moment.

use super::*;

#[test]
fn hundreds_of_restarts_leave_no_thread() {
    at_each(|workers| {
        for round in 0..200 {
            let rt = start(workers);
            let n = Arc::new(AtomicUsize::new(0));
            for _ in 0..round % 7 {
                let n = Arc::clone(&n);
                spawn(&rt, Task::default(), move |_| add_one(&n));
            }
            if round % 2 == 0 {
                settle(&rt);
                assert_eq!(n.load(Ordering::SeqCst), round % 7);
            }
            let n_threads = Arc::clone(&rt.executor().n_threads);
            drop(rt);
            assert_eq!(n_threads.load(Ordering::SeqCst), 0);
        }
    });
}

#[test]
fn two_runtimes_do_not_know_each_other() {
    at_each(|workers| {
        let (one, two) = (start(workers), start(1));
        let (_, gate) = blocked(&one, Task::default());
        let ghost = two.declare();
        spawn(&two, after(&[ghost]), |_| {});
        assert!(
            matches!(two.wait_idle(None, None), Waited::Stalled(_)),
            "work of the one does not hide a stall of the other"
        );
        gate.open();
        settle(&one);
        drop(two);
        spawn(&one, Task::default(), |_| {});
        settle(&one);
    });
}

#[test]
fn a_closed_runtime_refuses_and_finishes() {
    at_each(|workers| {
        let rt = start(workers);
        let (id, gate) = blocked(&rt, Task::default());
        let child = spawn(&rt, after(&[id]), |_| {});
        rt.close();
        assert!(matches!(
            rt.spawn(Task::default(), |_| once(|_| {})),
            Err(SpawnError::Closed)
        ));
        gate.open();
        settle(&rt);
        assert_eq!(rt.state(child), TaskState::Done);
    });
}

#[test]
fn shutdown_races_with_spawning() {
    // Each task runs, is cancelled or is refused; nothing hangs, nothing is lost.
    at_each(|workers| {
        for round in 0..60 {
            let rt = start(workers);
            let ran = Arc::new(AtomicUsize::new(0));
            let spawners: Vec<_> = (0..2)
                .map(|_| {
                    let (rt, ran) = (Arc::clone(&rt), Arc::clone(&ran));
                    std::thread::spawn(move || {
                        let mut n_accepted = 0;
                        loop {
                            let n = Arc::clone(&ran);
                            match rt.spawn(Task::default(), |_| once(move |_| add_one(&n))) {
                                Ok(_) => n_accepted += 1,
                                Err(SpawnError::Closed) => return n_accepted,
                                Err(other) => panic!("{other}"),
                            }
                        }
                    })
                })
                .collect();
            (0..round * 50).for_each(|_| std::hint::spin_loop());
            rt.shutdown();
            let n_accepted: usize = spawners
                .into_iter()
                .map(|s| s.join().expect("no panic"))
                .sum();
            assert_eq!(
                ran.load(Ordering::SeqCst) + rt.executor().cancelled.lock().len(),
                n_accepted
            );
            assert!(matches!(rt.wait_idle(None, None), Waited::Ended));
        }
    });
}

#[test]
fn shutdown_wakes_bodies_that_wait() {
    // For tasks that will never run: in a queue, suspended, never spawned, spawned too late.
    at_each(|workers| {
        for round in 0..20 {
            let rt = start(workers);
            let ghost = rt.declare();
            let suspended = rt
                .spawn(Task::default(), |_| {
                    Box::new(move |_| Say::Await(vec![ghost]))
                })
                .expect("spawns");
            let begun = Gate::default();
            for i in 0..3 {
                let begun = begun.clone();
                spawn(&rt, Task::default(), move |cx| {
                    begun.open();
                    if i == 0 {
                        let _ = cx.wait(suspended, None, None);
                    }
                    while let Ok(late) = cx.spawn(after(&[ghost]), |_| once(|_| {})) {
                        let _ = cx.wait(late, None, None);
                    }
                });
            }
            begun.pass();
            (0..round * 200).for_each(|_| std::hint::spin_loop());
            rt.shutdown();
            assert_eq!(rt.n_pending(), 0);
            rt.validate().expect("all settled");
        }
    });
}

#[test]
fn shutdown_wakes_threads_that_wait() {
    at_each(|workers| {
        let rt = start(workers);
        let (running, gate) = blocked(&rt, Task::default());
        let child = spawn(&rt, after(&[running]), |_| panic!("must not run"));
        let waiters: Vec<_> = (0..4)
            .map(|i| {
                let rt = Arc::clone(&rt);
                std::thread::spawn(move || match i {
                    0 => rt.wait(child, None, None),
                    1 => rt.wait(running, None, None),
                    _ => rt.wait_idle(None, None),
                })
            })
            .collect();
        let opener = std::thread::spawn(move || {
            std::thread::yield_now();
            gate.open();
        });
        rt.shutdown();
        opener.join().expect("no panic");
        for waiter in waiters {
            let waited = waiter.join().expect("no panic");
            assert!(matches!(waited, Waited::Ended), "{waited:?}");
        }
        assert!(
            matches!(rt.wait(rt.declare(), None, None), Waited::Ended),
            "nothing hangs afterwards either"
        );
        rt.shutdown();
    });
}

#[test]
fn abandoned_bodies_end_by_themselves() {
    at_each(|workers| {
        let rt = start(workers);
        let (running, gate) = blocked(&rt, Task::default());
        let n_threads = Arc::clone(&rt.executor().n_threads);
        rt.abandon();
        assert_eq!(rt.n_pending(), 1);
        gate.open();
        assert!(matches!(rt.wait(running, None, None), Waited::Ended));
        assert!(matches!(rt.wait_idle(None, None), Waited::Ended));
        while n_threads.load(Ordering::SeqCst) > 0 {
            std::thread::yield_now();
        }
    });
}

#[test]
fn the_number_of_workers_is_checked() {
    for workers in [0, 70_000] {
        let error = Runtime::new(
            Script::default(),
            Options {
                workers,
                ..Options::default()
            },
        )
        .err()
        .expect("refused");
        assert_eq!(
            error.to_string(),
            format!("a runtime has between 1 and 65535 workers, not {workers}")
        );
    }
}

#[test]
fn idle_workers_sleep() {
    limited(|| {
        let rt = start(3);
        settle(&rt);
        let parks = || rt.stats().workers.iter().map(|w| w.parks).sum::<u64>();
        while parks() < 3 {
            std::thread::yield_now();
        }
        let before = parks();
        // The time in which nothing is to happen: nobody is waited for.
        std::thread::sleep(Duration::from_millis(50));
        assert_eq!(parks(), before, "nobody wakes up for nothing");
    });
}
