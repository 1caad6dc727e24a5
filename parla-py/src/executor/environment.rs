//! Task environments: what is entered before each stretch of a body and left after it.

use pyo3::exceptions::PyBaseException;
use pyo3::prelude::*;

use super::Ran;
use crate::python;
use crate::task::Task;

/// Runs a stretch of a body inside the environment of its task, if it has one. That the environment fails is as if the body failed.
pub(super) fn around(py: Python<'_>, task: &Py<Task>, run: impl FnOnce() -> Ran) -> Ran {
    let enter = || python::enter_environment(py)?.call1((task,));
    let entered = match enter() {
        Ok(entered) => entered,
        Err(error) => return Ran::Failed(error),
    };
    if entered.is_none() {
        return run();
    }
    let ran = run();
    let error: Option<Bound<'_, PyBaseException>> = match &ran {
        Ran::Failed(error) => Some(error.value(py).clone()),
        _ => None,
    };
    match python::leave_environment(py).and_then(|leave| leave.call1((entered, error))) {
        Ok(_) => ran,
        // The body's own error says more.
        Err(_) if matches!(ran, Ran::Failed(_)) => ran,
        Err(error) => Ran::Failed(error),
    }
}
