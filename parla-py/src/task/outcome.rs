//! How a task ended, and waiting for that.

use std::time::Duration;

use pyo3::exceptions::{PyBaseException, PyTimeoutError, PyTypeError, PyValueError};
use pyo3::ffi;
use pyo3::prelude::*;
use smallvec::SmallVec;

use super::Task;
use crate::{errors, python, runtime};

#[derive(Default)]
pub(crate) enum Outcome {
    #[default]
    Pending,
    Value(Py<PyAny>),
    Failed(Py<PyBaseException>),
    Cancelled {
        /// The task that failed or was cancelled first; itself or unknown: `None`.
        cause: Option<Py<Task>>,
        /// Made when first asked for.
        error: Option<Py<PyBaseException>>,
    },
}

impl Outcome {
    pub(super) fn is_pending(&self) -> bool {
        matches!(self, Self::Pending)
    }
}

impl Task {
    /// Ends the task; whatever it held is dropped outside the lock.
    pub(crate) fn end(slf: &Bound<'_, Self>, outcome: Outcome) {
        // SAFETY: as in `pending`; the fields may be visited from here on (the lock is not held). A task ends once, so it is not tracked yet.
        unsafe { ffi::PyObject_GC_Track(slf.as_ptr().cast()) };
        let mut core = slf.get().core.lock();
        let work = core.work.take();
        let dependencies = std::mem::take(&mut core.dependencies);
        let again = (core.again.take(), core.context.take());
        let scope = core.finish_scope.take();
        let uses = core.uses.take();
        core.outcome = outcome;
        drop(core);
        drop((work, dependencies, again, scope, uses));
    }

    /// The value, or the exception raised: for `await` and `result`. The task must have ended.
    pub(crate) fn value<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        if let Outcome::Value(value) = &slf.get().core.lock().outcome {
            return Ok(value.clone_ref(py).into_bound(py));
        }
        match Self::error(slf)? {
            Some(error) => Err(PyErr::from_value(error.into_any())),
            None => Err(errors::parla_error(
                py,
                format!("{} has not ended", slf.get().describe(py)),
            )),
        }
    }

    /// The exception that the task ended with. Whoever gets it has looked at it: it is not raised again at the end of the block.
    pub(crate) fn error<'py>(
        slf: &Bound<'py, Self>,
    ) -> PyResult<Option<Bound<'py, PyBaseException>>> {
        let py = slf.py();
        let this = slf.get();
        let cause = match &this.core.lock().outcome {
            Outcome::Pending | Outcome::Value(_) => return Ok(None),
            Outcome::Failed(error) => {
                let error = error.clone_ref(py);
                this.rt.executor().looked_at(this.id());
                return Ok(Some(error.into_bound(py)));
            }
            Outcome::Cancelled {
                error: Some(error), ..
            } => return Ok(Some(error.clone_ref(py).into_bound(py))),
            Outcome::Cancelled { cause, error: None } => {
                cause.as_ref().map(|cause| cause.clone_ref(py))
            }
        };
        let error = match cause {
            None => errors::task_cancelled(py, format!("{} was cancelled", this.describe(py))),
            Some(cause) => {
                let cause = cause.bind(py);
                let why = match cause.get().core.lock().outcome {
                    Outcome::Failed(_) => "failed",
                    _ => "was cancelled",
                };
                let text = format!(
                    "{} did not run: {}, which it depends on, {why}",
                    this.describe(py),
                    cause.get().describe(py)
                );
                let error = errors::dependency_failed(py, text);
                let root = match &cause.get().core.lock().outcome {
                    Outcome::Failed(root) => Some(root.clone_ref(py)),
                    _ => None,
                };
                error.set_cause(
                    py,
                    root.map(|root| PyErr::from_value(root.into_bound(py).into_any())),
                );
                error
            }
        };
        let mut made = Some(error.into_value(py));
        let first = match &mut this.core.lock().outcome {
            // From now on the same object every time.
            Outcome::Cancelled { error, .. } => {
                let first = error.get_or_insert_with(|| made.take().expect("it was made above"));
                Some(first.clone_ref(py))
            }
            _ => None,
        };
        drop(made); // another thread was faster
        Ok(first.map(|error| error.into_bound(py)))
    }

    /// Waits for the end.
    pub(crate) fn wait_end(slf: &Bound<'_, Self>, timeout: Option<Duration>) -> PyResult<()> {
        if Self::wait_ends(slf.py(), &[slf], timeout)? {
            return Ok(());
        }
        let seconds = timeout.unwrap_or_default().as_secs_f64();
        Err(PyTimeoutError::new_err(format!(
            "{} did not end within {seconds} s",
            slf.get().describe(slf.py())
        )))
    }

    /// Waits for the ends of several, in one wait. `false`: the time was over first.
    pub(crate) fn wait_ends(
        py: Python<'_>,
        tasks: &[&Bound<'_, Self>],
        timeout: Option<Duration>,
    ) -> PyResult<bool> {
        runtime::leave_inputs(py);
        let (done, open): (SmallVec<[&Bound<'_, Self>; 1]>, SmallVec<[_; 1]>) =
            tasks.iter().copied().partition(|task| task.get().is_done());
        let waited = runtime::wait_for(py, &open, timeout);
        // However the wait ended: meanwhile others may have changed the arrays of the task that runs here, or have had their memory.
        let renewed = if runtime::runs_a_placed_task() {
            runtime::renew_arrays(py)
        } else {
            Ok(())
        };
        if !waited? {
            return Ok(false);
        }
        for (tasks, recorded) in [(done, false), (open, true)] {
            for task in tasks {
                runtime::trace_waited(task.get(), recorded);
            }
        }
        renewed.map(|()| true)
    }
}

/// Seconds, or no limit.
pub(crate) fn parse_timeout(timeout: Option<&Bound<'_, PyAny>>) -> PyResult<Option<Duration>> {
    let Some(timeout) = timeout else {
        return Ok(None);
    };
    let number = timeout.extract::<f64>().map_err(|_| {
        let kind = python::type_name(timeout);
        PyTypeError::new_err(format!(
            "timeout is a number of seconds or None, not {kind}"
        ))
    })?;
    if number.is_nan() {
        return Err(PyValueError::new_err(
            "timeout is a number of seconds or None, not NaN",
        ));
    }
    // Longer than a clock can count is no limit.
    Ok(Duration::try_from_secs_f64(number.max(0.0))
        .ok()
        .filter(|t| t.as_secs() < 1 << 31))
}
