//! How the interpreter calls `spawn` and what that returns: the way that every task goes, without PyO3's classes and parsing of arguments.

use std::ffi::{CString, c_int, c_void};
use std::mem::offset_of;
use std::sync::OnceLock;
use std::sync::atomic::AtomicPtr;

use pyo3::exceptions::{PySystemError, PyTypeError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyType;

use super::{Request, spawn};
use crate::object::{self, Object, slot, value_of};
use crate::placed::Placed;
use crate::space::TaskID;

type Arguments = *const *mut ffi::PyObject;

/// What ``@spawn(...)`` makes: called with the body, it spawns the task.
pub(crate) struct Spawner {
    call: ffi::vectorcallfunc,
    request: Request,
}

/// `Py_TPFLAGS_HAVE_VECTORCALL`: the same in every CPython since 3.8, in the headers of the limited API since 3.12.
const HAVE_VECTORCALL: std::ffi::c_ulong = 1 << 11;

impl object::Value for Spawner {
    const TRACKED: bool = false;

    fn type_pointer() -> &'static AtomicPtr<ffi::PyTypeObject> {
        static TYPE: AtomicPtr<ffi::PyTypeObject> = AtomicPtr::new(std::ptr::null_mut());
        &TYPE
    }

    #[inline]
    fn release(self, py: Python<'_>) {
        self.request.release(py);
    }
}

impl Spawner {
    pub(super) fn object(py: Python<'_>, request: Request) -> PyResult<Bound<'_, PyAny>> {
        object::new(py, Self { call, request })
    }

    /// The class, for the module that is imported.
    pub(crate) fn class(py: Python<'_>) -> PyResult<Bound<'_, PyType>> {
        let offset = offset_of!(Object<Self>, value) + offset_of!(Self, call);
        let members = Box::leak(Box::new([
            ffi::PyMemberDef {
                name: c"__vectorcalloffset__".as_ptr(),
                type_code: ffi::Py_T_PYSSIZET,
                offset: offset.cast_signed(),
                flags: ffi::Py_READONLY,
                doc: std::ptr::null(),
            },
            ffi::PyMemberDef::default(),
        ]));
        let doc = c"What ``@spawn(...)`` makes: called with the body, it spawns the task.";
        let slots = vec![
            slot(ffi::Py_tp_doc, doc.as_ptr().cast_mut().cast()),
            slot(ffi::Py_tp_members, members.as_mut_ptr().cast()),
            slot(ffi::Py_tp_call, call_with_tuple as *mut c_void),
        ];
        // SAFETY: `call_with_tuple` has the signature of its slot, `call` that of the member; the table of members is leaked.
        unsafe { object::make_type::<Self>(py, c"parla._native.Spawner", HAVE_VECTORCALL, slots) }
    }
}

unsafe extern "C" fn call(
    spawner: *mut ffi::PyObject,
    arguments: Arguments,
    n: usize,
    keywords: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    /// `PY_VECTORCALL_ARGUMENTS_OFFSET`
    const OFFSET: usize = 1 << (usize::BITS - 1);
    // SAFETY: called by the interpreter: attached, with a spawner, `n` arguments and the values of `keywords` behind them.
    unsafe {
        object::enter(|py| {
            if n & !OFFSET != 1 || !(keywords.is_null() || ffi::PyTuple_Size(keywords) == 0) {
                return Err(one_body());
            }
            let body = Bound::from_borrowed_ptr(py, *arguments);
            let spawner: &Spawner = value_of(spawner);
            spawner.request.spawn(&body).map(Py::into_any)
        })
    }
}

unsafe extern "C" fn call_with_tuple(
    spawner: *mut ffi::PyObject,
    arguments: *mut ffi::PyObject,
    keywords: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: called by the interpreter: attached, with a spawner, a tuple and a dict or null.
    unsafe {
        let n = ffi::PyTuple_Size(arguments);
        if n != 1 || !(keywords.is_null() || ffi::PyDict_Size(keywords) == 0) {
            return object::enter(|_| Err(one_body()));
        }
        let body = ffi::PyTuple_GetItem(arguments, 0);
        call(spawner, &raw const body, 1, std::ptr::null_mut())
    }
}

fn one_body() -> PyErr {
    PyTypeError::new_err("spawn(...) is called with one argument, the body of the task")
}

/// The function that takes all arguments, as PyO3 makes it.
static COMPLETE: OnceLock<ffi::PyCFunctionFastWithKeywords> = OnceLock::new();

/// `spawn`, for the module that is imported: calls that give nothing but an id and dependencies take a shorter way.
pub(crate) fn function<'py>(module: &Bound<'py, PyModule>) -> PyResult<Bound<'py, PyAny>> {
    const FLAGS: c_int = ffi::METH_FASTCALL | ffi::METH_KEYWORDS;
    let py = module.py();
    let complete = pyo3::wrap_pyfunction!(spawn, module)?;
    let text = |name: &str| -> PyResult<String> { complete.getattr(name)?.extract() };
    // The C API keeps signatures in front of the text.
    let doc = format!(
        "spawn{}\n--\n\n{}",
        text("__text_signature__")?,
        text("__doc__")?
    );
    // SAFETY: attached; a builtin function. One with these flags has this signature. The description of the new one is leaked.
    unsafe {
        let found = ffi::PyCFunction_GetFunction(complete.as_ptr());
        let (Some(found), FLAGS) = (found, ffi::PyCFunction_GetFlags(complete.as_ptr())) else {
            return Err(PySystemError::new_err("spawn is not called as expected"));
        };
        COMPLETE.get_or_init(|| {
            std::mem::transmute::<ffi::PyCFunction, ffi::PyCFunctionFastWithKeywords>(found)
        });
        let description = Box::leak(Box::new(ffi::PyMethodDef {
            ml_name: c"spawn".as_ptr(),
            ml_meth: ffi::PyMethodDefPointer {
                PyCFunctionFastWithKeywords: spawn_briefly,
            },
            ml_flags: FLAGS,
            ml_doc: CString::new(doc)?.into_raw(),
        }));
        let made = ffi::PyCFunction_NewEx(description, module.as_ptr(), module.name()?.as_ptr());
        Bound::from_owned_ptr_or_err(py, made)
    }
}

unsafe extern "C" fn spawn_briefly(
    module: *mut ffi::PyObject,
    arguments: Arguments,
    n: isize,
    keywords: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: called by the interpreter: attached, with `n` arguments and the values of `keywords` behind them; the complete function
    // takes the same.
    unsafe {
        if keywords.is_null()
            && let Some(spawner) = brief(Python::assume_attached(), arguments, n)
        {
            return spawner.into_ptr();
        }
        let complete = COMPLETE.get().expect("set before this function is made");
        complete(module, arguments, n, keywords)
    }
}

/// The spawner for an id and dependencies, or neither; `None`: not that simple.
///
/// # Safety
/// There are `n` arguments, all alive.
unsafe fn brief(py: Python<'_>, arguments: Arguments, n: isize) -> Option<Bound<'_, PyAny>> {
    let argument = |i: isize| {
        // SAFETY: the caller's promise.
        let given = (i < n).then(|| unsafe { Bound::from_borrowed_ptr(py, *arguments.offset(i)) });
        given.filter(|argument| !argument.is_none())
    };
    if n > 2 {
        return None;
    }
    let (taskid, dependencies) = (argument(0), argument(1));
    if let Some(taskid) = &taskid {
        object::of::<TaskID>(taskid)?;
    }
    let request = Request::plain(
        Placed::known_default(py)?,
        taskid.map(Bound::unbind),
        dependencies.map(Bound::unbind),
    );
    Spawner::object(py, request).ok()
}
