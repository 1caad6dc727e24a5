//! Medians, systems by turns, and the task length at which half of the workers' time is used.

use std::time::{Duration, Instant};

use crate::{Kernel, Pattern, System};

/// The middle one. Of an even number, the lower of the two.
///
/// # Panics
/// When there is none.
#[must_use]
pub fn median(mut samples: Vec<Duration>) -> Duration {
    samples.sort_unstable();
    samples[(samples.len() - 1) / 2]
}

/// Runs the pattern on each system by turns, each round beginning with another one; the median time of each.
#[must_use]
pub fn in_turns(
    systems: &[&dyn System],
    rounds: usize,
    pattern: Pattern,
    n: usize,
    kernel: Kernel,
) -> Vec<Duration> {
    let mut samples = vec![Vec::new(); systems.len()];
    systems
        .iter()
        .for_each(|system| system.run(pattern, n, kernel)); // warm
    for round in 0..rounds {
        for turn in 0..systems.len() {
            let which = (round + turn) % systems.len();
            let start = Instant::now();
            systems[which].run(pattern, n, kernel);
            samples[which].push(start.elapsed());
        }
    }
    samples.into_iter().map(median).collect()
}

/// The task length at which half of the time of `workers` is used, to about 2 %, for each system. Efficiency is the length of all
/// tasks, divided by the workers and by the time taken. Bisected, all systems one step at a time.
#[must_use]
pub fn half_efficiency(
    systems: &[&dyn System],
    workers: u32,
    pattern: Pattern,
    n: u32,
) -> Vec<Duration> {
    const ROUNDS: usize = 7;
    let mut bounds = vec![(Duration::from_nanos(50), Duration::from_micros(20)); systems.len()];
    while bounds.iter().any(|(low, high)| *high > low.mul_f64(1.02)) {
        for (system, (low, high)) in systems.iter().zip(&mut bounds) {
            let kernel = Kernel {
                length: middle(*low, *high),
            };
            let taken = (0..ROUNDS).map(|_| {
                let start = Instant::now();
                system.run(pattern, n as usize, kernel);
                start.elapsed()
            });
            let is_efficient = kernel.length * n >= median(taken.collect()) * workers / 2;
            *(if is_efficient { high } else { low }) = kernel.length;
        }
    }
    bounds
        .into_iter()
        .map(|(low, high)| middle(low, high))
        .collect()
}

/// Halfway on a logarithmic scale.
fn middle(low: Duration, high: Duration) -> Duration {
    Duration::from_secs_f64((low.as_secs_f64() * high.as_secs_f64()).sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_one_of_the_samples() {
        let of = |ms: &[u64]| median(ms.iter().copied().map(Duration::from_millis).collect());
        assert_eq!(of(&[9, 1, 5]), Duration::from_millis(5));
        assert_eq!(of(&[4, 1]), Duration::from_millis(1));
    }

    /// Takes as long as its kernels on one thread and 1 us more per task.
    struct Slow;

    impl System for Slow {
        fn name(&self) -> &str {
            "slow"
        }

        fn run(&self, _: Pattern, n: usize, kernel: Kernel) {
            for _ in 0..n {
                kernel.run();
                Kernel {
                    length: Duration::from_micros(1),
                }
                .run();
            }
        }
    }

    #[test]
    fn half_of_one_worker_is_used_when_task_and_overhead_take_the_same() {
        let length = half_efficiency(&[&Slow], 1, Pattern::Independent, 1_000)[0];
        assert!(length >= Duration::from_nanos(900), "{length:?}");
    }
}
