//! `Stream`: a task's queue of work on one of its devices.

use std::sync::Arc;

use parla_core::lock::Mutex;
use parla_device::Device;
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;

use crate::errors;
use crate::keep::{self, Kept};
use crate::python;

/// What Python functions raised that were launched on streams, oldest first.
#[derive(Clone, Default)]
pub(crate) struct KernelErrors(Arc<Mutex<Vec<PyErr>>>);

impl KernelErrors {
    /// The first, if there is one; the others become its notes.
    pub(crate) fn take(&self, py: Python<'_>) -> Option<PyErr> {
        let mut errors = std::mem::take(&mut *self.0.lock()).into_iter();
        let first = errors.next()?;
        for other in errors {
            let note = format!("another function launched by the task failed, too: {other}");
            errors::add_note(first.value(py), &note);
        }
        Some(first)
    }

    fn push(&self, error: PyErr) {
        self.0.lock().push(error);
    }
}

/// A queue of work for one device, done in order. A task has one per device that has streams.
#[pyclass(frozen, weakref, module = "parla._native")]
pub(crate) struct Stream {
    stream: Arc<dyn parla_device::Stream>,
    device: Arc<dyn Device>,
    errors: KernelErrors,
}

impl Stream {
    pub(crate) fn new(
        stream: Arc<dyn parla_device::Stream>,
        device: Arc<dyn Device>,
        errors: KernelErrors,
    ) -> Self {
        Self {
            stream,
            device,
            errors,
        }
    }
}

#[pymethods]
impl Stream {
    /// The handle that the vendor's libraries know it by (CUDA's ``CUstream``), or None.
    #[getter]
    fn raw(&self) -> Option<usize> {
        self.stream.raw()
    }

    /// Wait until everything enqueued so far is done.
    ///
    /// Raises:
    ///     DeviceError: what went wrong on the device meanwhile.
    ///     Exception: what a function raised that was launched here.
    fn synchronize(&self, py: Python<'_>) -> PyResult<()> {
        py.detach(|| self.stream.synchronize())
            .map_err(|error| errors::device(py, &error))?;
        self.errors.take(py).map_or(Ok(()), Err)
    }

    /// Enqueue a function without arguments, which occupies the device while it runs, and for `busy_us` microseconds at least; with None instead of a
    /// function, for that time alone. The caller goes on at once. Real GPUs take no functions.
    ///
    /// Raises:
    ///     TypeError: `function` cannot be called.
    ///     ValueError: `busy_us` is negative or no number.
    ///     DeviceError: the device is lost, or a real GPU and there is a function.
    #[pyo3(signature = (function, busy_us = 0.0))]
    fn launch(
        &self,
        py: Python<'_>,
        function: Option<Bound<'_, PyAny>>,
        busy_us: f64,
    ) -> PyResult<()> {
        if !(0.0..1e15).contains(&busy_us) {
            return Err(PyValueError::new_err(format!(
                "busy_us: expected microseconds, 0 or more, not {busy_us}"
            )));
        }
        // In range: below 1e18.
        let busy_ns = (busy_us * 1e3) as u64;
        let Some(function) = function else {
            return py
                .detach(|| self.stream.occupy(busy_ns))
                .map_err(|error| errors::device(py, &error));
        };
        if self.device.stream_ordered() {
            return Err(errors::device_error(
                py,
                format!(
                    "{} takes kernels only; functions can be launched on simulated devices",
                    self.device.name()
                ),
            ));
        }
        if !function.is_callable() {
            return Err(PyTypeError::new_err(format!(
                "launch: expected a function or None, not {}",
                python::type_name(&function)
            )));
        }
        let kept = Kept::new(function.unbind());
        let errors = self.errors.clone();
        let kernel = Box::new(move || {
            // An interpreter that ends takes the function along, unrun.
            Python::try_attach(|py| {
                let called = kept.get(py).map(|function| function.call0());
                if let Some(Err(error)) = called {
                    errors.push(error);
                }
                drop(kept);
                keep::drain(py);
            });
        });
        py.detach(|| self.stream.launch(kernel, busy_ns))
            .map_err(|error| errors::device(py, &error))
    }

    /// Whether nothing is outstanding; may be out of date at once.
    ///
    /// Raises:
    ///     DeviceError: what went wrong on the device meanwhile.
    fn is_idle(&self, py: Python<'_>) -> PyResult<bool> {
        self.stream
            .is_idle()
            .map_err(|error| errors::device(py, &error))
    }

    fn __repr__(&self) -> String {
        format!("<Stream of {}>", self.device.name())
    }
}
