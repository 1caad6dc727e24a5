//! Arrays come home when the runtime ends.

use parla_device::Device;

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

#[test]
fn what_a_task_writes_while_it_is_brought_home_to_be_changed_is_not_lost() {
    let bench = Bench::new(&[1000]);
    bench.gpus.0[0].stream_ordered.store(true, Ordering::SeqCst);
    let a = array(&[4]);
    let operands = [operand(&a, line(0, 4), Access::InOut)];
    bench.run(&operands, gpu(0), 3);
    bench.world.eager.store(false, Ordering::SeqCst);
    std::thread::scope(|scope| {
        let (store, a) = (&bench.store, &a);
        let comes = scope.spawn(move || store.to_host(a, &line(0, 4), true));
        wait_until(|| bench.world.n_busy() > 0);
        let mut staged = bench.staged(&operands, &[gpu(0)]);
        staged.begin();
        let stream = bench.gpus.0[0].stream().unwrap();
        for (_, event) in staged.events() {
            stream.wait(event).unwrap();
        }
        let place = staged.places()[0].clone();
        let kernel = Box::new(move || fill(&place, &[4], 7));
        stream.launch(kernel, 0).unwrap();
        staged.end(Ended::Well(vec![stream.record().unwrap()]));
        bench.world.eager.store(true, Ordering::SeqCst);
        bench.world.run_all();
        comes.join().unwrap().unwrap();
    });
    assert_eq!(home_of(&a, &line(0, 4)), [7; 4]);
    bench.check_empty();
    assert_eq!(home_of(&a, &line(0, 4)), [7; 4]);
}
