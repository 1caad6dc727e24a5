//! Tasks that a policy places: where they may run, what data they use; and where they were placed.

use std::sync::Arc;

use parla_core::{Claim, DeviceId};
use parla_data::{Operand, Staged};
use parla_device::{Place, Stream};
use smallvec::SmallVec;

/// One way to run a task: one device, or several different ones together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The devices, at least one, all different.
    pub devices: SmallVec<[DeviceId; 1]>,
    /// What it holds of each of them: memory from its placement to its end, compute units while it runs.
    pub claims: SmallVec<[Claim; 1]>,
    /// Which of the body's variants runs there; 0 where there is only one.
    pub variant: u32,
}

/// When the dependents of a task whose body has returned go on, as long as its devices have not done all that it gave them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Runahead {
    /// At once, in the order of the streams, where their devices can do that; otherwise as for `Blocking`.
    #[default]
    NonBlocking,
    /// When the devices are done.
    Blocking,
    /// At once, and whoever uses the results synchronises.
    User,
}

/// Where a task may run and what data it uses.
#[derive(Clone, Debug)]
pub struct Placing {
    /// Its ways to run, at least one, in the user's order of preference.
    pub choices: Vec<Choice>,
    /// The arrays it uses; `slot` counts the devices of the choice.
    pub operands: Arc<[Operand]>,
    /// When its dependents go on.
    pub runahead: Runahead,
}

/// Where a task was placed.
#[derive(Debug)]
pub struct Assigned {
    /// Which of the choices.
    pub choice: usize,
    /// The devices.
    pub devices: SmallVec<[DeviceId; 1]>,
    /// One stream per device that has streams of its own; on it the body's work goes.
    pub streams: SmallVec<[Option<Arc<dyn Stream>>; 1]>,
    /// Which variant of the body runs.
    pub variant: u32,
    /// Its operands, in place.
    pub(crate) staged: Staged,
}

impl Assigned {
    /// For each operand, where the first element of its region is.
    #[must_use]
    pub fn places(&self) -> &[Place] {
        self.staged.places()
    }
}
