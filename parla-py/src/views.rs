//! Boxes and rows of a PArray: the commonest indexing, which is on the way of every spawn that names a slice.
//!
//! `parla.parray.PArray.__getitem__` knows all of NumPy's indexing; what is found here is made here, everything else there.

use pyo3::ffi;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyInt, PySlice, PyTuple, PyType};
use smallvec::SmallVec;

/// What a part of an index selects of one axis.
struct Part {
    start: isize,
    stop: isize,
    /// It was an integer: the axis is not shown.
    is_row: bool,
}

/// The view of a PArray that is a box of its elements that an index selects.
///
/// Args:
///     kind: the type of the view, a class made in Python with slots only: PArray.
///     array: a PArray that is itself a box.
///     key: the index.
///
/// Returns:
///     None: the index has other parts than slices of step 1 and integers within bounds, or selects nothing.
#[pyfunction]
pub(crate) fn box_view<'py>(
    kind: &Bound<'py, PyType>,
    array: &Bound<'py, PyAny>,
    key: &Bound<'py, PyAny>,
) -> PyResult<Option<Bound<'py, PyAny>>> {
    let py = array.py();
    let shape = array.getattr(intern!(py, "_shape"))?;
    let shape = shape.cast_exact::<PyTuple>()?;
    let Some(parts) = parts(key, shape)? else {
        return Ok(None);
    };
    let operand = array.getattr(intern!(py, "_operand"))?;
    let operand = operand.cast_exact::<PyTuple>()?;
    let outer = operand.get_borrowed_item(1)?;
    let outer = outer.cast_exact::<PyTuple>()?;

    let n_dims = shape.len();
    let mut ranges: SmallVec<[Bound<'py, PyAny>; 4]> = SmallVec::new();
    let mut lengths: SmallVec<[Bound<'py, PyAny>; 4]> = SmallVec::new();
    for (axis, part) in parts.iter().enumerate() {
        let range = outer.get_borrowed_item(axis)?;
        let first: isize = range
            .cast_exact::<PyTuple>()?
            .get_borrowed_item(0)?
            .extract()?;
        let range = (first + part.start, first + part.stop).into_pyobject(py)?;
        ranges.push(range.into_any());
        if !part.is_row {
            lengths.push((part.stop - part.start).into_pyobject(py)?.into_any());
        }
    }
    for axis in parts.len()..n_dims {
        ranges.push(outer.get_item(axis)?);
        lengths.push(shape.get_item(axis)?);
    }
    let is_box = lengths.len() == n_dims;
    let ranges = PyTuple::new(py, ranges)?;
    let lengths = PyTuple::new(py, lengths)?;

    let view = new(kind)?;
    view.setattr(intern!(py, "_root"), array.getattr(intern!(py, "_root"))?)?;
    view.setattr(intern!(py, "_picked"), py.None())?;
    if is_box {
        view.setattr(intern!(py, "_axes"), py.None())?;
    } else {
        let (axes, shown) = axes(py, &ranges, &parts)?;
        view.setattr(intern!(py, "_axes"), axes)?;
        view.setattr(intern!(py, "_shown"), shown)?;
    }
    let operand = (operand.get_borrowed_item(0)?, ranges, true);
    view.setattr(intern!(py, "_operand"), operand)?;
    view.setattr(intern!(py, "_base"), &lengths)?;
    view.setattr(intern!(py, "_shape"), lengths)?;
    view.setattr(intern!(py, "_dtype"), array.getattr(intern!(py, "_dtype"))?)?;
    Ok(Some(view))
}

fn parts(
    key: &Bound<'_, PyAny>,
    shape: &Bound<'_, PyTuple>,
) -> PyResult<Option<SmallVec<[Part; 4]>>> {
    let mut found = SmallVec::new();
    let Ok(keys) = key.cast_exact::<PyTuple>() else {
        return Ok(match shape.len() {
            0 => None,
            _ => part(key, &*shape.get_borrowed_item(0)?)?.map(|part| {
                found.push(part);
                found
            }),
        });
    };
    if keys.len() > shape.len() {
        return Ok(None);
    }
    for (key, n) in keys.iter_borrowed().zip(shape.iter_borrowed()) {
        match part(&key, &n)? {
            Some(part) => found.push(part),
            None => return Ok(None),
        }
    }
    Ok(Some(found))
}

/// What one part of an index selects of an axis of `n` elements.
fn part(key: &Bound<'_, PyAny>, n: &Bound<'_, PyAny>) -> PyResult<Option<Part>> {
    let n: isize = n.extract()?;
    if let Ok(slice) = key.cast_exact::<PySlice>() {
        let of = slice.indices(n)?;
        return Ok((of.step == 1 && of.stop > of.start).then_some(Part {
            start: of.start,
            stop: of.stop,
            is_row: false,
        }));
    }
    if key.is_exact_instance_of::<PyInt>()
        && let Ok(index) = key.extract::<isize>()
        && (-n..n).contains(&index)
    {
        let start = if index < 0 { index + n } else { index };
        return Ok(Some(Part {
            start,
            stop: start + 1,
            is_row: true,
        }));
    }
    Ok(None)
}

/// What a view with rows takes of each axis, and which axes it shows: `PArray._axes` and `_shown`.
fn axes<'py>(
    py: Python<'py>,
    ranges: &Bound<'py, PyTuple>,
    parts: &[Part],
) -> PyResult<(Bound<'py, PyTuple>, Bound<'py, PyTuple>)> {
    let mut axes: SmallVec<[_; 4]> = SmallVec::new();
    let mut shown: SmallVec<[usize; 4]> = SmallVec::new();
    for (axis, range) in ranges.iter_borrowed().enumerate() {
        let (start, stop): (isize, isize) = range.extract()?;
        axes.push((start, 1, stop - start));
        if parts.get(axis).is_none_or(|part| !part.is_row) {
            shown.push(axis);
        }
    }
    Ok((PyTuple::new(py, axes)?, PyTuple::new(py, shown)?))
}

/// A new object without anything in its slots: `object.__new__(kind)`.
fn new<'py>(kind: &Bound<'py, PyType>) -> PyResult<Bound<'py, PyAny>> {
    // SAFETY: attached; a live type, allocated as `object.__new__` does for it. Nothing but its slots needs a value: see `box_view`.
    // A new reference or null.
    unsafe {
        let object = ffi::PyType_GenericAlloc(kind.as_type_ptr(), 0);
        Bound::from_owned_ptr_or_err(kind.py(), object)
    }
}
