//! The package's exceptions, raised from Rust.

use pyo3::exceptions::PyBaseException;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyType;

macro_rules! exceptions {
    ($($(#[$doc:meta])* $name:ident = $class:literal;)*) => {$(
        $(#[$doc])*
        pub(crate) fn $name(py: Python<'_>, message: impl AsRef<str>) -> PyErr {
            static CELL: PyOnceLock<Py<PyType>> = PyOnceLock::new();
            match CELL.import(py, "parla.errors", $class) {
                Ok(class) => PyErr::from_type(class.clone(), (message.as_ref().to_owned(),)),
                Err(error) => error,
            }
        }
    )*};
}

exceptions! {
    /// A fault of the runtime itself.
    parla_error = "ParlaError";
    /// A bad argument of `spawn`.
    spawn_error = "SpawnError";
    /// Nothing can go on.
    deadlock_error = "DeadlockError";
    /// The task was cancelled.
    task_cancelled = "TaskCancelled";
    /// The task was cancelled since a dependency failed.
    dependency_failed = "DependencyFailed";
    /// Used outside a task or runtime.
    no_runtime = "InvalidSchedulerAccessException";
}

/// Adds a note to an exception (PEP 678; by hand before Python 3.11). An exception that takes none stays without.
pub(crate) fn add_note(exception: &Bound<'_, PyBaseException>, note: &str) {
    let added = if exception.hasattr("add_note").unwrap_or(false) {
        exception.call_method1("add_note", (note,)).map(drop)
    } else {
        let notes = exception.getattr("__notes__").or_else(|_| {
            let notes = pyo3::types::PyList::empty(exception.py()).into_any();
            exception.setattr("__notes__", &notes).map(|()| notes)
        });
        notes.and_then(|notes| notes.call_method1("append", (note,)).map(drop))
    };
    drop(added); // a note is a kindness; the exception itself must not be lost over it
}
