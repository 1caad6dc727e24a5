//! The package's exceptions, raised from Rust.

use parla_data::{DataError, Operand};
use parla_device::DeviceError;
use parla_sched::PlacingError;
use pyo3::exceptions::{PyBaseException, PyRuntimeError, PyValueError};
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
    /// No device can run the task.
    placement_error = "PlacementError";
    /// A policy decided something impossible.
    policy_error = "PolicyError";
    /// A device refused or failed.
    device_error = "DeviceError";
    /// A memory is full.
    device_out_of_memory = "DeviceOutOfMemory";
}

/// What a device said.
pub(crate) fn device(py: Python<'_>, error: &DeviceError) -> PyErr {
    let text = error.to_string();
    match *error {
        DeviceError::OutOfMemory {
            requested,
            free,
            total,
            ..
        } => out_of_memory(py, &text, requested, free, total),
        DeviceError::Lost { .. } | DeviceError::Driver { .. } | DeviceError::Bind { .. } => {
            device_error(py, text)
        }
        // The others are requests of the user that make no sense.
        _ => PyValueError::new_err(text),
    }
}

/// Why data is not where it is wanted.
pub(crate) fn data(py: Python<'_>, error: &DataError) -> PyErr {
    match error {
        DataError::Device(error) => device(py, error),
        DataError::TooLarge {
            needed, capacity, ..
        } => out_of_memory(py, &error.to_string(), *needed, *capacity, *capacity),
        DataError::OutOfMemory {
            requested,
            free,
            capacity,
            ..
        } => out_of_memory(py, &error.to_string(), *requested, *free, *capacity),
        DataError::Reserved {
            requested,
            held,
            in_use,
            capacity,
            ..
        } => {
            let free = capacity.saturating_sub(held.saturating_add(*in_use));
            let error = out_of_memory(py, &error.to_string(), *requested, free, *capacity);
            let _ = error.value(py).setattr("held", *held);
            error
        }
        _ => parla_error(py, error.to_string()),
    }
}

/// Why a task cannot be placed.
pub(crate) fn placing(py: Python<'_>, error: &PlacingError) -> PyErr {
    match error {
        PlacingError::Data(error) => data(py, error),
        PlacingError::Policy { .. } => policy_error(py, error.to_string()),
        _ => placement_error(py, error.to_string()),
    }
}

fn out_of_memory(py: Python<'_>, text: &str, requested: u64, free: u64, total: u64) -> PyErr {
    let error = device_out_of_memory(py, text);
    for (name, bytes) in [("requested", requested), ("free", free), ("total", total)] {
        // The text has the numbers, too; an error that takes no attributes stays as it is.
        let _ = error.value(py).setattr(name, bytes);
    }
    error
}

/// Whether a check found that a body has changed an input.
pub(crate) fn is_input_error(error: &PyErr, py: Python<'_>) -> bool {
    static CELL: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    let class = CELL.import(py, "parla.errors", "InputError");
    class.is_ok_and(|class| error.get_type(py).is(class))
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

/// What to do about an exception of another library whose text doesn't tell a body that runs in a task; `operands`: the task's.
pub(crate) fn advice(error: &Bound<'_, PyBaseException>, operands: &[Operand]) -> Option<String> {
    let is = |text: &str| error.str().is_ok_and(|found| found == text);
    if error.is_instance_of::<PyValueError>() && !operands.is_empty() {
        let read_only =
            is("assignment destination is read-only") || is("output array is read-only");
        let inputs: Vec<_> = operands
            .iter()
            .filter(|operand| !operand.access.writes())
            .map(|operand| format!("{}{}", operand.array.name(), operand.region))
            .collect();
        return (read_only && !inputs.is_empty()).then(|| {
            format!(
                "what a task names as input is read-only in it, here {}: name it as inout (or output) to write it",
                inputs.join(", ")
            )
        });
    }
    if error.is_instance_of::<PyRuntimeError>() && is("no running event loop") {
        let advice = "a task is not driven by asyncio: it can await tasks; what asyncio awaits runs in a loop of its own (asyncio.run)";
        return Some(advice.to_owned());
    }
    None
}
