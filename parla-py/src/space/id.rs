//! `TaskID`: the name of one task.

use std::ffi::{c_int, c_void};
use std::hash::BuildHasher;
use std::sync::atomic::AtomicPtr;

use pyo3::exceptions::PyAttributeError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyString, PyTuple, PyType};
use rustc_hash::FxBuildHasher;

use super::Space;
use crate::awaiter::Awaiter;
use crate::key::Key;
use crate::object::{self, Getter, attribute, slot, value_of};
use crate::task::Task;

/// What an id has from its task, once there is one.
macro_rules! of_the_task {
    ($c_name:literal, $name:literal, $doc:literal) => {
        attribute(
            $c_name,
            &Getter(|id: &Self, py| id.attribute_of_the_task(py, $name)),
            $doc,
        )
    };
}

/// The name of one task: an index of a `TaskSpace`. Exists before and after the task does.
pub(crate) struct TaskID {
    pub(crate) space: Py<Space>,
    pub(crate) key: Key,
}

impl object::Value for TaskID {
    const TRACKED: bool = true;

    fn type_pointer() -> &'static AtomicPtr<ffi::PyTypeObject> {
        static TYPE: AtomicPtr<ffi::PyTypeObject> = AtomicPtr::new(std::ptr::null_mut());
        &TYPE
    }

    #[inline]
    fn release(self, py: Python<'_>) {
        self.space.drop_ref(py);
    }
}

impl TaskID {
    /// The Python object.
    #[inline]
    pub(crate) fn object<'py>(space: &Bound<'py, Space>, key: Key) -> PyResult<Bound<'py, PyAny>> {
        let id = Self {
            space: space.clone().unbind(),
            key,
        };
        object::new(space.py(), id)
    }

    /// The class, for the module that is imported.
    pub(crate) fn class(py: Python<'_>) -> PyResult<Bound<'_, PyType>> {
        let attributes = Box::leak(Box::new([
            attribute(
                c"task",
                &Getter(|id: &Self, py| Ok(id.task_once_spawned(py).into_pyobject(py)?.unbind())),
                c"The task spawned under this id, or None.",
            ),
            attribute(
                c"id",
                &Getter(|id: &Self, py| Ok(id.space.get().key_object(py, &id.key)?.unbind())),
                c"The index within the space: an integer, a string, another object, or a tuple of those.",
            ),
            attribute(
                c"space",
                &Getter(|id: &Self, py| Ok(id.space.clone_ref(py).into_any())),
                c"The space this id belongs to.",
            ),
            attribute(
                c"name",
                &Getter(|id: &Self, py| Ok(text(py, &id.name(py)?))),
                c"The space's name and the index, joined by underscores: ``T_0``.",
            ),
            attribute(
                c"full_name",
                &Getter(|id: &Self, py| Ok(text(py, &id.full_name(py)?))),
                c"The name together with the function the task runs, once it is spawned: ``T_0 (tasks_A)``.",
            ),
            of_the_task!(c"state", "state", c"The task's state."),
            of_the_task!(c"dependencies", "dependencies", c"What the task was told to wait for."),
            of_the_task!(c"wait", "wait", c"The task's method: ``T[0].wait(timeout)``."),
            of_the_task!(c"result", "result", c"The task's method: ``T[0].result(timeout)``."),
            of_the_task!(c"exception", "exception", c"The task's method: ``T[0].exception(timeout)``."),
            of_the_task!(c"cancel", "cancel", c"The task's method: ``T[0].cancel()``."),
            of_the_task!(c"done", "done", c"The task's method: ``T[0].done()``."),
            ffi::PyGetSetDef::default(),
        ]));
        let doc =
            c"The name of one task: an index of a `TaskSpace`. Exists before and after the task does.";
        let slots = vec![
            slot(ffi::Py_tp_doc, doc.as_ptr().cast_mut().cast()),
            slot(ffi::Py_tp_getset, attributes.as_mut_ptr().cast()),
            slot(ffi::Py_tp_traverse, traverse as *mut c_void),
            slot(ffi::Py_tp_repr, repr as *mut c_void),
            slot(ffi::Py_tp_hash, hash as *mut c_void),
            slot(ffi::Py_tp_richcompare, compare as *mut c_void),
            slot(ffi::Py_am_await, wait as *mut c_void),
        ];
        // SAFETY: the functions below have the signatures of their slots; the table of attributes is leaked.
        unsafe { object::make_type::<Self>(py, c"parla.TaskID", 0, slots) }
    }

    pub(crate) fn task(&self, py: Python<'_>) -> Option<Py<Task>> {
        self.space.get().task(py, &self.key)
    }

    /// See [`Space::task_once_spawned`].
    fn task_once_spawned(&self, py: Python<'_>) -> Option<Py<Task>> {
        self.space.get().task_once_spawned(py, &self.key)
    }

    /// An attribute of the task, for programs of version 0.3, where the index of a space is the task itself.
    fn attribute_of_the_task(&self, py: Python<'_>, name: &str) -> PyResult<Py<PyAny>> {
        match self.task_once_spawned(py) {
            Some(task) => task.getattr(py, name),
            None => Err(PyAttributeError::new_err(format!(
                "{} is not spawned yet: it has no {name}",
                self.name(py)?
            ))),
        }
    }

    fn name(&self, py: Python<'_>) -> PyResult<String> {
        let object = self.space.get().key_object(py, &self.key)?;
        let parts = match object.cast_into::<PyTuple>() {
            Ok(parts) => parts
                .iter()
                .map(|part| part.str().map(|s| s.to_string()))
                .collect::<PyResult<Vec<_>>>()?
                .join("_"),
            Err(error) => error.into_inner().str()?.to_string(),
        };
        Ok(format!("{}_{parts}", self.space.get().name))
    }

    fn full_name(&self, py: Python<'_>) -> PyResult<String> {
        match self.task(py) {
            Some(task) => Ok(task.get().label(py)),
            None => self.name(py),
        }
    }
}

impl PartialEq for TaskID {
    fn eq(&self, other: &Self) -> bool {
        self.space.is(&other.space) && self.key == other.key
    }
}

fn text(py: Python<'_>, text: &str) -> Py<PyAny> {
    PyString::new(py, text).into_any().unbind()
}

unsafe extern "C" fn repr(id: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: called by the interpreter: attached, with an id.
    unsafe {
        object::enter(|py| {
            let id: &TaskID = value_of(id);
            Ok(text(py, &format!("TaskID({})", id.name(py)?)))
        })
    }
}

unsafe extern "C" fn hash(id: *mut ffi::PyObject) -> ffi::Py_hash_t {
    // SAFETY: called by the interpreter with an id.
    let id: &TaskID = unsafe { value_of(id) };
    let hash = FxBuildHasher.hash_one((id.space.as_ptr().addr(), &id.key));
    // -1 says that there is an error.
    match isize::from_ne_bytes(hash.to_ne_bytes()) {
        -1 => -2,
        hash => hash,
    }
}

unsafe extern "C" fn compare(
    id: *mut ffi::PyObject,
    other: *mut ffi::PyObject,
    operation: c_int,
) -> *mut ffi::PyObject {
    // SAFETY: called by the interpreter: attached, with an id and a live object; the result is a new reference.
    unsafe {
        let py = Python::assume_attached();
        let id: &TaskID = value_of(id);
        let other = Bound::from_borrowed_ptr(py, other);
        let is_equal = object::of::<TaskID>(&other) == Some(id);
        match operation {
            ffi::Py_EQ => PyBool::new(py, is_equal).to_owned().into_ptr(),
            ffi::Py_NE => PyBool::new(py, !is_equal).to_owned().into_ptr(),
            _ => py.NotImplemented().into_ptr(),
        }
    }
}

unsafe extern "C" fn wait(id: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: called by the interpreter: attached, with a live object.
    unsafe {
        object::enter(|py| Awaiter::of_one(Bound::from_borrowed_ptr(py, id)).map(Bound::unbind))
    }
}

unsafe extern "C" fn traverse(
    id: *mut ffi::PyObject,
    visit: ffi::visitproc,
    arg: *mut c_void,
) -> c_int {
    // SAFETY: called by the collector with an id and a function that takes live objects: its type and its space.
    unsafe {
        match visit(ffi::Py_TYPE(id).cast(), arg) {
            0 => visit(value_of::<TaskID>(id).space.as_ptr(), arg),
            stop => stop,
        }
    }
}
