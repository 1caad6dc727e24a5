//! Several parts of one array in one task.

use super::*;

#[test]
fn overlapping_operands_of_a_task_share_their_bytes() {
    for apart_before in [false, true] {
        let bench = Bench::new(&[1000]);
        let a = array(&[6]);
        let operands = [
            operand(&a, line(0, 4), Access::InOut),
            operand(&a, line(2, 6), Access::Input),
        ];
        if apart_before {
            for (start, end) in [(0, 4), (2, 6)] {
                bench.run(&[operand(&a, line(start, end), Access::Input)], gpu(0), 0);
            }
        }
        let at_once = bench.store.try_stage(&operands.clone().into(), &[gpu(0)]);
        let mut staged = at_once.unwrap_or_else(|| bench.staged(&operands, &[gpu(0)]));
        staged.begin();
        fill(&staged.places()[0], &[4], 9);
        assert_eq!(look(&staged, &operands)[1], [9, 9, 4, 5]);
        staged.end(Ended::Well(Vec::new()));
        assert!(apart_before || a.bytes_allocated(memory(0)) == 24);
        bench.check_empty();
    }
}

#[test]
fn one_task_cannot_write_the_same_on_two_devices() {
    let bench = Bench::new(&[1000, 1000]);
    let a = array(&[6]);
    let mut operands = [
        operand(&a, line(0, 4), Access::InOut),
        operand(&a, line(3, 6), Access::InOut),
    ];
    operands[1].slot = 1;
    let error = bench
        .store
        .check_fits(&operands, &[gpu(0), gpu(1)], 0)
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "A[3:4] is written on two devices by the same task"
    );
    assert!(
        bench
            .store
            .check_fits(&operands, &[gpu(0), CPU], 0)
            .is_err()
    );
    operands[1].slot = 0;
    assert!(bench.store.check_fits(&operands, &[gpu(0)], 0).is_ok());
    assert!(
        bench.store.check_fits(&operands, &[gpu(0)], 1000).is_err(),
        "no room for both"
    );
}
