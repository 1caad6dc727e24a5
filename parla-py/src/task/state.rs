//! The state of a task, as an object.

use pyo3::prelude::*;

/// Where a task is in its life.
#[pyclass(frozen, eq, hash, module = "parla")]
#[derive(PartialEq, Eq, Hash)]
pub(crate) struct TaskState {
    pub(super) name: &'static str,
}

#[pymethods]
impl TaskState {
    /// "waiting" (for other tasks), "ready", "staging" (its devices are chosen, its data is brought there), "placed" (its data is there; it waits for
    /// compute units or a worker), "running", "suspended" (in the middle of its body), "draining" (its body is over, its devices are still at
    /// work), "done", "failed" or "cancelled".
    #[getter]
    fn name(&self) -> &'static str {
        self.name
    }

    /// Whether the task has ended, well or not.
    #[getter]
    fn is_terminal(&self) -> bool {
        matches!(self.name, "done" | "failed" | "cancelled")
    }

    fn __repr__(&self) -> String {
        format!("<TaskState {}>", self.name)
    }

    fn __str__(&self) -> &'static str {
        self.name
    }
}
