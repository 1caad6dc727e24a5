//! A part of an array that a task uses.

use parla_core::{Access, Region};

use crate::{Array, DataEvent};

/// A part of an array that a task uses on one of its devices.
#[derive(Clone, Debug)]
pub struct Operand {
    /// The array.
    pub array: Array,
    /// The box of elements; for strided or fancy slices the smallest box that contains them.
    pub region: Region,
    /// What the task does with it.
    pub access: Access,
    /// Whether the task uses every element of the box. If not, an [`Access::Output`] must leave the others as they are, so the old contents are fetched.
    pub exact: bool,
    /// Which of the task's devices uses it, from 0.
    pub slot: usize,
}

impl Operand {
    /// For the record.
    pub(crate) fn asked(&self, again: bool) -> DataEvent {
        DataEvent::Asked {
            access: self.access,
            exact: self.exact,
            again,
        }
    }

    /// Whether the old contents have to be there.
    #[must_use]
    pub fn fetches(&self) -> bool {
        self.access.reads() || !self.exact
    }
}
