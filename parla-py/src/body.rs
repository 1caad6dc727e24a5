//! What a task runs, taken by value at spawn.
//!
//! A closure's cells are read when it is spawned and put into new cells when it starts: the task has its own copy of each
//! variable, and while it is pending it costs one pointer per variable and no function object.

mod code;

use std::sync::Arc;

use pyo3::PyTraverseError;
use pyo3::exceptions::{PyNameError, PyTypeError, PyValueError};
use pyo3::ffi;
use pyo3::gc::PyVisit;
use pyo3::prelude::*;
use pyo3::types::{PyString, PyTuple};

use crate::python::{self, Fast};
pub(crate) use code::forget_codes;
use code::{info, kind};

/// What is to be run next for a task.
pub(crate) enum Work {
    /// Called without arguments.
    Call(Py<PyAny>),
    /// A function with its own copy of what it closes over.
    Captured(Box<Captured>),
    /// Sent `None`.
    Coroutine(Py<PyAny>),
}

/// A Python function taken apart.
pub(crate) struct Captured {
    code: Py<PyAny>,
    globals: Py<PyAny>,
    defaults: Option<Py<PyAny>>,
    kw_defaults: Option<Py<PyAny>>,
    /// Contents of the cells, in the order of `co_freevars`.
    values: Box<[Py<PyAny>]>,
}

/// A body as `spawn` accepted it.
pub(crate) struct Body {
    pub(crate) work: Work,
    /// Calling it gives a coroutine to be driven.
    pub(crate) is_coroutine: bool,
    pub(crate) name: Py<PyString>,
    /// Which code it runs, the same in every run of the program; `None` where that is not known.
    pub(crate) kind: Option<Arc<str>>,
}

impl Body {
    /// Checks what the user decorated and takes it by value.
    pub(crate) fn capture(body: &Bound<'_, PyAny>) -> PyResult<Self> {
        let py = body.py();
        if python::is_function(body)? {
            return match python::fast(py) {
                Some(fast) => Self::capture_function(body, &Parts::fast(fast, body)),
                None => Self::capture_function(body, &Parts::slow(body)?),
            };
        }
        // SAFETY: attached, a valid object.
        if unsafe { ffi::PyIter_Check(body.as_ptr()) } != 0 || body.hasattr("cr_code")? {
            return Self::capture_coroutine(body);
        }
        if !body.is_callable() {
            return Err(PyTypeError::new_err(format!(
                "a task's body is a function or a coroutine, not {}",
                python::type_name(body)
            )));
        }
        Self::capture_callable(body)
    }

    fn capture_function(function: &Bound<'_, PyAny>, parts: &Parts<'_>) -> PyResult<Self> {
        let py = function.py();
        let info = info(&parts.code)?;
        if info.n_args + info.n_kwonly > 0 {
            check_parameters(function)?;
        }
        let globals = if info.is_top_level && parts.closure.is_none() {
            info.capture_globals(parts)?
        } else {
            None
        };
        let name = info.name.clone_ref(py);
        let Some(closure) = &parts.closure else {
            let work = match globals {
                None => Work::Call(function.clone().unbind()),
                Some(globals) => Work::Captured(Box::new(Captured {
                    code: info.code.clone_ref(py),
                    globals,
                    defaults: parts.defaults.clone().map(Bound::unbind),
                    kw_defaults: parts.kw_defaults.clone().map(Bound::unbind),
                    values: Box::default(),
                })),
            };
            return Ok(Self {
                work,
                is_coroutine: info.is_coroutine,
                name,
                kind: Some(Arc::clone(&info.kind)),
            });
        };
        let cells = closure.cast::<PyTuple>()?;
        let mut values = Vec::with_capacity(cells.len());
        for (i, cell) in cells.iter_borrowed().enumerate() {
            match cell_contents(&cell)? {
                Some(value) => values.push(value.unbind()),
                None => {
                    let name = parts.code.getattr("co_freevars")?.get_item(i)?;
                    return Err(PyNameError::new_err(format!(
                        "variable '{name}' of the task's body is not assigned when the task is spawned; variables are captured by value at spawn"
                    )));
                }
            }
        }
        let captured = Captured {
            code: info.code.clone_ref(py),
            globals: parts.globals.clone().unbind(),
            defaults: parts.defaults.clone().map(Bound::unbind),
            kw_defaults: parts.kw_defaults.clone().map(Bound::unbind),
            values: values.into(),
        };
        let work = Work::Captured(Box::new(captured));
        Ok(Self {
            work,
            is_coroutine: info.is_coroutine,
            name,
            kind: Some(Arc::clone(&info.kind)),
        })
    }

    fn capture_coroutine(body: &Bound<'_, PyAny>) -> PyResult<Self> {
        let type_name = python::type_name(body);
        let Ok(code) = body.getattr("cr_code") else {
            return Err(PyTypeError::new_err(format!(
                "a task's body is a function or a coroutine, not {type_name}"
            )));
        };
        if body.hasattr("cr_frame")? && body.getattr("cr_frame")?.is_none() {
            return Err(PyValueError::new_err(
                "the coroutine given as a task's body has finished already",
            ));
        }
        let name = code.getattr("co_name")?.cast_into::<PyString>()?.unbind();
        Ok(Self {
            work: Work::Coroutine(body.clone().unbind()),
            is_coroutine: true,
            name,
            kind: Some(kind(&code)?.into()),
        })
    }

    /// Methods, partials, specialized functions, callable objects: called as they are.
    fn capture_callable(body: &Bound<'_, PyAny>) -> PyResult<Self> {
        check_parameters(body)?;
        let mut function = body.clone();
        for attribute in ["__wrapped__", "__func__", "func"] {
            if let Ok(inner) = function.getattr(attribute) {
                function = inner;
            }
        }
        let code = function
            .getattr("__code__")
            .or_else(|_| function.getattr("__call__")?.getattr("__code__"))
            .ok();
        let (is_coroutine, kind) = match &code {
            Some(code) if code.hasattr("co_flags")? => {
                let info = info(code)?;
                (info.is_coroutine, Some(Arc::clone(&info.kind)))
            }
            _ => (false, None),
        };
        let name = match body.getattr("__name__") {
            Ok(name) => name.str()?,
            Err(_) => function
                .getattr("__name__")
                .or_else(|_| body.get_type().name().map(Bound::into_any))?
                .str()?,
        };
        Ok(Self {
            work: Work::Call(body.clone().unbind()),
            is_coroutine,
            name: name.unbind(),
            kind,
        })
    }
}

/// A function's parts.
struct Parts<'py> {
    code: Bound<'py, PyAny>,
    globals: Bound<'py, PyAny>,
    closure: Option<Bound<'py, PyAny>>,
    defaults: Option<Bound<'py, PyAny>>,
    kw_defaults: Option<Bound<'py, PyAny>>,
}

impl<'py> Parts<'py> {
    fn fast(fast: &Fast, function: &Bound<'py, PyAny>) -> Self {
        let py = function.py();
        let get = |getter: unsafe extern "C" fn(*mut ffi::PyObject) -> *mut ffi::PyObject| {
            // SAFETY: `function` is exactly a function (checked by the caller); these getters return borrowed references or null.
            unsafe { Bound::from_borrowed_ptr_or_opt(py, getter(function.as_ptr())) }
        };
        let there = "a function has code and globals";
        Self {
            code: get(fast.function_code).expect(there),
            globals: get(fast.function_globals).expect(there),
            closure: get(fast.function_closure),
            defaults: get(fast.function_defaults),
            kw_defaults: get(fast.function_kw_defaults),
        }
    }

    fn slow(function: &Bound<'py, PyAny>) -> PyResult<Self> {
        let get = |name: &str| {
            function
                .getattr(name)
                .map(|value| (!value.is_none()).then_some(value))
        };
        Ok(Self {
            code: function.getattr("__code__")?,
            globals: function.getattr("__globals__")?,
            closure: get("__closure__")?,
            defaults: get("__defaults__")?,
            kw_defaults: get("__kwdefaults__")?,
        })
    }
}

fn cell_contents<'py>(cell: &Bound<'py, PyAny>) -> PyResult<Option<Bound<'py, PyAny>>> {
    let py = cell.py();
    match python::fast(py) {
        Some(fast) => {
            // SAFETY: members of a closure are cells; the result is a new reference, or null without an error for an empty cell.
            Ok(unsafe { Bound::from_owned_ptr_or_opt(py, (fast.cell_get)(cell.as_ptr())) })
        }
        None => match cell.getattr("cell_contents") {
            Ok(value) => Ok(Some(value)),
            Err(error) if error.is_instance_of::<PyValueError>(py) => Ok(None),
            Err(error) => Err(error),
        },
    }
}

impl Captured {
    /// Puts the function together again, with cells of its own.
    pub(crate) fn function<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        match python::fast(py) {
            Some(fast) => self.function_fast(py, fast),
            None => self.function_slow(py),
        }
    }

    fn function_fast<'py>(&self, py: Python<'py>, fast: &Fast) -> PyResult<Bound<'py, PyAny>> {
        // SAFETY: attached; all arguments are live objects of the documented types (code, dict, tuple of cells, tuple, dict);
        // new references are taken over by `Bound` at once, errors are fetched where null or -1 says so.
        unsafe {
            let function = Bound::from_owned_ptr_or_err(
                py,
                (fast.function_new)(self.code.as_ptr(), self.globals.as_ptr()),
            )?;
            if !self.values.is_empty() {
                let cells =
                    Bound::from_owned_ptr_or_err(py, ffi::PyTuple_New(self.values.len() as isize))?;
                for (i, value) in self.values.iter().enumerate() {
                    let cell = (fast.cell_new)(value.as_ptr());
                    if cell.is_null() || ffi::PyTuple_SetItem(cells.as_ptr(), i as isize, cell) != 0
                    {
                        return Err(PyErr::fetch(py));
                    }
                }
                check(py, (fast.set_closure)(function.as_ptr(), cells.as_ptr()))?;
            }
            if let Some(defaults) = &self.defaults {
                check(
                    py,
                    (fast.set_defaults)(function.as_ptr(), defaults.as_ptr()),
                )?;
            }
            if let Some(kw_defaults) = &self.kw_defaults {
                function.setattr("__kwdefaults__", kw_defaults)?;
            }
            Ok(function)
        }
    }

    fn function_slow<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let cells = self
            .values
            .iter()
            .map(|v| python::cell_type(py)?.call1((v,)))
            .collect::<PyResult<Vec<_>>>()?;
        let cells = if cells.is_empty() {
            None
        } else {
            Some(PyTuple::new(py, cells)?)
        };
        let function = python::function_type(py)?.call1((
            &self.code,
            &self.globals,
            py.None(),
            &self.defaults,
            cells,
        ))?;
        if let Some(kw_defaults) = &self.kw_defaults {
            function.setattr("__kwdefaults__", kw_defaults)?;
        }
        Ok(function)
    }

    fn clone_ref(&self, py: Python<'_>) -> Self {
        Self {
            code: self.code.clone_ref(py),
            globals: self.globals.clone_ref(py),
            defaults: self.defaults.as_ref().map(|d| d.clone_ref(py)),
            kw_defaults: self.kw_defaults.as_ref().map(|d| d.clone_ref(py)),
            values: self.values.iter().map(|v| v.clone_ref(py)).collect(),
        }
    }
}

fn check(py: Python<'_>, status: i32) -> PyResult<()> {
    if status == 0 {
        Ok(())
    } else {
        Err(PyErr::fetch(py))
    }
}

impl Work {
    /// The same once more, for a retry; a coroutine runs only once.
    pub(crate) fn again(&self, py: Python<'_>) -> Option<Self> {
        match self {
            Self::Call(callable) => Some(Self::Call(callable.clone_ref(py))),
            Self::Captured(captured) => Some(Self::Captured(Box::new(captured.clone_ref(py)))),
            Self::Coroutine(_) => None,
        }
    }

    pub(crate) fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        match self {
            Self::Call(object) | Self::Coroutine(object) => visit.call(object),
            Self::Captured(captured) => {
                visit.call(&captured.code)?;
                visit.call(&captured.globals)?;
                visit.call(&captured.defaults)?;
                visit.call(&captured.kw_defaults)?;
                captured
                    .values
                    .iter()
                    .try_for_each(|value| visit.call(value))
            }
        }
    }
}

/// Refuses a body that cannot be called without arguments, naming them.
fn check_parameters(body: &Bound<'_, PyAny>) -> PyResult<()> {
    let py = body.py();
    let inspect = py.import("inspect")?;
    let parameters = match inspect.call_method1("signature", (body,)) {
        Ok(signature) => signature.getattr("parameters")?.call_method0("values")?,
        // Builtins may have no signature to look at; calling them will tell.
        Err(error) if error.is_instance_of::<PyValueError>(py) => return Ok(()),
        Err(error) => return Err(error),
    };
    let empty = inspect.getattr("Parameter")?.getattr("empty")?;
    let mut required = Vec::new();
    for parameter in parameters.try_iter()? {
        let parameter = parameter?;
        let kind: u8 = parameter.getattr("kind")?.extract()?;
        let is_variadic = kind == 2 || kind == 4;
        if !is_variadic && parameter.getattr("default")?.is(&empty) {
            required.push(format!("'{}'", parameter.getattr("name")?));
        }
    }
    if required.is_empty() {
        return Ok(());
    }
    let name = body
        .getattr("__name__")
        .map_or_else(|_| "body".to_owned(), |n| n.to_string());
    Err(PyTypeError::new_err(format!(
        "a task's body is called without arguments, but '{name}' requires {}; give {} a default or capture the values",
        required.join(", "),
        if required.len() == 1 { "it" } else { "them" },
    )))
}
