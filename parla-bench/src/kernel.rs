//! What a task computes: nothing, or a loop of a given number of rounds.

use std::hint::black_box;
use std::time::{Duration, Instant};

/// A busy loop. Counted in rounds, not by the clock: reading the clock costs as much as a short task.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kernel {
    /// Rounds of the loop; 0 is an empty task.
    pub rounds: u32,
}

impl Kernel {
    /// Runs it once.
    #[inline]
    pub fn run(self) {
        for round in 0..self.rounds {
            black_box(round);
        }
    }

    /// How long `n` of them take one after the other, on one thread.
    #[must_use]
    pub fn time_of(self, n: usize) -> Duration {
        let start = Instant::now();
        (0..n).for_each(|_| black_box(self).run());
        start.elapsed()
    }
}
