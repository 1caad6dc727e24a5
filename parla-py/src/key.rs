//! What names a task within its space.

use std::fmt;
use std::sync::Arc;

use pyo3::prelude::*;
use pyo3::types::{PyString, PyTuple};

/// An index of a task space.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) enum Key {
    Int(i64),
    Str(Arc<str>),
    /// Some other hashable Python object, by its number in the space's table of such objects.
    Object(u32),
    Tuple(Box<[Key]>),
}

/// An object that is neither integer nor string, kept by the space.
pub(crate) struct Interned(pub(crate) u32);

impl Key {
    /// The key that an integer, a string or a tuple of those stands for; `None` for everything else.
    pub(crate) fn simple(object: &Bound<'_, PyAny>) -> PyResult<Option<Self>> {
        if let Ok(number) = object.cast_exact::<pyo3::types::PyInt>() {
            return match number.extract() {
                Ok(number) => Ok(Some(Self::Int(number))),
                Err(_) => Ok(None),
            };
        }
        if let Ok(text) = object.cast_exact::<PyString>() {
            return Ok(Some(Self::Str(text.to_cow()?.into())));
        }
        if let Ok(parts) = object.cast_exact::<PyTuple>() {
            if parts.is_empty() {
                return Ok(None);
            }
            let mut keys = Vec::with_capacity(parts.len());
            for part in parts.iter_borrowed() {
                match Self::simple(&part)? {
                    Some(Self::Tuple(_)) | None => return Ok(None),
                    Some(key) => keys.push(key),
                }
            }
            if keys.len() == 1 {
                return Ok(keys.pop());
            }
            return Ok(Some(Self::Tuple(keys.into())));
        }
        Ok(None)
    }

    /// The parts of a tuple, or the one part that it is.
    pub(crate) fn parts(&self) -> &[Self] {
        match self {
            Self::Tuple(parts) => parts,
            one => std::slice::from_ref(one),
        }
    }

    /// The Python object; `object` finds those that are neither integer nor string.
    pub(crate) fn to_python<'py>(
        &self,
        py: Python<'py>,
        object: &impl Fn(Interned) -> Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        match self {
            Self::Int(number) => Ok(number.into_pyobject(py)?.into_any()),
            Self::Str(text) => Ok(PyString::new(py, text).into_any()),
            Self::Object(number) => Ok(object(Interned(*number))),
            Self::Tuple(parts) => {
                let parts = parts
                    .iter()
                    .map(|part| part.to_python(py, object))
                    .collect::<PyResult<Vec<_>>>()?;
                Ok(PyTuple::new(py, parts)?.into_any())
            }
        }
    }
}

impl fmt::Display for Key {
    /// As in a task's name: the parts joined by underscores.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Int(number) => write!(f, "{number}"),
            Self::Str(text) => f.write_str(text),
            Self::Object(number) => write!(f, "object{number}"),
            Self::Tuple(parts) => {
                for (i, part) in parts.iter().enumerate() {
                    if i > 0 {
                        f.write_str("_")?;
                    }
                    write!(f, "{part}")?;
                }
                Ok(())
            }
        }
    }
}
