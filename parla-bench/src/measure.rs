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

/// The task length at which half of the time of `workers` is used: bisected over the kernel's rounds, all systems one step at a
/// time. Efficiency is the time of the kernels run one after the other, by the workers, by the time taken; both are
/// measured in the same step.
#[must_use]
pub fn half_efficiency(
    systems: &[&dyn System],
    workers: u32,
    pattern: Pattern,
    n: usize,
) -> Vec<Duration> {
    const ROUNDS: usize = 7;
    let mut bounds = vec![(4_u32, 1_u32 << 14); systems.len()];
    while bounds
        .iter()
        .any(|(low, high)| f64::from(*high) > 1.02 * f64::from(*low) + 1.0)
    {
        for (system, (low, high)) in systems.iter().zip(&mut bounds) {
            let kernel = Kernel {
                rounds: middle(*low, *high),
            };
            let mut alone = Vec::new();
            let mut taken = Vec::new();
            for _ in 0..ROUNDS {
                alone.push(kernel.time_of(n));
                let start = Instant::now();
                system.run(pattern, n, kernel);
                taken.push(start.elapsed());
            }
            let efficient = median(alone) >= median(taken) * workers / 2;
            *(if efficient { high } else { low }) = kernel.rounds;
        }
    }
    let length = |(low, high)| {
        let kernel = Kernel {
            rounds: middle(low, high),
        };
        median((0..ROUNDS).map(|_| kernel.time_of(n)).collect())
            / u32::try_from(n).expect("tasks are counted in thousands")
    };
    bounds.into_iter().map(length).collect()
}

/// Halfway on a logarithmic scale.
fn middle(low: u32, high: u32) -> u32 {
    let middle = (u64::from(low) * u64::from(high)).isqrt();
    u32::try_from(middle)
        .expect("it lies between the two")
        .clamp(low, high)
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
                let start = Instant::now();
                while start.elapsed() < Duration::from_micros(1) {}
            }
        }
    }

    #[test]
    fn half_of_one_worker_is_used_when_task_and_overhead_take_the_same() {
        let length = half_efficiency(&[&Slow], 1, Pattern::Independent, 2_000)[0];
        assert!(
            (Duration::from_nanos(200)..Duration::from_micros(5)).contains(&length),
            "{length:?}"
        );
    }
}
