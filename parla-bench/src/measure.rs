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

/// The task length at which half of the time of `workers` is used, for each system. Efficiency is the length of all tasks, divided by the
/// workers and by the time taken.
///
/// Measured at lengths from 0.1 to 13 us, all lengths and systems by turns, so that whatever disturbs the machine falls on
/// single samples, which the median leaves out; between the two lengths around one half it is interpolated.
#[must_use]
pub fn half_efficiency(
    systems: &[&dyn System],
    workers: u32,
    rounds: usize,
    pattern: Pattern,
    n: u32,
) -> Vec<Duration> {
    let lengths: Vec<_> = (0..15)
        .map(|step| Duration::from_nanos(100).mul_f64(2_f64.powf(f64::from(step) / 2.0)))
        .collect();
    let mut samples = vec![vec![Vec::new(); lengths.len()]; systems.len()];
    for _ in 0..rounds {
        for (i, &length) in lengths.iter().enumerate() {
            for (system, samples) in systems.iter().zip(&mut samples) {
                let start = Instant::now();
                system.run(pattern, n as usize, Kernel { length });
                samples[i].push(start.elapsed());
            }
        }
    }
    let efficiency = |(length, taken): (Duration, Vec<Duration>)| {
        length.as_secs_f64() * f64::from(n) / f64::from(workers) / median(taken).as_secs_f64()
    };
    let curves = samples
        .into_iter()
        .map(|taken| lengths.iter().copied().zip(taken).map(efficiency));
    curves
        .map(|curve| crossing(&lengths, &curve.collect::<Vec<_>>()))
        .collect()
}

/// Where the efficiency comes to one half and stays there for two lengths; the greatest length if it never does.
fn crossing(lengths: &[Duration], efficiency: &[f64]) -> Duration {
    let reached = efficiency
        .windows(2)
        .position(|two| two.iter().all(|e| *e >= 0.5));
    match reached {
        None => lengths[lengths.len() - 1],
        Some(0) => lengths[0],
        Some(i) => {
            let part = (0.5 - efficiency[i - 1]) / (efficiency[i] - efficiency[i - 1]);
            lengths[i - 1] + (lengths[i] - lengths[i - 1]).mul_f64(part.clamp(0.0, 1.0))
        }
    }
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

    #[test]
    fn the_crossing_is_interpolated_and_one_lucky_sample_is_none() {
        let us = Duration::from_micros;
        let lengths = [us(1), us(2), us(4), us(8)];
        assert_eq!(crossing(&lengths, &[0.1, 0.4, 0.6, 0.7]), us(3));
        assert_eq!(crossing(&lengths, &[0.6, 0.4, 0.5, 0.7]), us(4));
        assert_eq!(crossing(&lengths, &[0.5, 0.6, 0.6, 0.7]), us(1));
        assert_eq!(crossing(&lengths, &[0.1, 0.2, 0.3, 0.4]), us(8));
    }
}
