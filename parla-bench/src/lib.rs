//! What the native benchmarks run and how they measure: the same graph patterns for Parla and for rayon.
//!
//! Four patterns, as in the tables of the other task systems: *independent* tasks, a *chain*, a *stencil* (16 wide, each task
//! after three of the row before, periodic), a binary *tree* from its root. A task runs a [`Kernel`]: nothing, or a busy loop.

mod kernel;
mod measure;
mod on_parla;
mod on_rayon;

pub use kernel::Kernel;
pub use measure::{half_efficiency, in_turns, median};
pub use on_parla::{Parla, Spawner};
pub use on_rayon::Rayon;

/// Width of the stencil.
pub const WIDTH: usize = 16;

/// Which tasks depend on which.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// None on any other.
    Independent,
    /// Each on the one before.
    Chain,
    /// Each on three of the row before, rows are [`WIDTH`] wide.
    Stencil,
    /// Each spawns two more.
    Tree,
}

impl Pattern {
    /// All of them, as tables list them.
    pub const ALL: [Self; 4] = [Self::Independent, Self::Chain, Self::Stencil, Self::Tree];

    /// Its name in tables.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Independent => "independent",
            Self::Chain => "chain",
            Self::Stencil => "stencil",
            Self::Tree => "tree",
        }
    }
}

/// A way to run patterns.
pub trait System {
    /// Its name in tables.
    fn name(&self) -> &str;

    /// Spawns `n` tasks and waits until all are complete.
    fn run(&self, pattern: Pattern, n: usize, kernel: Kernel);
}
