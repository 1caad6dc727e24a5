//! `TaskID`: the name of one task.

use std::hash::BuildHasher;

use pyo3::PyTraverseError;
use pyo3::gc::PyVisit;
use pyo3::prelude::*;
use pyo3::types::PyTuple;
use rustc_hash::FxBuildHasher;

use super::Space;
use crate::awaiter::Awaiter;
use crate::key::Key;
use crate::task::Task;

/// The name of one task: an index of a `TaskSpace`. Exists before and after the task does.
#[pyclass(frozen, module = "parla")]
pub(crate) struct TaskID {
    pub(crate) space: Py<Space>,
    pub(crate) key: Key,
}

#[pymethods]
impl TaskID {
    /// The task spawned under this id, or None.
    #[getter]
    fn task(&self, py: Python<'_>) -> Option<Py<Task>> {
        self.space.get().task(py, &self.key)
    }

    /// The index within the space: an integer, a string, another object, or a tuple of those.
    #[getter]
    fn id<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.space.get().key_object(py, &self.key)
    }

    /// The space this id belongs to.
    #[getter]
    fn space(&self, py: Python<'_>) -> Py<Space> {
        self.space.clone_ref(py)
    }

    /// The space's name and the index, joined by underscores: ``T_0``.
    #[getter]
    fn name(&self, py: Python<'_>) -> PyResult<String> {
        let object = self.space.get().key_object(py, &self.key)?;
        let parts = match object.cast_into::<PyTuple>() {
            Ok(parts) => parts
                .iter()
                .map(|part| part.str().map(|s| s.to_string()))
                .collect::<PyResult<Vec<_>>>()?
                .join("_"),
            Err(error) => error.into_inner().str()?.to_string(),
        };
        Ok(format!("{}_{parts}", self.space.get().name))
    }

    /// The name together with the function the task runs, once it is spawned: ``T_0 (tasks_A)``.
    #[getter]
    fn full_name(&self, py: Python<'_>) -> PyResult<String> {
        match self.task(py) {
            Some(task) => Ok(task.get().label(py)),
            None => self.name(py),
        }
    }

    fn __await__(slf: Bound<'_, Self>) -> PyResult<Bound<'_, PyAny>> {
        Awaiter::of_one(slf.into_any())
    }

    fn __eq__(&self, other: &Bound<'_, PyAny>) -> bool {
        other
            .cast::<Self>()
            .is_ok_and(|other| self.space.is(&other.get().space) && self.key == other.get().key)
    }

    fn __hash__(&self) -> isize {
        let hash = FxBuildHasher.hash_one((self.space.as_ptr().addr(), &self.key));
        isize::from_ne_bytes(hash.to_ne_bytes()).max(0)
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        Ok(format!("TaskID({})", self.name(py)?))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.space)
    }
}
