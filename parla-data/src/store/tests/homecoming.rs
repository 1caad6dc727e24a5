//! Arrays come home when the runtime ends.

use super::*;

#[test]
fn all_arrays_are_on_their_way_home_before_the_first_is_waited_for() {
    let bench = Bench::new(&[1000, 1000, 1000]);
    let arrays = [array(&[6]), array(&[6]), array(&[6])];
    for (i, a) in (0..).zip(&arrays) {
        bench.run(&[operand(a, line(0, 6), Access::Output)], gpu(i), 7 + i);
    }
    bench.world.eager.store(false, Ordering::SeqCst);
    let store = Arc::clone(&bench.store);
    let closing = std::thread::spawn(move || store.close());
    wait_until(|| bench.world.n_busy() == 3);
    assert!(!closing.is_finished());
    bench.world.eager.store(true, Ordering::SeqCst);
    wait_until(|| {
        bench.world.run_all();
        closing.is_finished()
    });
    closing.join().unwrap().expect("closes");
    for (i, a) in (0..).zip(&arrays) {
        assert_eq!(home_of(a, &line(0, 6)), [7 + i; 6]);
    }
    bench.check_empty();
}

#[test]
fn a_device_that_is_lost_while_arrays_come_home_is_an_error() {
    let bench = Bench::new(&[1000]);
    let a = array(&[6]);
    bench.run(&[operand(&a, line(0, 6), Access::Output)], gpu(0), 7);
    bench.world.copies_left.store(1, Ordering::SeqCst);
    let errors = bench.store.close().unwrap_err();
    assert!(
        errors
            .iter()
            .any(|error| matches!(error, DataError::Device(_))),
        "{errors:?}"
    );
}
