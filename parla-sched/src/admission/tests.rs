//! Admission by example and by random load.

use parla_core::{Attrs, TaskId, Vcus};
use proptest::prelude::*;

use super::*;

fn task(number: u64, priority: i32, vcus: u32) -> Ready {
    let claim = Claim {
        vcus: Vcus(vcus),
        memory: 0,
    };
    Ready {
        id: TaskId::from_u64(number),
        attrs: Attrs {
            placed: false,
            priority,
            worker: None,
            claim,
        },
    }
}

fn device() -> Admission {
    Admission::new(Claim {
        vcus: Vcus(1000),
        memory: 1 << 30,
    })
}

fn popped(admission: &mut Admission) -> Option<u64> {
    admission.pop(i32::MIN).map(|ready| ready.id.as_u64())
}

#[test]
fn higher_priorities_first_then_first_come() {
    let mut a = device();
    for (number, priority) in [(1, 0), (2, 5), (3, 5), (4, -1)] {
        assert_eq!(a.push(task(number, priority, 0)), 1);
    }
    assert_eq!(a.pop(6), None);
    assert_eq!(a.pop(5).map(|t| t.id.as_u64()), Some(2));
    let rest: Vec<_> = std::iter::from_fn(|| popped(&mut a)).collect();
    assert_eq!(rest, [3, 1, 4]);
}

#[test]
fn a_big_request_does_not_block_small_ones_behind_it() {
    let mut a = device();
    assert_eq!(a.push(task(1, 0, 600)), 1);
    assert_eq!(a.push(task(2, 0, 600)), 0);
    assert_eq!(a.push(task(3, 0, 400)), 1);
    assert_eq!(
        (popped(&mut a), popped(&mut a), popped(&mut a)),
        (Some(1), Some(3), None)
    );
    assert_eq!(a.release(&task(1, 0, 600).attrs.claim), 1);
    assert_eq!(popped(&mut a), Some(2));
}

#[test]
fn a_stream_of_small_ones_does_not_starve_a_big_one() {
    let mut a = device();
    let small = |n| task(n, 0, 100);
    a.push(small(0));
    a.push(task(999, 0, 1000));
    let mut running = 1;
    let mut admitted_before = 0;
    for n in 1..10_000 {
        a.push(small(n)); // always one more small task while another ends
        while let Some(number) = popped(&mut a) {
            if number == 999 {
                assert!(
                    admitted_before <= 2 * u64::from(PATIENCE),
                    "{admitted_before} overtook"
                );
                return;
            }
            admitted_before += 1;
            running += 1;
        }
        if running > 1 {
            running -= 1;
            a.release(&small(0).attrs.claim);
        }
        if a.claimed().vcus.0 > 0 && running <= 1 {
            a.release(&small(0).attrs.claim);
            running = 0;
        }
    }
    panic!("the big task never ran");
}

#[test]
fn the_pinned_and_the_waiting_get_their_claim_before_they_are_sent_on() {
    let mut a = device();
    assert_eq!(a.push(task(1, 0, 700)), 1);
    let mut pinned = task(2, 0, 700);
    pinned.attrs.worker = Some(1);
    assert_eq!((a.push(pinned), a.take_routed()), (0, vec![]));
    assert_eq!(a.push_body(9, pinned.attrs.claim), 0);
    assert_eq!(a.release(&pinned.attrs.claim), 0);
    assert_eq!(
        a.take_routed(),
        [(Claimant::Body(9), pinned.attrs.claim)],
        "a body that has begun comes first"
    );
    assert_eq!(a.release(&pinned.attrs.claim), 0);
    assert_eq!(
        a.take_routed(),
        [(Claimant::Task(pinned), pinned.attrs.claim)]
    );
    assert_eq!(a.claimed(), pinned.attrs.claim);
}

#[test]
fn who_claims_nothing_is_never_held_up() {
    let mut a = device();
    a.push(task(1, 0, 600));
    a.push(task(2, 0, 600));
    for number in 3..1000 {
        assert_eq!(a.push(task(number, -1, 0)), 1);
    }
}

proptest! {
    #[test]
    fn nothing_is_lost_and_no_claim_exceeds_the_device(sizes in proptest::collection::vec((0..=1000_u32, -3..3_i32), 1..200), seed in any::<u64>()) {
        let mut a = device();
        let mut running: Vec<Ready> = Vec::new();
        let mut seen = std::collections::BTreeSet::new();
        let mut random = seed | 1;
        for (number, &(vcus, priority)) in sizes.iter().enumerate() {
            a.push(task(number as u64, priority, vcus));
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            if random >> 63 == 0 && let Some(t) = a.pop(i32::MIN) {
                prop_assert!(seen.insert(t.id));
                running.push(t);
            }
            if random >> 62 == 3 && !running.is_empty() {
                let t = running.swap_remove((random % running.len() as u64) as usize);
                a.release(&t.attrs.claim);
            }
            let sum: u32 = running.iter().map(|t| t.attrs.claim.vcus.0).sum();
            prop_assert!(sum <= a.claimed().vcus.0 && a.claimed().vcus.0 <= 1000);
        }
        loop {
            while let Some(t) = a.pop(i32::MIN) { prop_assert!(seen.insert(t.id)); running.push(t); }
            let Some(t) = running.pop() else { break };
            a.release(&t.attrs.claim);
        }
        prop_assert_eq!(seen.len(), sizes.len());
        prop_assert_eq!(a.claimed(), Claim::default());
        prop_assert_eq!(a.n_queued(), 0);
    }
}
