//! What the limited C API lacks, found at run time, and names imported once.
//!
//! Functions of CPython that make and take apart functions and cells are exported by every interpreter since 3.10 with the same signatures, but are not
//! part of the limited API. They are looked up by name; where one is missing (another interpreter), the same is
//! done through the `types` module, only slower.

use std::ffi::{CStr, c_void};
use std::sync::OnceLock;

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyString, PyType};

type Object = *mut ffi::PyObject;
type Get = unsafe extern "C" fn(Object) -> Object;
type Make2 = unsafe extern "C" fn(Object, Object) -> Object;
type Set = unsafe extern "C" fn(Object, Object) -> i32;

/// The looked-up functions. All follow CPython's documentation: `Get`s return borrowed references except `cell_get`.
pub(crate) struct Fast {
    pub(crate) cell_new: Get,
    /// New reference; null without an error for an empty cell.
    pub(crate) cell_get: Get,
    pub(crate) function_new: Make2,
    pub(crate) function_code: Get,
    pub(crate) function_globals: Get,
    pub(crate) function_closure: Get,
    pub(crate) function_defaults: Get,
    pub(crate) function_kw_defaults: Get,
    pub(crate) set_closure: Set,
    pub(crate) set_defaults: Set,
    /// `PyFrame_GetLasti` (3.11 and later): the offset of the instruction that a frame is at.
    pub(crate) frame_offset: Option<unsafe extern "C" fn(Object) -> i32>,
    pub(crate) contexts: Option<Contexts>,
    /// CPython up to 3.11: the thread state that holds the GIL, of whichever thread; null if it is free.
    pub(crate) gil_holder: Option<unsafe extern "C" fn() -> *mut c_void>,
}

/// Sets of context variables (PEP 567): public functions of CPython since 3.7.
pub(crate) struct Contexts {
    new: unsafe extern "C" fn() -> Object,
    enter: unsafe extern "C" fn(Object) -> i32,
    exit: unsafe extern "C" fn(Object) -> i32,
}

impl Contexts {
    pub(crate) fn new_empty(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        // SAFETY: attached; a new reference, or null with an error set.
        unsafe { Bound::from_owned_ptr_or_err(py, (self.new)()) }.map(Bound::unbind)
    }

    pub(crate) fn enter(&self, context: &Bound<'_, PyAny>) -> PyResult<()> {
        // SAFETY: attached; a context; -1 with an error set.
        if unsafe { (self.enter)(context.as_ptr()) } == 0 {
            Ok(())
        } else {
            Err(PyErr::fetch(context.py()))
        }
    }

    pub(crate) fn leave(&self, context: &Bound<'_, PyAny>) -> PyResult<()> {
        // SAFETY: attached; a context; -1 with an error set.
        if unsafe { (self.exit)(context.as_ptr()) } == 0 {
            Ok(())
        } else {
            Err(PyErr::fetch(context.py()))
        }
    }
}

/// The fast functions, if this interpreter has them all.
pub(crate) fn fast(py: Python<'_>) -> Option<&'static Fast> {
    static FAST: OnceLock<Option<Fast>> = OnceLock::new();
    FAST.get_or_init(|| find(py.version_info() < (3, 12)))
        .as_ref()
}

/// Whether the interpreter is on its way out. May be called without the GIL.
pub(crate) fn is_finalizing() -> bool {
    type IsFinalizing = unsafe extern "C" fn() -> i32;
    static FOUND: OnceLock<Option<IsFinalizing>> = OnceLock::new();
    let found = FOUND.get_or_init(|| {
        [c"Py_IsFinalizing", c"_Py_IsFinalizing"]
            .into_iter()
            .find_map(|name| {
                // SAFETY: a lookup by a valid C string in what the process has loaded; both take nothing and return an int.
                unsafe {
                    let found = libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr());
                    (!found.is_null())
                        .then(|| std::mem::transmute::<*mut c_void, IsFinalizing>(found))
                }
            })
    });
    // SAFETY: as above; the function only reads a flag.
    found.is_some_and(|is_finalizing| unsafe { is_finalizing() } != 0)
}

fn find(holder_is_global: bool) -> Option<Fast> {
    let look_up = |name: &CStr| {
        // SAFETY: a lookup by a valid C string in what the process has loaded.
        let found = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
        (!found.is_null()).then_some(found)
    };
    macro_rules! function {
        ($name:literal as $kind:ty) => {{
            let found = look_up($name)?;
            // SAFETY: the exported function of that name has had this signature in every CPython since 3.0.
            unsafe { std::mem::transmute::<*mut c_void, $kind>(found) }
        }};
    }
    let gil_holder = || {
        let found = look_up(c"_PyThreadState_UncheckedGet")?;
        // SAFETY: takes nothing and returns a pointer, in all versions.
        Some(unsafe {
            std::mem::transmute::<*mut c_void, unsafe extern "C" fn() -> *mut c_void>(found)
        })
    };
    let frame_offset = || {
        let found = look_up(c"PyFrame_GetLasti")?;
        // SAFETY: takes a frame and returns an int, since it exists.
        Some(unsafe {
            std::mem::transmute::<*mut c_void, unsafe extern "C" fn(Object) -> i32>(found)
        })
    };
    let contexts = || {
        Some(Contexts {
            new: function!(c"PyContext_New" as unsafe extern "C" fn() -> Object),
            enter: function!(c"PyContext_Enter" as unsafe extern "C" fn(Object) -> i32),
            exit: function!(c"PyContext_Exit" as unsafe extern "C" fn(Object) -> i32),
        })
    };
    Some(Fast {
        contexts: contexts(),
        frame_offset: frame_offset(),
        cell_new: function!(c"PyCell_New" as Get),
        cell_get: function!(c"PyCell_Get" as Get),
        function_new: function!(c"PyFunction_New" as Make2),
        function_code: function!(c"PyFunction_GetCode" as Get),
        function_globals: function!(c"PyFunction_GetGlobals" as Get),
        function_closure: function!(c"PyFunction_GetClosure" as Get),
        function_defaults: function!(c"PyFunction_GetDefaults" as Get),
        function_kw_defaults: function!(c"PyFunction_GetKwDefaults" as Get),
        set_closure: function!(c"PyFunction_SetClosure" as Set),
        set_defaults: function!(c"PyFunction_SetDefaults" as Set),
        gil_holder: if holder_is_global { gil_holder() } else { None },
    })
}

macro_rules! import {
    ($(#[$doc:meta])* $name:ident = $module:literal, $attr:literal) => {
        $(#[$doc])*
        pub(crate) fn $name(py: Python<'_>) -> PyResult<&Bound<'_, PyAny>> {
            static CELL: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
            let found = CELL.get_or_try_init(py, || py.import($module)?.getattr($attr).map(Bound::unbind))?;
            Ok(found.bind(py))
        }
    };
}

import!(/// `types.FunctionType`.
    function_type = "types", "FunctionType");
import!(/// `types.CellType`.
    cell_type = "types", "CellType");
import!(/// `parla.device.Architecture`.
    architecture = "parla.device", "Architecture");
import!(/// `parla.device.Device`.
    device = "parla.device", "Device");
import!(/// `parla.parray.PArray`.
    parray = "parla.parray", "PArray");
import!(/// `parla._placement.resolve`.
    resolve_placement = "parla._placement", "resolve");
import!(/// `parla._capture.rebound_globals`.
    rebound_globals = "parla._capture", "rebound_globals");
import!(/// `parla._capture.CapturedGlobals.make`.
    captured_globals = "parla._capture", "CapturedGlobals");
import!(/// `parla._spaces.select`: indices that are more than integers and strings.
    select = "parla._spaces", "select");
import!(/// `parla._asyncio.bridge`.
    asyncio_bridge = "parla._asyncio", "bridge");
import!(/// `asyncio._get_running_loop`; only once asyncio is imported.
    running_loop = "asyncio", "_get_running_loop");
import!(/// `parla._threads.snapshot`.
    thread_snapshot = "parla._threads", "snapshot");
import!(/// `parla._threads.may_still_spawn`.
    may_still_spawn = "parla._threads", "may_still_spawn");
import!(/// `parla.context._enter_devices`: sets the current devices and streams of the libraries that are imported.
    enter_devices = "parla.context", "_enter_devices");
import!(/// `parla.context._leave_devices`: undoes it.
    leave_devices = "parla.context", "_leave_devices");
import!(/// `parla.environments._choose`: the placement of a task with its environments.
    choose_environment = "parla.environments", "_choose");
import!(/// `parla.environments._enter`: enters the environment of the running task.
    enter_environment = "parla.environments", "_enter");
import!(/// `parla.environments._leave`: leaves it.
    leave_environment = "parla.environments", "_leave");
import!(/// `parla._inputs.Watch`: sees to it that a body leaves its inputs as they are.
    input_watch = "parla._inputs", "Watch");
import!(/// `numbers.Number`.
    number = "numbers", "Number");
import!(/// `collections.abc.Iterable`.
    iterable = "collections.abc", "Iterable");

/// Whether asyncio is imported and has a loop running in this thread.
pub(crate) fn in_asyncio(py: Python<'_>) -> PyResult<bool> {
    static MODULES: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let modules = MODULES.get_or_try_init(py, || {
        py.import("sys")?.getattr("modules").map(Bound::unbind)
    })?;
    if !modules.bind(py).contains(pyo3::intern!(py, "asyncio"))? {
        return Ok(false);
    }
    Ok(!running_loop(py)?.call0()?.is_none())
}

/// Whether `object` is exactly a Python function.
pub(crate) fn is_function(object: &Bound<'_, PyAny>) -> PyResult<bool> {
    let function: &Bound<'_, PyType> = function_type(object.py())?.cast()?;
    Ok(object.get_type().is(function))
}

/// Where the user's program called us: a code object and an offset in it; the line is worked out when somebody asks.
pub(crate) struct Origin {
    pub(crate) code: Option<Py<PyAny>>,
    offset: i32,
}

impl Origin {
    /// The innermost running Python frame.
    pub(crate) fn here(py: Python<'_>) -> Self {
        // SAFETY: attached; the frame is borrowed and alive while it runs; PyFrame_GetCode returns a new reference and never fails.
        unsafe {
            let frame = ffi::PyEval_GetFrame();
            if frame.is_null() {
                return Self {
                    code: None,
                    offset: -1,
                };
            }
            let code = Bound::from_owned_ptr(py, ffi::PyFrame_GetCode(frame).cast()).unbind();
            let offset = match fast(py).and_then(|fast| fast.frame_offset) {
                Some(frame_offset) => frame_offset(frame.cast()),
                None => {
                    let frame = Bound::from_borrowed_ptr(py, frame.cast());
                    frame
                        .getattr("f_lasti")
                        .and_then(|lasti| lasti.extract())
                        .unwrap_or(-1)
                }
            };
            Self {
                code: Some(code),
                offset,
            }
        }
    }

    pub(crate) fn clone_ref(&self, py: Python<'_>) -> Self {
        Self {
            code: self.code.as_ref().map(|code| code.clone_ref(py)),
            offset: self.offset,
        }
    }

    /// `file:line`.
    pub(crate) fn location(&self, py: Python<'_>) -> String {
        let unknown = || "an unknown place".to_owned();
        let Some(code) = &self.code else {
            return unknown();
        };
        let code = code.bind(py);
        let Ok(file) = code.getattr("co_filename") else {
            return unknown();
        };
        match self.line(code) {
            Ok(Some(line)) => format!("{}:{line}", text(&file)),
            _ => text(&file),
        }
    }

    fn line(&self, code: &Bound<'_, PyAny>) -> PyResult<Option<u32>> {
        for range in code.call_method0("co_lines")?.try_iter()? {
            let (start, end, line): (i32, i32, Option<u32>) = range?.extract()?;
            if (start..end).contains(&self.offset) {
                return Ok(line);
            }
        }
        Ok(None)
    }
}

/// What `str()` makes of an object that describes something: a name, a file.
///
/// Not `{object}`: CPython runs signal handlers in `PyObject_Str`, and PyO3's formatting drops what they raise. A string is not asked.
pub(crate) fn text(object: &Bound<'_, PyAny>) -> String {
    match object.cast::<PyString>() {
        Ok(text) => text.to_string_lossy().into_owned(),
        Err(_) => object.to_string(),
    }
}

/// What messages call an object of an unexpected type.
pub(crate) fn type_name(object: &Bound<'_, PyAny>) -> String {
    let name = object.get_type().name();
    name.map_or_else(|_| "?".to_owned(), |name| text(&name))
}

/// Calls a method for its effect; an error goes to `sys.unraisablehook`.
pub(crate) fn call_method_quietly(object: &Bound<'_, PyAny>, name: &str) {
    if let Err(error) = object.call_method0(name) {
        error.write_unraisable(object.py(), Some(object));
    }
}
