//! Claims are never exceeded, always restored, and given back while a body waits.

use std::sync::atomic::AtomicU32;

use super::*;

fn claiming(vcus: u32) -> Task<'static> {
    let attrs = Attrs {
        claim: Claim {
            vcus: Vcus(vcus),
            memory: 0,
        },
        ..Attrs::default()
    };
    Task {
        attrs,
        ..Task::default()
    }
}

#[test]
fn claims_are_never_exceeded_and_exactly_restored() {
    at_each(|workers| {
        let rt = start(workers);
        let (held, most) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
        for i in 0..2_000_u32 {
            let vcus = [0, 1, 250, 333, 500, 999, 1000][i as usize % 7];
            let (held, most) = (Arc::clone(&held), Arc::clone(&most));
            let body: Body = Box::new(move |cx| {
                let now = held.fetch_add(vcus, Ordering::SeqCst) + vcus;
                most.fetch_max(now, Ordering::SeqCst);
                // Bodies are so short that they may never meet; what was granted meanwhile is in the books.
                let granted = cx.shared().admission.lock().claimed().vcus;
                most.fetch_max(granted.0, Ordering::SeqCst);
                std::thread::yield_now();
                held.fetch_sub(vcus, Ordering::SeqCst);
                if i % 11 == 0 { Say::Fail } else { Say::Done }
            });
            rt.spawn(claiming(vcus), |_| body).expect("spawns");
        }
        settle(&rt);
        assert!(most.load(Ordering::SeqCst) <= 1000);
    });
}

#[test]
fn impossible_claims_are_refused_at_spawn() {
    let rt = start(1);
    let refused = rt.spawn(claiming(1001), |_| once(|_| {}));
    assert!(matches!(refused, Err(SpawnError::Claim(_))), "{refused:?}");
    assert_eq!(rt.n_pending(), 0);
    spawn(&rt, claiming(1000), |_| {});
    settle(&rt);
}

#[test]
fn an_awaiting_parent_gives_back_what_its_child_needs() {
    at_each(|workers| {
        let rt = start(workers);
        let mut step = 0;
        let body: Body = Box::new(move |cx| {
            step += 1;
            if step == 4 {
                return Say::Done;
            }
            assert_eq!(cx.shared().admission.lock().claimed().vcus, Vcus(1000));
            Say::Await(vec![
                cx.spawn(claiming(1000), |_| once(|_| {})).expect("spawns"),
            ])
        });
        let parent = rt.spawn(claiming(1000), |_| body).expect("spawns");
        settle(&rt);
        assert_eq!(rt.state(parent), TaskState::Done);
    });
}

#[test]
fn a_blocked_parent_gives_back_what_its_child_needs() {
    at_each(|workers| {
        let rt = start(workers);
        let most = Arc::new((AtomicU32::new(0), AtomicU32::new(0)));
        for _ in 0..20 {
            let most = Arc::clone(&most);
            spawn(&rt, claiming(600), move |cx| {
                let child = cx.spawn(claiming(1000), |_| once(|_| {})).expect("spawns");
                assert!(matches!(cx.wait(child, None, None), Waited::Ended));
                // It holds its claim again.
                most.1.fetch_max(
                    most.0.fetch_add(600, Ordering::SeqCst) + 600,
                    Ordering::SeqCst,
                );
                std::thread::yield_now();
                most.0.fetch_sub(600, Ordering::SeqCst);
            });
        }
        settle(&rt);
        assert_eq!(rt.executor().cancelled.lock().len(), 0);
    });
}

#[test]
fn a_big_request_among_small_ones_gets_its_turn() {
    at_each(|workers| {
        let rt = start(workers);
        let big_ran = Arc::new(AtomicUsize::new(0));
        let (_, gate) = blocked(&rt, claiming(1));
        let big = Arc::clone(&big_ran);
        spawn(&rt, claiming(1000), move |_| big.store(1, Ordering::SeqCst));
        fn small(cx: &Cx<'_, Script>, big: Arc<AtomicUsize>) {
            if big.load(Ordering::SeqCst) == 0 {
                cx.spawn(claiming(100), |_| once(move |cx| small(cx, big)))
                    .expect("spawns");
            }
        }
        for _ in 0..2 * workers {
            let big = Arc::clone(&big_ran);
            spawn(&rt, claiming(100), move |cx| small(cx, big));
        }
        gate.open();
        settle(&rt);
    });
}
