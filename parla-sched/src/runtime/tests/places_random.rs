//! Random programs over overlapping parts of arrays on simulated GPUs, against the same program run one task after another.

use super::places::{Numbers, World};
use super::*;
use parla_core::Access;

/// What a task does: to `target` it adds the sum of `source` and its own number.
#[derive(Clone, Debug)]
struct Plan {
    target: (usize, std::ops::Range<usize>),
    source: (usize, std::ops::Range<usize>),
    /// Overwrites instead of adding.
    overwrites: bool,
    gpus: Vec<usize>,
}

const N_ARRAYS: usize = 3;
const LENGTH: usize = 24;

fn plans(seed: u64, n_gpus: usize, n_tasks: usize) -> Vec<Plan> {
    let mut state = seed;
    let mut below = |n: usize| usize::try_from(splitmix(&mut state) % n as u64).expect("small");
    let mut plans = Vec::new();
    for _ in 0..n_tasks {
        let mut part = |array| {
            let start = below(LENGTH);
            (array, start..start + 1 + below(LENGTH - start))
        };
        let target = part(plans.len() % N_ARRAYS);
        let source = part((plans.len() + 1) % N_ARRAYS);
        let first = below(n_gpus);
        let gpus = if below(2) == 0 {
            vec![first]
        } else {
            (0..n_gpus).collect()
        };
        plans.push(Plan {
            target,
            source,
            overwrites: below(3) == 0,
            gpus,
        });
    }
    plans
}

fn conflict(a: &Plan, b: &Plan) -> bool {
    let overlap = |x: &(usize, std::ops::Range<usize>), y: &(usize, std::ops::Range<usize>)| {
        x.0 == y.0 && x.1.start < y.1.end && y.1.start < x.1.end
    };
    overlap(&a.target, &b.target) || overlap(&a.target, &b.source) || overlap(&a.source, &b.target)
}

fn expected(plans: &[Plan]) -> Vec<Vec<u64>> {
    let mut arrays = vec![vec![0_u64; LENGTH]; N_ARRAYS];
    for (number, plan) in plans.iter().enumerate() {
        let source = &arrays[plan.source.0][plan.source.1.clone()];
        let sum = source.iter().fold(number as u64, |a, b| a.wrapping_add(*b));
        for value in &mut arrays[plan.target.0][plan.target.1.clone()] {
            *value = if plan.overwrites {
                sum
            } else {
                value.wrapping_add(sum)
            };
        }
    }
    arrays
}

fn run(seed: u64, n_gpus: usize, memory: u64, policy: &str) {
    let plans = plans(seed, n_gpus, 60);
    let world = World::new(u32::try_from(n_gpus).expect("few"), memory, policy);
    let arrays: Vec<_> = (0..N_ARRAYS).map(|_| Numbers::new(LENGTH)).collect();
    let mut ids: Vec<TaskId> = Vec::new();
    for (number, plan) in plans.iter().enumerate() {
        let after: Vec<_> = (0..number)
            .filter(|&before| conflict(&plans[before], plan))
            .map(|before| ids[before])
            .collect();
        let access = if plan.overwrites {
            Access::Output
        } else {
            Access::InOut
        };
        let operands = vec![
            arrays[plan.target.0].operand(plan.target.1.clone(), access),
            arrays[plan.source.0].operand(plan.source.1.clone(), Access::Input),
        ];
        let placing = world.placing(&plan.gpus, operands);
        let overwrites = plan.overwrites;
        ids.push(world.spawn(&after, placing, move |target, source| {
            let sum = source.iter().fold(number as u64, |a, b| a.wrapping_add(*b));
            for value in target {
                *value = if overwrites {
                    sum
                } else {
                    value.wrapping_add(sum)
                };
            }
        }));
    }
    world.finish();
    for (array, expected) in arrays.iter().zip(expected(&plans)) {
        assert_eq!(
            array.values(),
            expected,
            "seed {seed}, {n_gpus} GPUs, {policy}"
        );
    }
}

#[test]
fn random_programs_come_to_what_they_do_one_task_after_another() {
    for n_gpus in 1..=4 {
        for policy in ["eager", "locality"] {
            limited(move || {
                for seed in 0..15 {
                    run(seed * 7 + n_gpus as u64, n_gpus, 1 << 20, policy);
                }
            });
        }
    }
}

#[test]
fn random_programs_in_little_memory() {
    for n_gpus in 1..=3 {
        limited(move || {
            for seed in 100..115 {
                run(seed, n_gpus, 1024, "eager"); // two operands of 256 bytes at most, rounded up
            }
        });
    }
}
