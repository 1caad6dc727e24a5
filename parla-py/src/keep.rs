//! Python objects whose memory Rust uses: kept alive, and dropped where that is safe.
//!
//! The last user of an array's memory may be a copy that ends on a thread without the GIL, or code that holds a lock of the store. Dropping
//! the Python object there could block or run a destructor of the user under that lock. So it is put aside, and dropped by
//! the next call of ours that may run Python, or by the interpreter's main thread, whichever comes first.

use std::ffi::{c_int, c_void};

use parla_core::lock::Mutex;
use pyo3::PyTraverseError;
use pyo3::ffi;
use pyo3::gc::PyVisit;
use pyo3::prelude::*;

use crate::python;

/// A Python object that something outside Python needs. May be dropped anywhere.
pub(crate) struct Kept(Option<Py<PyAny>>);

/// Objects nobody needs any more, to be dropped with the GIL and without a lock.
static ASIDE: Mutex<Vec<Py<PyAny>>> = Mutex::new(Vec::new());

impl Kept {
    pub(crate) fn new(object: Py<PyAny>) -> Self {
        Self(Some(object))
    }

    pub(crate) fn get<'py>(&self, py: Python<'py>) -> Option<&Bound<'py, PyAny>> {
        self.0.as_ref().map(|object| object.bind(py))
    }

    /// For the garbage collector: of the one Python object that owns this.
    pub(crate) fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.0)
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        let Some(object) = self.0.take() else { return };
        if python::is_finalizing() {
            std::mem::forget(object); // the process takes it along
            return;
        }
        let is_first = {
            let mut aside = ASIDE.lock();
            aside.push(object);
            aside.len() == 1
        };
        if is_first {
            // SAFETY: may be called from any thread, with or without the GIL; the function given lives as long as the process. If the
            // interpreter's list is full, the next call of ours that drains does it.
            unsafe { ffi::Py_AddPendingCall(Some(drain_pending), std::ptr::null_mut()) };
        }
    }
}

/// Called by the interpreter between two instructions of its main thread.
extern "C" fn drain_pending(_: *mut c_void) -> c_int {
    // Already attached: this takes no lock and cannot fail. Finalizing interpreters refuse, and then nothing needs to be done.
    Python::try_attach(drain);
    0
}

/// Drops what was put aside. Call it attached, with no lock held.
pub(crate) fn drain(_py: Python<'_>) {
    loop {
        let objects = {
            let mut aside = ASIDE.lock();
            if aside.is_empty() {
                return;
            }
            std::mem::take(&mut *aside)
        };
        drop(objects);
    }
}

/// Drains when it is dropped, after the fields before it: for objects of Python, which are dropped attached and without a lock.
pub(crate) struct DrainLast;

impl Drop for DrainLast {
    fn drop(&mut self) {
        Python::try_attach(drain);
    }
}
