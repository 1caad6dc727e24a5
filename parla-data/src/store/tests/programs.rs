//! Random programs.

use proptest::prelude::*;

use super::model::Model;
use super::task::BYTES;
use super::*;

/// Something goes wrong on some device, now or soon.
fn harm(model: &mut Model) {
    let soon = 1 + model.dice.roll(4) as u64;
    let world = &model.bench.world;
    match model.dice.roll(8) {
        0 => {
            let gpu = model.dice.roll(model.n_gpus);
            model.bench.gpus.0[gpu].lost.store(true, Ordering::SeqCst);
        }
        1..4 => world.allocations_left.store(soon, Ordering::SeqCst),
        _ => world.copies_left.store(soon, Ordering::SeqCst),
    }
}

fn run(seed: u64, n_gpus: usize, capacity: u64, ordered: bool, n_steps: usize) {
    let mut model = Model::new(seed, n_gpus, capacity, ordered);
    for _ in 0..n_steps {
        match model.dice.roll(20) {
            0..8 => model.spawn(),
            8 => model.host(),
            9 => model.prefetch(),
            10 => model.evict(),
            _ => drop(model.advance()),
        }
        model.check();
    }
    model.finish();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    /// With little memory, so that most of it is evicted all the time.
    #[test]
    fn random_programs_see_the_newest_values(
        seed: u64, n_gpus in 1..5_usize, percent in 60..300_u64, ordered: bool, n_steps in 10..150_usize,
    ) {
        run(seed, n_gpus, BYTES * percent / 100, ordered, n_steps);
    }

    /// Devices that fail never make anybody see a wrong value, nothing hangs, and no memory is forgotten.
    #[test]
    fn random_programs_on_failing_devices(
        seed: u64, n_gpus in 1..5_usize, percent in 60..300_u64, ordered: bool, n_steps in 10..150_usize,
    ) {
        let mut model = Model::new(seed, n_gpus, BYTES * percent / 100, ordered);
        model.faulty = true;
        for _ in 0..n_steps {
            match model.dice.roll(24) {
                0..8 => model.spawn(),
                8 => model.host(),
                9 => model.prefetch(),
                10 => model.evict(),
                11 => harm(&mut model),
                _ => drop(model.advance()),
            }
            model.check();
        }
        model.finish();
    }

    /// With much memory nothing travels that does not have to.
    #[test]
    fn random_programs_move_the_least_bytes(seed: u64, n_gpus in 1..5_usize, ordered: bool, n_steps in 10..100_usize) {
        let mut model = Model::new(seed, n_gpus, 100 * BYTES, ordered);
        model.sparing = true;
        for _ in 0..n_steps {
            match model.dice.roll(20) {
                0..8 => model.spawn(),
                8 => model.host(),
                _ => drop(model.advance()),
            }
        }
        model.drain();
        for (memory, &least) in (0..).zip(&model.least) {
            assert_eq!(model.bench.bytes_into(MemoryId(memory)), least, "into memory {memory}");
        }
        model.finish();
    }
}
