//! What a task depends on: resolved when it is spawned, kept as its user named it.

use std::sync::Arc;

use pyo3::PyTraverseError;
use pyo3::exceptions::PyTypeError;
use pyo3::gc::PyVisit;
use pyo3::prelude::*;

use super::{Resolved, Space, TaskID};
use crate::key::Key;
use crate::object;
use crate::python;
use crate::runtime::Rt;
use crate::task::Task;

/// What a task depends on, as its user named it, in little room and without an object that the garbage collector must look at.
pub(crate) enum Dependency {
    Task(Py<Task>),
    Id(Py<Space>, Key),
}

impl Dependency {
    /// The object that the user named.
    pub(crate) fn to_python(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        match self {
            Self::Task(task) => Ok(task.clone_ref(py).into_any()),
            Self::Id(space, key) => Ok(TaskID::object(space.bind(py), key.clone())?.unbind()),
        }
    }

    /// The task, if it is spawned.
    pub(crate) fn task(&self, py: Python<'_>) -> Option<Py<Task>> {
        match self {
            Self::Task(task) => Some(task.clone_ref(py)),
            Self::Id(space, key) => space.get().task(py, key),
        }
    }

    pub(crate) fn clone_ref(&self, py: Python<'_>) -> Self {
        match self {
            Self::Task(task) => Self::Task(task.clone_ref(py)),
            Self::Id(space, key) => Self::Id(space.clone_ref(py), key.clone()),
        }
    }

    pub(crate) fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        match self {
            Self::Task(task) => visit.call(task),
            Self::Id(space, _) => visit.call(space),
        }
    }
}

/// What an object means as a dependency.
pub(crate) enum Edge<'a, 'py> {
    /// A `TaskID`.
    Id(&'a TaskID, Resolved),
    /// A `Task`.
    Task(&'a Bound<'py, Task>, Resolved),
}

impl Edge<'_, '_> {
    pub(crate) fn resolved(&self) -> &Resolved {
        match self {
            Self::Id(_, resolved) | Self::Task(_, resolved) => resolved,
        }
    }

    /// What is kept of it.
    pub(crate) fn dependency(&self, py: Python<'_>) -> Dependency {
        match self {
            Self::Id(id, _) => Dependency::Id(id.space.clone_ref(py), id.key.clone()),
            Self::Task(task, _) => Dependency::Task((*task).clone().unbind()),
        }
    }
}

/// What names a task in dependencies and awaits, `Task` or `TaskID`, resolved; `None`: the object is neither.
pub(crate) fn edge_of<'a, 'py>(
    object: &'a Bound<'py, PyAny>,
    rt: &Arc<Rt>,
) -> PyResult<Option<Edge<'a, 'py>>> {
    let py = object.py();
    if let Some(id) = object::of::<TaskID>(object) {
        let resolved = id.space.get().resolve(py, &id.key, rt)?;
        return Ok(Some(Edge::Id(id, resolved)));
    }
    if let Ok(task) = object.cast::<Task>() {
        return Ok(Some(Edge::Task(task, task.get().resolve(py, rt)?)));
    }
    Ok(None)
}

/// A `TypeError` for something that should name a task.
pub(crate) fn not_a_task(object: &Bound<'_, PyAny>, argument: &str) -> PyErr {
    let kind = python::type_name(object);
    PyTypeError::new_err(format!(
        "{argument}: expected a Task, TaskID, TaskSpace, tasks(...) or an iterable of those, not {kind}"
    ))
}
