//! Python objects of types that are made without PyO3's classes: for those of which every task makes some.
//!
//! Making and freeing one costs a third of what it costs with a `#[pyclass]`, which asks its type for its functions each time, clears
//! memory that is then written, and counts attachments. Only the C API's documented parts are used.

use std::ffi::{CStr, c_int, c_uint, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicPtr, Ordering};

use parla_sched::native::panic_text;
use pyo3::exceptions::PySystemError;
use pyo3::ffi;
use pyo3::panic::PanicException;
use pyo3::prelude::*;
use pyo3::types::PyType;

/// What is in such an object. Its type is final and cannot be called.
pub(crate) trait Value: Sized + Send + Sync + 'static {
    /// The collector of garbage looks at its objects.
    const TRACKED: bool;

    /// Where its type is kept, for good.
    fn type_pointer() -> &'static AtomicPtr<ffi::PyTypeObject>;

    /// Gives up what it holds. PyO3 does not know here that the thread is attached: what is dropped otherwise is only freed later.
    fn release(self, py: Python<'_>);
}

#[repr(C)]
pub(crate) struct Object<T> {
    head: ffi::PyObject,
    pub(crate) value: T,
}

/// The attribute of an object that is worked out from its value.
pub(crate) struct Getter<T>(pub(crate) fn(&T, Python<'_>) -> PyResult<Py<PyAny>>);

/// An entry of a type's table of functions.
pub(crate) fn slot(slot: c_int, function: *mut c_void) -> ffi::PyType_Slot {
    ffi::PyType_Slot {
        slot,
        pfunc: function,
    }
}

/// An entry of a type's table of attributes.
pub(crate) fn attribute<T: Value>(
    name: &'static CStr,
    getter: &'static Getter<T>,
    doc: &'static CStr,
) -> ffi::PyGetSetDef {
    ffi::PyGetSetDef {
        name: name.as_ptr(),
        get: Some(get::<T>),
        set: None,
        doc: doc.as_ptr(),
        closure: std::ptr::from_ref(getter).cast_mut().cast(),
    }
}

/// Makes the type of `T`'s objects, once.
///
/// # Safety
/// Each of `slots` has the signature that its number stands for and takes objects of `T`; tables that they point to are never freed.
pub(crate) unsafe fn make_type<'py, T: Value>(
    py: Python<'py>,
    name: &'static CStr,
    flags: std::ffi::c_ulong,
    mut slots: Vec<ffi::PyType_Slot>,
) -> PyResult<Bound<'py, PyType>> {
    slots.push(slot(ffi::Py_tp_dealloc, dealloc::<T> as *mut c_void));
    slots.push(ffi::PyType_Slot::default());
    let mut flags =
        flags | ffi::Py_TPFLAGS_DEFAULT | FINAL | ffi::Py_TPFLAGS_DISALLOW_INSTANTIATION;
    if T::TRACKED {
        flags |= ffi::Py_TPFLAGS_HAVE_GC;
    }
    let too_large = |_| PySystemError::new_err("a type that does not fit its description");
    let mut spec = ffi::PyType_Spec {
        name: name.as_ptr(),
        basicsize: c_int::try_from(size_of::<Object<T>>()).map_err(too_large)?,
        itemsize: 0,
        flags: c_uint::try_from(flags).map_err(too_large)?,
        slots: slots.as_mut_ptr(),
    };
    // SAFETY: attached; `spec` is complete, its table ends with zeros and is copied; the rest is the caller's promise. A new reference or null.
    let made = unsafe { Bound::from_owned_ptr_or_err(py, ffi::PyType_FromSpec(&raw mut spec)) }?;
    let made = made.cast_into::<PyType>()?;
    // Kept for good, as PyO3 does with its types.
    T::type_pointer().store(made.clone().into_ptr().cast(), Ordering::Release);
    Ok(made)
}

/// Cannot be changed from Python, so that its functions stay those it was made with.
const FINAL: std::ffi::c_ulong = ffi::Py_TPFLAGS_IMMUTABLETYPE;

/// An object with this value.
pub(crate) fn new<T: Value>(py: Python<'_>, value: T) -> PyResult<Bound<'_, PyAny>> {
    let kind = T::type_pointer().load(Ordering::Relaxed);
    // SAFETY: attached; the type is there since the module was imported and has the size of an `Object<T>`. A new object, whose head is
    // written, or null; the value is written before anybody can see it.
    unsafe {
        let object: *mut Object<T> = if T::TRACKED {
            ffi::PyObject_GC_New(kind)
        } else {
            ffi::PyObject_New(kind)
        };
        if object.is_null() {
            value.release(py);
            return Err(PyErr::fetch(py));
        }
        (&raw mut (*object).value).write(value);
        if T::TRACKED {
            ffi::PyObject_GC_Track(object.cast());
        }
        Ok(Bound::from_owned_ptr(py, object.cast()))
    }
}

/// The value of an object, if it is one of `T`'s.
pub(crate) fn of<'a, T: Value>(object: &'a Bound<'_, PyAny>) -> Option<&'a T> {
    let kind = T::type_pointer().load(Ordering::Relaxed);
    // SAFETY: a live object, which is an `Object<T>` if it is of that type, and whose value nobody changes.
    unsafe {
        let object = object.as_ptr();
        (ffi::Py_TYPE(object) == kind).then(|| value_of(object))
    }
}

/// The value of an object that the interpreter hands to a function of its type.
///
/// # Safety
/// `object` is an `Object<T>` that lives as long as the reference is used.
pub(crate) unsafe fn value_of<'a, T: Value>(object: *mut ffi::PyObject) -> &'a T {
    // SAFETY: the caller's promise; values are never changed.
    unsafe { &(*object.cast::<Object<T>>()).value }
}

/// Runs a function that the interpreter has called: an error or a panic becomes the exception that is set.
///
/// # Safety
/// This thread is attached.
pub(crate) unsafe fn enter(
    f: impl FnOnce(Python<'_>) -> PyResult<Py<PyAny>>,
) -> *mut ffi::PyObject {
    let run = |py: Python<'_>| {
        let error = match catch_unwind(AssertUnwindSafe(|| f(py))) {
            Ok(Ok(result)) => return result.into_ptr(),
            Ok(Err(error)) => error,
            Err(panic) => PanicException::new_err(panic_text(&*panic).to_owned()),
        };
        error.restore(py);
        std::ptr::null_mut()
    };
    // SAFETY: the caller's promise.
    unsafe { Python::attach_unchecked(run) }
}

unsafe extern "C" fn get<T: Value>(
    object: *mut ffi::PyObject,
    getter: *mut c_void,
) -> *mut ffi::PyObject {
    // SAFETY: the interpreter calls this attached, with an object of the type and the getter of its table (see `attribute`).
    unsafe {
        let getter = &*getter.cast::<Getter<T>>();
        enter(|py| (getter.0)(value_of(object), py))
    }
}

unsafe extern "C" fn dealloc<T: Value>(object: *mut ffi::PyObject) {
    // SAFETY: the interpreter calls this attached, once, with an object of the type that nobody refers to any more. Its value is moved out
    // before its memory goes, and with it its reference to its type.
    unsafe {
        let kind = ffi::Py_TYPE(object);
        if T::TRACKED {
            ffi::PyObject_GC_UnTrack(object.cast());
        }
        let value = (&raw const (*object.cast::<Object<T>>()).value).read();
        value.release(Python::assume_attached());
        if T::TRACKED {
            ffi::PyObject_GC_Del(object.cast());
        } else {
            ffi::PyObject_Free(object.cast());
        }
        ffi::Py_DECREF(kind.cast());
    }
}
