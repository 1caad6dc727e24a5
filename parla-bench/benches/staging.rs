//! What coherence costs a task whose arrays never leave the host, by the number of its operands: `cargo bench -p parla-bench --bench staging`.
#![allow(missing_docs, reason = "criterion's macros make public items")]

use std::sync::Arc;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use parla_core::{Access, DeviceId, Region};
use parla_data::{Array, Ended, Home, Operand, Store};
use parla_device::{Block, Gpus, Machine, MachineOptions, SimOptions};

const CPU: DeviceId = DeviceId(0);
const N_NUMBERS: usize = 4;
const ITEM: usize = 4;

fn array() -> Array {
    let numbers: Arc<[u32]> = vec![0; N_NUMBERS].into();
    let bytes = (N_NUMBERS * ITEM) as u64;
    let home = Home {
        block: Arc::new(Block::foreign(numbers.as_ptr().addr(), bytes, numbers)),
        offset: 0,
        strides: [ITEM as isize].into_iter().collect(),
        writable: true,
    };
    Array::new("A", &[N_NUMBERS], ITEM, home)
}

/// Stages, begins and ends a task with `n` operands, all at home.
fn staging(c: &mut Criterion) {
    // Without other memories nobody has to know who writes, with one of them somebody might.
    for n_gpus in [0, 1] {
        let options = MachineOptions {
            gpus: Gpus::Simulated(SimOptions::new(n_gpus)),
            ..MachineOptions::default()
        };
        let machine = Machine::probe(&options).expect("simulated GPUs");
        let store = Store::new(Arc::new(machine));
        for access in [Access::Input, Access::InOut] {
            let mut group =
                c.benchmark_group(format!("staging at home, {n_gpus} GPUs, {access:?}"));
            for n_operands in [1, 4] {
                let operand = |_| Operand {
                    array: array(),
                    region: Region::whole(&[N_NUMBERS]),
                    access,
                    exact: true,
                    slot: 0,
                };
                let operands: Arc<[Operand]> = (0..n_operands).map(operand).collect();
                group.bench_function(BenchmarkId::from_parameter(n_operands), |b| {
                    b.iter(|| {
                        let staged = store.try_stage(&operands, &[CPU]);
                        let mut staged = staged.expect("everything is at home");
                        staged.begin();
                        staged.end(Ended::Well(Vec::new()));
                    })
                });
            }
            group.finish();
        }
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20);
    targets = staging
}
criterion_main!(benches);
