//! The arrays a task uses: what `input=`, `output=` and `inout=` of `spawn` mean.

use std::sync::Arc;

use parla_core::Access;
use parla_data::Operand;
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyBytes, PyInt, PyList, PyString, PyTuple, PyType};
use smallvec::SmallVec;

use crate::array::Array;
use crate::{errors, python};

/// Where one of the three arguments belongs.
pub(crate) struct Argument<'a, 'py> {
    pub(crate) name: &'static str,
    pub(crate) access: Access,
    pub(crate) value: Option<&'a Bound<'py, PyAny>>,
}

/// An operand with the argument that named it.
struct Named {
    argument: &'static str,
    operand: Operand,
}

type Operands = SmallVec<[Named; 4]>;

/// The operands of a task; `None` if it has none, which is the common case and costs next to nothing.
pub(crate) fn collect(
    py: Python<'_>,
    arguments: &[Argument<'_, '_>; 3],
) -> PyResult<Option<Arc<[Operand]>>> {
    let mut named = Operands::new();
    for argument in arguments {
        if let Some(value) = argument.value {
            argument.add(value, &mut named)?;
        }
    }
    match named.len() {
        0 => return Ok(None),
        1 => check(py, &named)?,
        _ => {
            check(py, &named)?;
            named = merge(named);
        }
    }
    Ok(Some(named.into_iter().map(|named| named.operand).collect()))
}

impl Argument<'_, '_> {
    fn add(&self, value: &Bound<'_, PyAny>, named: &mut Operands) -> PyResult<()> {
        if let Ok(tuple) = value.cast_exact::<PyTuple>() {
            if let Some((array, slot)) = self.pair(tuple)? {
                return self.add_one(&array, slot, named);
            }
            for item in tuple.iter_borrowed() {
                self.add_item(&item, named)?;
            }
            return Ok(());
        }
        // Before anything is asked of it: an attribute that is not there costs an exception.
        if let Ok(list) = value.cast_exact::<PyList>() {
            for item in list.iter() {
                self.add_item(&item, named)?;
            }
            return Ok(());
        }
        if let Some(operand) = self.operand(value, 0)? {
            self.push(operand, named);
            return Ok(());
        }
        let is_text = value.is_instance_of::<PyString>() || value.is_instance_of::<PyBytes>();
        if is_text || is_ndarray(value) {
            return Err(self.no_operand(value));
        }
        let Ok(items) = value.try_iter() else {
            return Err(self.no_operand(value));
        };
        for item in items {
            self.add_item(&item?, named)?;
        }
        Ok(())
    }

    fn add_item(&self, item: &Bound<'_, PyAny>, named: &mut Operands) -> PyResult<()> {
        if let Ok(tuple) = item.cast::<PyTuple>()
            && let Some((array, slot)) = self.pair(tuple)?
        {
            return self.add_one(&array, slot, named);
        }
        self.add_one(item, 0, named)
    }

    fn add_one(&self, array: &Bound<'_, PyAny>, slot: usize, named: &mut Operands) -> PyResult<()> {
        match self.operand(array, slot)? {
            Some(operand) => {
                self.push(operand, named);
                Ok(())
            }
            None => Err(self.no_operand(array)),
        }
    }

    /// `(array, k)`: an array on device k of the task.
    fn pair<'py>(
        &self,
        tuple: &Bound<'py, PyTuple>,
    ) -> PyResult<Option<(Bound<'py, PyAny>, usize)>> {
        if tuple.len() != 2 {
            return Ok(None);
        }
        let slot = tuple.get_item(1)?;
        if !slot.is_instance_of::<PyInt>() || slot.is_instance_of::<PyBool>() {
            return Ok(None);
        }
        let array = tuple.get_item(0)?;
        let slot = slot.extract().map_err(|_| {
            PyValueError::new_err(format!(
                "{}: ({}, {slot}): the devices of a task are counted from 0",
                self.name,
                python::type_name(&array)
            ))
        })?;
        Ok(Some((array, slot)))
    }

    /// What an array says of itself: `__parla_operand__()` is (native array, box, whether every element of the box is used).
    fn operand(&self, object: &Bound<'_, PyAny>, slot: usize) -> PyResult<Option<Operand>> {
        let py = object.py();
        let described = if object.get_type().is(python::parray(py)?) {
            object.getattr(intern!(py, "_operand"))? // what the method returns, without a call
        } else {
            match object.getattr(intern!(py, "__parla_operand__")) {
                Ok(method) if !object.is_instance_of::<PyType>() => method.call0()?,
                _ => return Ok(None),
            }
        };
        let described = described.cast::<PyTuple>()?;
        let array = described.get_borrowed_item(0)?;
        let array = array.cast::<Array>()?.get();
        let region = array.region(&*described.get_borrowed_item(1)?)?;
        let exact = described.get_borrowed_item(2)?.is_truthy()?;
        Ok(Some(Operand {
            array: array.data().clone(),
            region,
            access: self.access,
            exact,
            slot,
        }))
    }

    fn push(&self, operand: Operand, named: &mut Operands) {
        named.push(Named {
            argument: self.name,
            operand,
        });
    }

    fn no_operand(&self, object: &Bound<'_, PyAny>) -> PyErr {
        let kind = match object.cast::<PyTuple>() {
            Ok(pair) if pair.len() == 2 => {
                let both = pair.iter().map(|item| python::type_name(&item));
                format!("({})", both.collect::<Vec<_>>().join(", "))
            }
            _ => python::type_name(object),
        };
        let hint = if kind.starts_with('(') {
            "; k is the number of a device of the task, from 0"
        } else if object.is_instance_of::<PyType>() {
            "; a class is no array"
        } else if is_ndarray(object) {
            "; wrap it: parla.asarray(a)"
        } else if is_collection(object) {
            "; lists in lists are not searched: write [*one, *other]"
        } else {
            ""
        };
        PyTypeError::new_err(format!(
            "{}: expected PArrays, slices of them, or (array, k), not {kind}{hint}",
            self.name
        ))
    }
}

/// Whether it is a list, or a tuple that is no pair of an array and a number.
fn is_collection(object: &Bound<'_, PyAny>) -> bool {
    object.is_instance_of::<PyList>()
        || object.cast::<PyTuple>().is_ok_and(|tuple| tuple.len() != 2)
}

/// Whether it is an array of NumPy or of something like it.
fn is_ndarray(object: &Bound<'_, PyAny>) -> bool {
    let has = |name| object.hasattr(name).unwrap_or(false);
    has("__array_interface__")
        || has("__cuda_array_interface__")
        || has("__dlpack__")
        || has("__array__")
}

/// Refuses what no schedule can make right.
fn check(py: Python<'_>, named: &[Named]) -> PyResult<()> {
    for (i, one) in named.iter().enumerate() {
        let operand = &one.operand;
        if !operand.access.writes() {
            continue;
        }
        if !operand.array.home().writable {
            return Err(errors::spawn_error(
                py,
                format!(
                    "{}: {} is read-only (or several of its elements share memory), so it can be an input only",
                    one.argument,
                    operand.array.name()
                ),
            ));
        }
        let clash = named[..i].iter().find(|other| {
            let before = &other.operand;
            before.access.writes()
                && before.slot != operand.slot
                && before.array.id() == operand.array.id()
                && before.region.intersection(&operand.region).is_some()
        });
        if let Some(other) = clash {
            return Err(errors::spawn_error(
                py,
                format!(
                    "{}: device {} of the task would write {}{} and device {} {}{} ({}), which overlap",
                    one.argument,
                    operand.slot,
                    operand.array.name(),
                    operand.region,
                    other.operand.slot,
                    other.operand.array.name(),
                    other.operand.region,
                    other.argument,
                ),
            ));
        }
    }
    Ok(())
}

/// One operand per box and device: an array that is named twice for the same box is used in both ways.
fn merge(named: Operands) -> Operands {
    let mut merged = Operands::new();
    for one in named {
        let operand = &one.operand;
        let is_same = |before: &&mut Named| {
            before.operand.slot == operand.slot
                && before.operand.array.id() == operand.array.id()
                && before.operand.region == operand.region
        };
        match merged.iter_mut().find(is_same) {
            Some(Named {
                operand: before, ..
            }) => {
                before.exact |= operand.exact;
                if before.access != operand.access {
                    before.access = Access::InOut;
                }
            }
            None => merged.push(one),
        }
    }
    merged
}
