//! What a task computes: nothing, or a busy wait by the clock.

use std::time::{Duration, Instant};

/// A busy wait. By the clock, as in the other tables: a counted loop would measure how the two threads of one core share it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kernel {
    /// How long; zero is an empty task.
    pub length: Duration,
}

impl Kernel {
    /// Runs it once.
    #[inline]
    pub fn run(self) {
        if !self.length.is_zero() {
            let start = Instant::now();
            while start.elapsed() < self.length {
                std::hint::spin_loop();
            }
        }
    }
}
