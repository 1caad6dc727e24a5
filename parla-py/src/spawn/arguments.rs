//! The small arguments of `spawn`, checked.

use parla_core::Access;
use parla_data::Operand;
use parla_sched::Runahead;
use pyo3::exceptions::{PyIndexError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyInt, PyString, PyType};

use crate::errors;
use crate::placed::Placed;
use crate::python;
use crate::space::Space;

/// `@spawn` without parentheses makes the body the task id, and nothing would ever run.
pub(super) fn check_called(py: Python<'_>, taskid: Option<&Py<PyAny>>) -> PyResult<()> {
    let Some(body) = taskid.map(|taskid| taskid.bind(py)) else {
        return Ok(());
    };
    if body.is_instance_of::<PyType>() || !body.is_callable() {
        return Ok(());
    }
    let name = match body.getattr("__name__") {
        Ok(name) => name.str()?,
        Err(_) => body.repr()?,
    };
    Err(PyTypeError::new_err(format!(
        "taskid: expected an index of a TaskSpace such as T[0], not the function {name}; write `@spawn()`, with parentheses"
    )))
}

/// Arguments of earlier versions that have no effect on CPU tasks: their types are still checked.
pub(super) fn check_ignored(
    tags: Option<&Bound<'_, PyAny>>,
    data: Option<&Bound<'_, PyAny>>,
) -> PyResult<()> {
    if let Some(tags) = tags
        && !(tags.is_instance_of::<PyString>() || tags.try_iter().is_ok())
    {
        return Err(PyTypeError::new_err(format!(
            "tags: expected a sequence, not {}",
            python::type_name(tags)
        )));
    }
    if let Some(data) = data
        && data.try_iter().is_err()
    {
        return Err(PyTypeError::new_err(format!(
            "data: expected a sequence of arrays, not {}",
            python::type_name(data)
        )));
    }
    Ok(())
}

/// When the dependents of the task go on: a name, 0.3's number, or an object with a name.
pub(crate) fn parse_runahead(runahead: &Bound<'_, PyAny>) -> PyResult<Runahead> {
    let wrong = || -> PyResult<PyErr> {
        Ok(PyTypeError::new_err(format!(
            "runahead: expected \"blocking\", \"nonblocking\", \"user\" or \"none\", not {}",
            python::type_name(runahead)
        )))
    };
    let name = if let Ok(name) = runahead.cast::<PyString>() {
        name.to_string()
    } else if runahead.hasattr("name")? {
        runahead
            .getattr("name")?
            .extract()
            .map_err(|_| wrong().unwrap_or_else(|error| error))?
    } else if runahead.is_instance_of::<PyInt>() {
        runahead.to_string()
    } else {
        return Err(wrong()?);
    };
    let plain: String = name
        .chars()
        .filter(|c| !matches!(c, '_' | '-' | ' '))
        .flat_map(char::to_lowercase)
        .collect();
    match plain.as_str() {
        "none" | "0" | "blocking" | "1" => Ok(Runahead::Blocking),
        "nonblocking" | "2" => Ok(Runahead::NonBlocking),
        "user" | "3" => Ok(Runahead::User),
        _ => Err(PyValueError::new_err(format!(
            "runahead: expected \"blocking\", \"nonblocking\", \"user\" or \"none\", not {name:?}"
        ))),
    }
}

/// `(array, k)` needs a device k in every option.
pub(super) fn check_slots(
    py: Python<'_>,
    operands: &[Operand],
    placement: &Placed,
) -> PyResult<()> {
    let Some(last) = operands.iter().max_by_key(|operand| operand.slot) else {
        return Ok(());
    };
    if last.slot == 0 {
        return Ok(());
    }
    for option in placement.object.bind(py).getattr("options")?.try_iter()? {
        let n = option?.len()?;
        if last.slot >= n {
            return Err(errors::spawn_error(
                py,
                format!(
                    "({}, {}): the task has no device {}: a placement has {n} device(s), counted from 0",
                    last.array.name(),
                    last.slot,
                    last.slot
                ),
            ));
        }
    }
    Ok(())
}

/// A body may be run again only if that does not count twice: not on data that it may have changed.
pub(super) fn check_repeatable(operands: &[Operand]) -> PyResult<()> {
    let changes = |operand: &&Operand| match operand.access {
        Access::Input => false,
        Access::Output => !operand.exact,
        Access::InOut => true,
    };
    match operands.iter().find(changes) {
        Some(operand) => Err(PyValueError::new_err(format!(
            "retries: the task changes {}{}, so it cannot be run again from where it began; \
             only tasks with inputs, and outputs that are written as a whole, can",
            operand.array.name(),
            operand.region
        ))),
        None => Ok(()),
    }
}

pub(super) fn integer(value: &Bound<'_, PyAny>, argument: &str, least: i32) -> PyResult<i32> {
    let Ok(number) = value.extract::<i64>() else {
        let kind = python::type_name(value);
        return Err(if value.is_instance_of::<PyInt>() {
            PyValueError::new_err(format!("{argument}: {value} is out of range"))
        } else {
            PyTypeError::new_err(format!("{argument}: expected an integer, not {kind}"))
        });
    };
    match i32::try_from(number) {
        Ok(number) if number >= least => Ok(number),
        _ => Err(PyValueError::new_err(format!(
            "{argument}: {number} is out of range"
        ))),
    }
}

/// An error for a `taskid` that names no task or several.
pub(super) fn not_an_id(taskid: &Bound<'_, PyAny>) -> PyErr {
    let describe = || {
        taskid
            .repr()
            .map_or_else(|_| "?".to_owned(), |r| r.to_string())
    };
    if taskid.hasattr("_selected").unwrap_or(false) {
        let what = taskid
            .getattr("_selected")
            .and_then(|s| s.extract::<String>())
            .unwrap_or_else(|_| describe());
        return match taskid.len() {
            Ok(0) => PyIndexError::new_err(format!(
                "taskid: {what} names no task: the index is out of range"
            )),
            _ => PyTypeError::new_err(format!(
                "taskid: {what} names several tasks; a task has one id"
            )),
        };
    }
    let kind = python::type_name(taskid);
    let hint = if taskid.is_instance_of::<Space>() {
        " itself; a task has one id in it"
    } else {
        ""
    };
    PyTypeError::new_err(format!(
        "taskid: expected an index of a TaskSpace such as T[0], not {kind}{hint}"
    ))
}
