//! Empty tasks in the four patterns, Parla beside rayon: `cargo bench -p parla-bench`.
#![allow(missing_docs, reason = "criterion's macros make public items")]

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use parla_bench::{Kernel, Parla, Pattern, Rayon, Spawner, System};

const WORKERS: usize = 2;
const N: usize = 10_000;

fn patterns(c: &mut Criterion) {
    let parla = Parla::start(WORKERS, Spawner::Task).expect("threads can be had");
    let outside = Parla::start(WORKERS, Spawner::Outside).expect("threads can be had");
    let rayon = Rayon::start(WORKERS).expect("threads can be had");
    for pattern in Pattern::ALL {
        let mut group = c.benchmark_group(pattern.name());
        group.throughput(Throughput::Elements(N as u64));
        for system in [&parla as &dyn System, &outside, &rayon] {
            group.bench_function(system.name(), |b| {
                b.iter(|| system.run(pattern, N, Kernel::default()))
            });
        }
        group.finish();
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20);
    targets = patterns
}
criterion_main!(benches);
