//! What is known of the code of bodies, found out once for each.

use std::sync::Arc;

use parla_core::lock::Mutex;
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::PyString;
use rustc_hash::FxHashMap;

use super::Parts;
use crate::python;

const CO_OPTIMIZED: u32 = 0x01;
const CO_NESTED: u32 = 0x10;
const CO_GENERATOR: u32 = 0x20;
const CO_COROUTINE: u32 = 0x80;
const CO_ASYNC_GENERATOR: u32 = 0x200;

/// What is known of a code object, found out once.
pub(super) struct CodeInfo {
    /// Keeps the key of the table alive.
    pub(super) code: Py<PyAny>,
    pub(super) name: Py<PyString>,
    /// The function and where it is written: by it the times of bodies are kept.
    pub(super) kind: Arc<str>,
    pub(super) is_coroutine: bool,
    /// May be written at module level: refers to globals of the code around its spawn.
    pub(super) is_top_level: bool,
    pub(super) n_args: usize,
    pub(super) n_kwonly: usize,
    /// For each module code object that spawned it: the names to take by value, if any.
    rebound: Mutex<Vec<Rebound>>,
}

/// A code object that spawned a body, and the names that the body must take by value from there.
type Rebound = (Py<PyAny>, Option<Py<PyAny>>);

/// More code objects than this at once are not remembered.
const MAX_CODES: usize = 4096;

type Codes = FxHashMap<usize, Arc<CodeInfo>>;
static CODES: Mutex<Option<Codes>> = Mutex::new(None);

/// Lets go of all code objects; called when a runtime ends.
pub(crate) fn forget_codes() {
    let codes = CODES.lock().take();
    drop(codes); // outside the lock: it drops Python references
}

pub(super) fn info(code: &Bound<'_, PyAny>) -> PyResult<Arc<CodeInfo>> {
    let key = code.as_ptr().addr();
    if let Some(info) = CODES.lock().as_ref().and_then(|codes| codes.get(&key)) {
        return Ok(Arc::clone(info));
    }
    let flags: u32 = code.getattr("co_flags")?.extract()?;
    if flags & (CO_GENERATOR | CO_ASYNC_GENERATOR) != 0 {
        let what = if flags & CO_GENERATOR == 0 {
            "an async generator"
        } else {
            "a generator"
        };
        let name = python::text(&code.getattr("co_name")?);
        return Err(PyTypeError::new_err(format!(
            "the body '{name}' is {what} function (it contains `yield`): calling it would run nothing; use a function or `async def` without `yield`"
        )));
    }
    let info = Arc::new(CodeInfo {
        code: code.clone().unbind(),
        name: code.getattr("co_name")?.cast_into::<PyString>()?.unbind(),
        kind: kind(code)?.into(),
        is_coroutine: flags & CO_COROUTINE != 0,
        is_top_level: flags & CO_NESTED == 0,
        n_args: code.getattr("co_argcount")?.extract()?,
        n_kwonly: code.getattr("co_kwonlyargcount")?.extract()?,
        rebound: Mutex::new(Vec::new()),
    });
    let mut codes = CODES.lock();
    let codes = codes.get_or_insert_default();
    if codes.len() < MAX_CODES {
        codes.insert(key, Arc::clone(&info));
    }
    Ok(info)
}

/// `qualified name (file:line)`; before Python 3.11 the plain name.
pub(super) fn kind(code: &Bound<'_, PyAny>) -> PyResult<String> {
    let name = code
        .getattr("co_qualname")
        .or_else(|_| code.getattr("co_name"))?;
    let file = code.getattr("co_filename")?;
    let line: u32 = code.getattr("co_firstlineno")?.extract()?;
    let (name, file) = (python::text(&name), python::text(&file));
    Ok(format!("{name} ({file}:{line})"))
}

impl CodeInfo {
    /// For a body written at module level: the globals that the code around it rebinds, by value.
    pub(super) fn capture_globals(&self, parts: &Parts<'_>) -> PyResult<Option<Py<PyAny>>> {
        let py = parts.code.py();
        let Some(spawning) = python::Origin::here(py)
            .code
            .map(|code| code.into_bound(py))
        else {
            return Ok(None);
        };
        let known = self
            .rebound
            .lock()
            .iter()
            .find(|(code, _)| code.is(&spawning))
            .map(|(_, names)| names.as_ref().map(|n| n.clone_ref(py)));
        let names = match known {
            Some(names) => names,
            None => {
                let flags: u32 = spawning.getattr("co_flags")?.extract()?;
                let names = if flags & CO_OPTIMIZED == 0 {
                    let names = python::rebound_globals(py)?.call1((&spawning, &parts.code))?;
                    (names.len()? > 0).then(|| names.unbind())
                } else {
                    None
                };
                let entry = (
                    spawning.clone().unbind(),
                    names.as_ref().map(|n| n.clone_ref(py)),
                );
                self.rebound.lock().push(entry);
                names
            }
        };
        let Some(names) = names else { return Ok(None) };
        let captured =
            python::captured_globals(py)?.call_method1("make", (names, &parts.globals))?;
        Ok(Some(captured.unbind()))
    }
}
