//! What a single thread can see of it; the rest is in `loom_tests`.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::*;

#[test]
fn a_round_takes_all_notes_in_order() {
    let combiner = Combiner::new(Vec::new());
    assert_eq!(combiner.round(|_, notes: Vec<u32>| notes.len()), None);
    (0..3).for_each(|note| combiner.post(note));
    assert!(combiner.has_news());
    combiner.round(|seen: &mut Vec<u32>, notes| seen.extend(notes));
    assert_eq!(*combiner.lock(), [0, 1, 2]);
    assert!(!combiner.has_news());
    assert_eq!(combiner.round(|_, _| ()), None);
}

#[test]
fn what_is_left_during_a_round_is_for_the_next() {
    let combiner = Combiner::new(());
    combiner.post(1);
    let within = combiner.round(|(), notes| {
        combiner.post(2);
        assert!(combiner.try_lock().is_none());
        let nested = combiner.round(|(), _| ());
        (notes, nested)
    });
    assert_eq!(within, Some((vec![1], None)));
    assert_eq!(combiner.round(|(), notes| notes), Some(vec![2]));
    combiner.nudge();
    assert_eq!(combiner.round(|(), notes| notes), Some(vec![]));
}

#[test]
fn it_goes_on_after_a_panic() {
    let combiner = Combiner::new(0);
    combiner.post(1);
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        combiner.round(|_, _| panic!("at work"))
    }));
    assert!(panicked.is_err());
    combiner.post(2);
    assert_eq!(combiner.round(|_, notes| notes), Some(vec![2]));
}
