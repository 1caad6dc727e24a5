//! `await task`: what a task's coroutine hands to the runtime, and what it gets back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parla_core::TaskId;
use pyo3::PyTraverseError;
use pyo3::exceptions::{PyRuntimeError, PyStopIteration, PyTimeoutError};
use pyo3::gc::PyVisit;
use pyo3::prelude::*;

use crate::errors;
use crate::object;
use crate::python;
use crate::runtime::{self, Rt};
use crate::space::{Resolved, TaskID, edge_of};
use crate::task::{Task, parse_timeout};

/// So many tasks are named in an error.
const MOST_NAMES: usize = 8;

/// The iterator behind ``await`` of tasks: yields itself until they have ended.
#[pyclass(frozen, module = "parla._native")]
pub(crate) struct Awaiter {
    targets: Box<[Py<PyAny>]>,
    /// One task was awaited by itself: its value is the result.
    single: bool,
    /// It has given way once.
    gave_way: AtomicBool,
}

impl Awaiter {
    /// For `await task`: in a coroutine of asyncio a bridge to its loop, in a task's coroutine an `Awaiter`.
    pub(crate) fn of_one(target: Bound<'_, PyAny>) -> PyResult<Bound<'_, PyAny>> {
        let py = target.py();
        Self::make(
            py,
            Self {
                targets: Box::new([target.unbind()]),
                single: true,
                gave_way: AtomicBool::new(false),
            },
        )
    }

    fn make(py: Python<'_>, awaiter: Self) -> PyResult<Bound<'_, PyAny>> {
        let awaiter = Bound::new(py, awaiter)?;
        if python::in_asyncio(py)? {
            return python::asyncio_bridge(py)?.call1((awaiter,));
        }
        Ok(awaiter.into_any())
    }

    /// The graph's ids of what has not ended, and of the rest too: the graph knows which.
    pub(crate) fn ids(&self, py: Python<'_>, rt: &Arc<Rt>) -> PyResult<Vec<TaskId>> {
        let mut ids = Vec::with_capacity(self.targets.len());
        for target in &self.targets {
            let edge = edge_of(target.bind(py), rt)?;
            if let Some(Resolved::Edge(id)) = edge.as_ref().map(|edge| edge.resolved()) {
                ids.push(*id);
            }
        }
        Ok(ids)
    }

    fn tasks<'py>(
        &self,
        py: Python<'py>,
    ) -> impl Iterator<Item = (Option<Bound<'py, Task>>, bool)> {
        self.targets.iter().map(move |target| {
            let target = target.bind(py);
            match target.cast::<Task>() {
                Ok(task) => (Some(task.clone()), false),
                Err(_) => match object::of::<TaskID>(target) {
                    Some(id) => (
                        id.task(py).map(|task| task.into_bound(py)),
                        id.space.get().is_completed(),
                    ),
                    None => (None, true),
                },
            }
        })
    }

    /// The value; raises the (first) exception. All targets must have ended.
    fn value<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let mut value = py.None().into_bound(py);
        let mut failed = None;
        for (index, (task, completed)) in self.tasks(py).enumerate() {
            match task {
                Some(task) => match Task::value(&task) {
                    Ok(one) if self.single => value = one,
                    Ok(_) => {}
                    Err(error) => failed = failed.or(Some(error)), // and the others have been looked at, too
                },
                None if completed => {}
                None => {
                    let name = self.targets[index].bind(py).str()?;
                    failed = failed.or(Some(errors::task_cancelled(
                        py,
                        format!("{name} was never spawned"),
                    )));
                }
            }
        }
        failed.map_or(Ok(value), Err)
    }

    /// Records that who awaits has learnt of the end of it.
    fn trace(&self, py: Python<'_>) {
        for task in self.tasks(py).filter_map(|(task, _)| task) {
            runtime::trace_waited(task.get(), false);
        }
    }
}

#[pymethods]
impl Awaiter {
    /// For `await` of several: None, or the first exception among them.
    #[new]
    fn of_many(targets: Vec<Py<PyAny>>) -> Self {
        Self {
            targets: targets.into(),
            single: false,
            gave_way: AtomicBool::new(false),
        }
    }

    /// The awaited `Task` and `TaskID` objects.
    #[getter]
    fn targets(&self, py: Python<'_>) -> Vec<Py<PyAny>> {
        self.targets.iter().map(|t| t.clone_ref(py)).collect()
    }

    /// Whether one task was awaited by itself.
    #[getter]
    fn single(&self) -> bool {
        self.single
    }

    /// Whether asyncio drives the current coroutine; then the bridge to it, else this.
    fn _iterator(slf: Bound<'_, Self>) -> PyResult<Bound<'_, PyAny>> {
        let py = slf.py();
        if python::in_asyncio(py)? {
            return python::asyncio_bridge(py)?.call1((slf,));
        }
        Ok(slf.into_any())
    }

    /// Whether all targets have ended.
    fn _ended(&self, py: Python<'_>) -> bool {
        self.tasks(py)
            .all(|(task, completed)| task.map_or(completed, |task| task.get().is_done()))
    }

    /// The value, for who waited in a way of his own; raises the (first) exception. All targets must have ended.
    fn _value<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.trace(py);
        self.value(py)
    }

    /// Waits in plain code, in one wait, until all targets, which are spawned, have ended; raises the (first) exception. `timeout`: seconds for all of
    /// them together; `given`: what the user said, for the message.
    fn _wait(
        &self,
        py: Python<'_>,
        timeout: Option<&Bound<'_, PyAny>>,
        given: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let (timeout, given) = (parse_timeout(timeout)?, parse_timeout(given)?);
        let tasks: Vec<_> = self.tasks(py).filter_map(|(task, _)| task).collect();
        if Task::wait_ends(py, &tasks.iter().collect::<Vec<_>>(), timeout)? {
            return self.value(py).map(drop);
        }
        let late = tasks.iter().filter(|task| !task.get().is_done());
        let late: Vec<_> = late.map(|task| task.get().describe(py)).collect();
        let seconds = given.or(timeout).unwrap_or_default().as_secs_f64();
        let more = match late.len().saturating_sub(MOST_NAMES) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        Err(PyTimeoutError::new_err(format!(
            "{} of {} tasks did not end within {seconds} s: {}{more}",
            late.len(),
            tasks.len(),
            late[..late.len().min(MOST_NAMES)].join(", "),
        )))
    }

    fn __iter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __await__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __next__<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, Self>> {
        let this = slf.get();
        let py = slf.py();
        // Whoever was awaited may have changed the arrays of this task: these are brought anew while it is suspended, so it always is.
        let was_suspended = this.gave_way.swap(true, Ordering::Relaxed);
        if !was_suspended && runtime::runs_a_task_with_arrays() {
            return Ok(slf.clone());
        }
        let cancelled =
            |(task, completed): (Option<Bound<'_, Task>>, bool)| task.is_none() && !completed;
        if this._ended(py) || (runtime_has_ended_them(this, py) && this.tasks(py).any(cancelled)) {
            if !was_suspended {
                this.trace(py);
            }
            let value = this.value(py).map_err(|error| not_a_value(py, error))?;
            return Err(PyStopIteration::new_err((value.unbind(),)));
        }
        Ok(slf.clone())
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.targets
            .iter()
            .try_for_each(|target| visit.call(target))
    }
}

/// A task's `StopIteration` would look like the value of the `await`: as in a generator, it becomes a `RuntimeError`.
fn not_a_value(py: Python<'_>, error: PyErr) -> PyErr {
    if !error.is_instance_of::<PyStopIteration>(py) {
        return error;
    }
    let text = format!("the awaited task raised {error}");
    let raised = PyRuntimeError::new_err(text);
    raised.set_cause(py, Some(error));
    raised
}

/// Whether everything has ended as far as the graph knows: ids that were never spawned end when their runtime does.
fn runtime_has_ended_them(awaiter: &Awaiter, py: Python<'_>) -> bool {
    let Some(rt) = crate::runtime::of_this_thread() else {
        return false;
    };
    match awaiter.ids(py, &rt) {
        Ok(ids) => ids.into_iter().all(|id| rt.state(id).is_terminal()),
        Err(_) => true,
    }
}
