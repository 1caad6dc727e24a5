//! `Reservation`: memory of a device that a program has set aside for itself.

use std::sync::{Arc, Weak};

use parla_core::lock::Mutex;
use parla_sched::Reservation as Reserved;
use pyo3::prelude::*;

use super::{Rt, current};
use crate::executor::PyExecutor;
use crate::{errors, machine};

/// Memory of a device that tasks and their arrays cannot have. Given back by `release`, at the end of a ``with`` block, when nobody has it any more,
/// and when the runtime ends.
#[pyclass(frozen, weakref, module = "parla._native")]
pub(crate) struct Reservation {
    #[pyo3(get)]
    device: u32,
    #[pyo3(get)]
    amount: u64,
    rt: Weak<Rt>,
    held: Mutex<Option<Reserved<PyExecutor>>>,
}

/// Set `amount` bytes of a device (by its number) aside in the runtime that this thread is in.
///
/// Raises:
///     DeviceOutOfMemory: there are not so many bytes that nobody uses; with `requested`, `free`, `held` and `total`.
///     NoRuntimeError: no runtime is open.
#[pyfunction]
pub(crate) fn reserve(py: Python<'_>, device: u32, amount: u64) -> PyResult<Reservation> {
    let rt = current(py)?;
    let machine = machine::current(py)?;
    let (id, _) = machine::device(&machine, device)?;
    let held = py
        .detach(|| {
            let held = rt.reserve(id, amount)?;
            // Other libraries take it from the system.
            machine.device(id).release_unused();
            Ok(held)
        })
        .map_err(|error| errors::data(py, &error))?;
    Ok(Reservation {
        device,
        amount,
        rt: Arc::downgrade(&rt),
        held: Mutex::new(Some(held)),
    })
}

#[pymethods]
impl Reservation {
    /// Whether the memory was given back.
    #[getter]
    fn released(&self) -> bool {
        let open = self.rt.upgrade().is_some_and(|rt| !rt.is_closed());
        !open || self.held.lock().is_none()
    }

    /// Give the memory back. Does nothing if it was given back before.
    fn release(&self, py: Python<'_>) {
        let held = self.held.lock().take();
        // Others may go on: that takes locks.
        py.detach(|| drop(held));
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if let Some(held) = self.held.get_mut().take() {
            Python::attach(|py| py.detach(|| drop(held)));
        }
    }
}
