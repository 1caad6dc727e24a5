//! What fails, goes away or is overwritten while copies are under way, and what that must not touch.

use parla_device::Device;

use super::*;
use crate::directory::InstanceId;

/// Streams that move only when the test says so, on one GPU that runs its work in order of streams.
fn slow() -> Bench {
    let bench = Bench::new(&[1000, 1000]);
    bench.world.eager.store(false, Ordering::SeqCst);
    bench.gpus.0[0].stream_ordered.store(true, Ordering::SeqCst);
    bench
}

#[test]
fn what_is_written_on_a_lost_device_is_valid_nowhere() {
    for before_it_begins in [true, false] {
        let bench = Bench::new(&[1000, 1000]);
        let a = array(&[4]);
        let written = [operand(&a, line(0, 2), Access::InOut)];
        let mut staged = bench.staged(&written, &[gpu(0)]);
        let lose = || {
            bench.gpus.0[0].lost.store(true, Ordering::SeqCst);
            // Somebody notices.
            bench.run(&[operand(&a, line(2, 4), Access::Input)], gpu(1), 0);
        };
        if before_it_begins {
            lose();
        }
        staged.begin();
        if !before_it_begins {
            lose();
        }
        staged.end(Ended::Well(Vec::new()));
        // The home has what was there before.
        let error = bench.store.to_host(&a, &line(0, 4), false).unwrap_err();
        let because = "it was written on a device that was lost";
        assert_eq!(
            error.to_string(),
            format!("A[0:2] has no valid contents: {because}")
        );
        bench.store.to_host(&a, &line(2, 4), false).unwrap();
        bench.check_empty();
    }
}

#[test]
fn a_copy_that_fails_spoils_nothing_that_was_written_after_it() {
    let bench = slow();
    let a = array(&[4]);
    let whole = |access| operand(&a, line(0, 4), access);
    assert_eq!(
        bench.store.prefetch(
            &whole(Access::Input),
            gpu(0),
            &Ahead::surely(),
            Box::new(|| ())
        ),
        16
    );
    let mut staged = bench.staged(&[whole(Access::Output)], &[gpu(0)]);
    staged.begin();
    let stream = bench.gpus.0[0].stream().unwrap();
    for (_, event) in staged.events() {
        stream.wait(event).unwrap();
    }
    let place = staged.places()[0].clone();
    let kernel = Box::new(move || fill(&place, &[4], 7));
    stream.launch(kernel, 0).unwrap();
    staged.end(Ended::Well(vec![stream.record().unwrap()]));
    bench.world.copies_left.store(1, Ordering::SeqCst);
    bench.world.run_all();
    bench.world.eager.store(true, Ordering::SeqCst);
    bench.store.to_host(&a, &line(0, 4), false).unwrap();
    assert_eq!(home_of(&a, &line(0, 4)), [7; 4]);
    bench.check_empty();
}

#[test]
fn memory_of_an_array_that_is_gone_is_given_back_when_its_copies_have_ended() {
    let bench = slow();
    let a = array(&[4]);
    let used = || bench.store.stats().memories[1].used;
    let wanted = operand(&a, line(0, 4), Access::Input);
    assert_eq!(
        bench
            .store
            .prefetch(&wanted, gpu(0), &Ahead::surely(), Box::new(|| ())),
        16
    );
    drop((a, wanted));
    assert_eq!((used(), bench.gpus.0[0].memory_used()), (16, 16));
    bench.world.run_all();
    assert_eq!((used(), bench.gpus.0[0].memory_used()), (0, 0));
    bench.check_empty();
}

#[test]
fn nothing_is_copied_to_what_a_staged_task_overwrites() {
    let bench = slow();
    let a = array(&[4]);
    let whole = |access| operand(&a, line(0, 4), access);
    let mut staged = bench.staged(&[whole(Access::Output)], &[gpu(0)]);
    let prefetched = bench.store.prefetch(
        &whole(Access::Input),
        gpu(0),
        &Ahead::surely(),
        Box::new(|| ()),
    );
    assert_eq!(prefetched, 0);
    staged.begin();
    fill(&staged.places()[0], &[4], 7);
    staged.end(Ended::Well(Vec::new()));
    bench.world.eager.store(true, Ordering::SeqCst);
    bench.world.run_all();
    bench.store.to_host(&a, &line(0, 4), false).unwrap();
    assert_eq!(home_of(&a, &line(0, 4)), [7; 4]);
    bench.check_empty();
}

#[test]
fn what_a_failed_body_was_to_write_is_invalid_where_there_is_only_the_host() {
    let bench = Bench::new(&[]);
    let a = array(&[4]);
    let operands = [operand(&a, line(1, 3), Access::InOut)].into();
    let staged = bench.store.try_stage(&operands, &[CPU]);
    let mut staged = staged.expect("nothing has to move");
    staged.begin();
    staged.end(Ended::Badly("it failed".to_owned()));
    assert!(bench.store.to_host(&a, &line(0, 4), false).is_err());
    assert!(bench.store.to_host(&a, &line(0, 1), false).is_ok());
    bench.check_empty();
}

#[test]
fn what_is_not_trusted_is_read_elsewhere_or_not_at_all() {
    let bench = Bench::new(&[1000, 1000]);
    let a = array(&[4]);
    bench.run(&[operand(&a, line(0, 2), Access::InOut)], gpu(0), 7);
    bench.run(&[operand(&a, line(0, 4), Access::Input)], gpu(0), 0);
    bench
        .store
        .distrust(&a, &line(1, 4), MemoryId(1), "it was changed");
    // The first is fine, the second was nowhere else, the others are at home as they were.
    bench.store.to_host(&a, &line(0, 1), false).unwrap();
    bench.store.to_host(&a, &line(2, 4), false).unwrap();
    let error = bench.store.to_host(&a, &line(1, 2), false).unwrap_err();
    let text = "A[1:2] has no valid contents: it was changed";
    assert_eq!(error.to_string(), text);
    // What is read on that device comes anew.
    let operands = [operand(&a, line(2, 4), Access::Input)];
    assert_eq!(bench.store.missing_bytes(&operands, &[gpu(0)]), 8);
    bench.check_empty();
}

/// Two tasks that write at home at the same time, as a body and a child that it has not waited for yet.
fn parent_and_child(bench: &Bench, a: &Array) -> [Staged; 2] {
    let stage = |region| {
        let operands = [operand(a, region, Access::InOut)].into();
        let mut staged = bench.store.try_stage(&operands, &[CPU]).expect("at home");
        staged.begin();
        staged
    };
    [stage(line(0, 8)), stage(line(2, 4))]
}

#[test]
fn what_another_one_spoilt_at_home_is_not_made_valid_by_the_end_of_a_body() {
    let bench = Bench::new(&[1 << 10]);
    let a = array(&[8]);
    let [parent, child] = parent_and_child(&bench, &a);
    child.end(Ended::Badly("the child failed".to_owned()));
    parent.end(Ended::Well(Vec::new()));
    let error = bench.store.to_host(&a, &line(0, 8), false).unwrap_err();
    assert!(error.to_string().contains("the child failed"), "{error}");
    assert!(bench.store.to_host(&a, &line(4, 8), false).is_ok());
    bench.check_empty();
}

#[test]
fn the_record_keeps_what_a_child_has_written_before_its_parent_let_go() {
    let bench = Bench::new(&[1 << 10]);
    bench.store.keep_versions();
    let a = array(&[8]);
    let [parent, child] = parent_and_child(&bench, &a);
    let wrote = |staged: &Staged| staged.uses()[0].writes.unwrap();
    let (of_parent, of_child) = (wrote(&parent), wrote(&child));
    child.end(Ended::Well(Vec::new()));
    parent.end(Ended::Well(Vec::new()));
    let state = a.0.state.lock();
    let found = |region| state.versions.find(InstanceId::HOME, &region);
    assert_eq!(found(line(2, 4)), [(line(2, 4), Some(of_child))]);
    assert_eq!(found(line(4, 8)), [(line(4, 8), Some(of_parent))]);
}

#[test]
fn what_is_lost_of_one_operand_is_none_of_the_others_business() {
    let bench = Bench::new(&[1 << 10]);
    let (a, b) = (array(&[8]), array(&[8, 8]));
    let mut failed = bench.staged(&[operand(&a, line(0, 8), Access::Output)], &[CPU]);
    failed.begin();
    failed.end(Ended::Badly("it failed".to_owned()));
    let box_of_b = Region::new([0..2, 3..4]);
    let operands = [
        operand(&a, line(0, 8), Access::Input),
        operand(&b, box_of_b.clone(), Access::Input),
    ];
    let (sent, received) = mpsc::channel();
    let order = Order {
        operands: operands.into(),
        devices: [gpu(0)][..].into(),
        room: [0][..].into(),
        again: true,
    };
    let done = Box::new(move |staged| drop(sent.send(staged)));
    bench.store.order(order, done);
    let staged = received.recv_timeout(LIMIT).unwrap().unwrap();
    let lost = staged.lost(0, &line(2, 4)).expect("nothing is there");
    assert!(lost.to_string().contains("it failed"), "{lost}");
    assert!(staged.lost(1, &box_of_b).is_none());
    drop(staged);
    bench.check_empty();
}
