//! `Array`: a NumPy array whose contents may be on devices; the native half of `parla.parray.PArray`.

mod refused;

use std::sync::Arc;

use parla_core::Region;
use parla_data::{DataError, Home, Store};
use parla_device::{Block, Place};
use pyo3::PyTraverseError;
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::ffi;
use pyo3::gc::PyVisit;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};
use smallvec::SmallVec;

use crate::assignment::{self, Current};
use crate::device_block::DeviceBlock;
use crate::keep::{DrainLast, Kept};
use crate::{errors, machine, python, runtime};

/// A coherent array over a NumPy array's own memory: nothing is copied, and the NumPy array stays alive as long as this or a task that uses it.
///
/// Args:
///     buffer: a numpy.ndarray of any strides and any dtype without Python objects.
///     name: what messages call it.
///
/// Raises:
///     TypeError: `buffer` is no NumPy array, or holds Python objects.
#[pyclass(frozen, weakref, module = "parla._native")]
pub(crate) struct Array {
    data: parla_data::Array,
    /// The NumPy array; the home's block has the other share.
    buffer: Arc<Kept>,
    /// It was made in the body of a task, which may use it without naming it.
    made_in_task: bool,
    _last: DrainLast,
}

impl Drop for Array {
    /// The user can still see the NumPy array: what tasks have written, or will, must come home all the same.
    fn drop(&mut self) {
        let Some(Some(store)) = Python::try_attach(|py| {
            let buffer = self.buffer.get(py)?;
            let is_view = buffer
                .getattr(intern!(py, "base"))
                .is_ok_and(|base| !base.is_none());
            // SAFETY: attached, a live object. One reference is ours.
            let is_seen = is_view || unsafe { ffi::Py_REFCNT(buffer.as_ptr()) } > 1;
            is_seen.then(runtime::store_of_this_thread).flatten()
        }) else {
            return;
        };
        store.keep(self.data.clone());
    }
}

impl Array {
    pub(crate) fn data(&self) -> &parla_data::Array {
        &self.data
    }

    /// A box of this array, from one (start, stop) per dimension.
    pub(crate) fn region(&self, region: &Bound<'_, PyAny>) -> PyResult<Region> {
        let shape = self.data.shape();
        let wrong = || {
            let shown = region
                .repr()
                .map_or_else(|_| "?".to_owned(), |text| text.to_string());
            PyValueError::new_err(format!(
                "{}: {shown} is no box of an array of shape {shape:?}: expected one (start, stop) per dimension",
                self.data.name()
            ))
        };
        let ranges = region.cast::<PyTuple>().map_err(|_| wrong())?;
        if ranges.len() != shape.len() {
            return Err(wrong());
        }
        let mut checked: SmallVec<[std::ops::Range<usize>; 4]> = SmallVec::new();
        for (range, &n) in ranges.iter_borrowed().zip(shape) {
            let range = range.cast::<PyTuple>().map_err(|_| wrong())?;
            let bound = |at| range.get_borrowed_item(at).ok()?.extract().ok();
            match (bound(0), bound(1)) {
                (Some(start), Some(stop)) if range.len() == 2 && start <= stop && stop <= n => {
                    checked.push(start..stop)
                }
                _ => return Err(wrong()),
            }
        }
        Ok(Region::new(checked))
    }

    fn region_or_whole(&self, region: Option<&Bound<'_, PyAny>>) -> PyResult<Region> {
        match region {
            Some(region) => self.region(region),
            None => Ok(Region::whole(self.data.shape())),
        }
    }

    /// Makes the home current, and the only copy if it is about to be written.
    fn bring_home(&self, py: Python<'_>, region: &Region, write: bool) -> PyResult<()> {
        if self.data.is_host_only() {
            return Ok(());
        }
        with_store(py, |store| store.to_host(&self.data, region, write))
    }

    /// Where a task on devices has `region`.
    fn in_task<'py>(
        &self,
        py: Python<'py>,
        current: &Current,
        region: &Region,
        write: bool,
    ) -> PyResult<Option<Bound<'py, PyTuple>>> {
        let Some((index, operand, place)) = current.find(&self.data, region, write) else {
            // Where nothing has to be brought it works, by luck.
            if current.is_on_host() && !self.must_be_named(&current.task) {
                self.bring_home(py, region, write)?;
                return Ok(None);
            }
            return Err(self.no_operand(py, current, region));
        };
        if write && !operand.access.writes() {
            return Err(self.only_input(py, current, region));
        }
        // What a task was to write for which this one waited, and failed, can be overwritten, but not be looked at.
        let overwrites = write || !operand.fetches();
        let (place, assigned) = match (place, current.assigned()) {
            (Some(place), Some(assigned)) => (place, assigned),
            (_, Some(_)) => return Err(self.no_data(py, current)),
            // At home, and current there since the body started, apart from that.
            (_, None) => return self.bring_home(py, region, overwrites).map(|()| None),
        };
        if overwrites {
            assigned.overwrites(index, region);
        } else if let Some(error) = assigned.lost(index, region) {
            return Err(errors::data(py, &error));
        }
        let Some(key) = place.device else {
            return Ok(None);
        };
        let machine = machine::current(py)?;
        let Some(device) = machine.find(key.0, key.1) else {
            return Err(errors::parla_error(
                py,
                format!(
                    "{}: the device {}:{} is gone",
                    self.data.name(),
                    key.0,
                    key.1
                ),
            ));
        };
        let address = address_within(&place, &operand.region, region);
        let keep = DeviceBlock::new(device.0, Arc::clone(&place.block));
        let strides = PyTuple::new(py, &place.strides)?;
        (device.0, address, strides, keep)
            .into_pyobject(py)
            .map(Some)
    }
}

/// The address of `region`'s first element, where `place` has the first element of `operand`, which contains it.
fn address_within(place: &Place, operand: &Region, region: &Region) -> usize {
    let first = place.block.address() + place.offset;
    address_of(first, &place.strides, operand, region)
}

/// The address of `inner`'s first element in memory where that of `outer`, which contains it, is at `address`.
pub(crate) fn address_of(
    mut address: usize,
    strides: &[isize],
    outer: &Region,
    inner: &Region,
) -> usize {
    for ((inner, outer), &stride) in inner.ranges().zip(outer.ranges()).zip(strides) {
        let steps = (inner.start - outer.start).cast_signed();
        address = address.wrapping_add_signed(steps.wrapping_mul(stride));
    }
    address
}

/// Calls into the store of the runtime this thread is in (or one that holds nothing), detached.
fn with_store<R: Send>(
    py: Python<'_>,
    call: impl FnOnce(&Arc<Store>) -> Result<R, DataError> + Send,
) -> PyResult<R> {
    let store = match runtime::store_of_this_thread() {
        Some(store) => store,
        None => machine::bare_store(py)?,
    };
    py.detach(|| call(&store))
        .map_err(|error| errors::data(py, &error))
}

#[pymethods]
impl Array {
    #[new]
    fn new(buffer: &Bound<'_, PyAny>, name: &str) -> PyResult<Self> {
        let layout = Layout::of(buffer)?;
        let keep = Arc::new(Kept::new(buffer.clone().unbind()));
        let (low, high) = layout.extent();
        let block = Block::foreign(
            layout.address.wrapping_add_signed(low),
            high.abs_diff(low) as u64,
            Arc::clone(&keep),
        );
        let home = Home {
            block: Arc::new(block),
            offset: low.unsigned_abs(),
            writable: layout.writable(),
            strides: layout.strides,
        };
        Ok(Self {
            data: parla_data::Array::new(name, &layout.shape, layout.item, home),
            buffer: keep,
            made_in_task: runtime::runs_a_task(),
            _last: DrainLast,
        })
    }

    /// Number of indices along each dimension.
    #[getter]
    fn shape<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        PyTuple::new(py, self.data.shape())
    }

    /// Bytes per element.
    #[getter]
    fn item(&self) -> usize {
        self.data.item()
    }

    /// Bytes of all elements.
    #[getter]
    fn nbytes(&self) -> usize {
        self.data.shape().iter().product::<usize>() * self.data.item()
    }

    /// What messages call it.
    #[getter]
    fn name(&self) -> &str {
        self.data.name()
    }

    /// Its number, unique in this process.
    #[getter]
    fn id(&self) -> u64 {
        self.data.id().0
    }

    /// Whether all of it is current in its own NumPy array, and nowhere else.
    #[getter]
    fn is_host_only(&self) -> bool {
        self.data.is_host_only()
    }

    /// Bytes of the newest contents (of a box of it) that are in a memory.
    #[pyo3(signature = (memory_id, region = None))]
    fn bytes_valid(
        &self,
        py: Python<'_>,
        memory_id: u32,
        region: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<u64> {
        let memory = machine::memory(&*machine::current(py)?, memory_id)?;
        let region = self.region_or_whole(region)?;
        Ok(py.detach(|| self.data.bytes_valid(memory, &region)))
    }

    /// Bytes that its copies take in a memory, valid or not.
    fn bytes_allocated(&self, py: Python<'_>, memory_id: u32) -> PyResult<u64> {
        let memory = machine::memory(&*machine::current(py)?, memory_id)?;
        Ok(py.detach(|| self.data.bytes_allocated(memory)))
    }

    /// For people: which parts are current in which memories.
    fn overview(&self, py: Python<'_>) -> PyResult<String> {
        let machine = machine::current(py)?;
        Ok(py.detach(|| self.data.overview(machine.model())))
    }

    /// Where the calling code may use a box of it, given as one (start, stop) per dimension.
    ///
    /// Returns:
    ///     None: in the NumPy array itself, which is current there from now on (this call has waited for that); with `write` all other copies are
    ///     invalid now. Else, in a task on a device: (device number, address of the box's first element, strides in bytes, what keeps the memory alive).
    ///
    /// Raises:
    ///     ParlaError: the contents were lost; or the task runs on a device and has no operand that contains the box, or only an input and writes.
    ///     DeviceError: a copy failed.
    #[pyo3(signature = (region, write = false))]
    fn access<'py>(
        &self,
        py: Python<'py>,
        region: &Bound<'py, PyAny>,
        write: bool,
    ) -> PyResult<Option<Bound<'py, PyTuple>>> {
        let region = self.region(region)?;
        if region.is_empty() {
            return Ok(None);
        }
        match assignment::current(py) {
            Some(current) => self.in_task(py, &current, &region, write),
            None => {
                self.check_undeclared(py, &region)?;
                self.bring_home(py, &region, write).map(|()| None)
            }
        }
    }

    /// Outside of tasks: replaces a box of it by what `fill` writes into the NumPy array. Nothing is brought there for that.
    ///
    /// Args:
    ///     fill: called without arguments. No Python code of the caller's runs between the moment at which the old contents count as gone and this call,
    ///         so that no signal handler can come between. If it raises, nobody knows the box's contents any more.
    ///
    /// Returns:
    ///     False: nothing was done; the box is in place anyway, or used by a task.
    fn replace(
        &self,
        py: Python<'_>,
        region: &Bound<'_, PyAny>,
        fill: &Bound<'_, PyAny>,
    ) -> PyResult<bool> {
        let region = self.region(region)?;
        let in_place = region.is_empty() || self.data.is_host_only();
        if in_place || assignment::current(py).is_some() {
            return Ok(false);
        }
        self.check_undeclared(py, &region)?;
        with_store(py, |store| store.to_overwrite(&self.data, &region))?;
        if let Err(error) = fill.call0() {
            with_store(py, |store| {
                let because = "the assignment that was to replace it failed";
                store.spoil(&self.data, &region, because);
                Ok(())
            })?;
            return Err(error);
        }
        Ok(true)
    }

    /// Whether the calling code may write a box of it: not in a task that has it as an input only, or does not name what it has to name, nor if the
    /// NumPy array is read-only.
    fn may_write(&self, py: Python<'_>, region: &Bound<'_, PyAny>) -> PyResult<bool> {
        let region = self.region(region)?;
        if !self.data.home().writable {
            return Ok(false);
        }
        let Some(current) = assignment::current(py) else {
            return Ok(true);
        };
        Ok(match current.find(&self.data, &region, true) {
            Some((_, operand, _)) => operand.access.writes(),
            None => {
                region.is_empty() || (current.is_on_host() && !self.must_be_named(&current.task))
            }
        })
    }

    /// Gives its copies in a memory back; what is newest there goes home first.
    fn evict(&self, py: Python<'_>, memory_id: u32) -> PyResult<()> {
        let memory = machine::memory(&*machine::current(py)?, memory_id)?;
        if self.data.is_host_only() {
            return Ok(());
        }
        with_store(py, |store| store.evict(&self.data, memory))
    }

    /// Waits until it is at home and nowhere else.
    fn flush(&self, py: Python<'_>) -> PyResult<()> {
        if self.data.is_host_only() {
            return Ok(());
        }
        with_store(py, |store| store.flush(&self.data))
    }

    fn __repr__(&self) -> String {
        format!(
            "<Array {}: {:?} of {} bytes>",
            self.data.name(),
            self.data.shape(),
            self.data.item()
        )
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.buffer.traverse(&visit)
    }
}

/// How a NumPy array lies in memory.
struct Layout {
    address: usize,
    shape: SmallVec<[usize; 4]>,
    strides: SmallVec<[isize; 4]>,
    item: usize,
    read_only: bool,
}

impl Layout {
    fn of(buffer: &Bound<'_, PyAny>) -> PyResult<Self> {
        let py = buffer.py();
        let wrong = || {
            let kind = python::type_name(buffer);
            PyTypeError::new_err(format!("Array: expected a numpy.ndarray, not {kind}"))
        };
        let interface = buffer
            .getattr(intern!(py, "__array_interface__"))
            .map_err(|_| wrong())?;
        let dtype = buffer.getattr(intern!(py, "dtype")).map_err(|_| wrong())?;
        if dtype.getattr(intern!(py, "hasobject"))?.is_truthy()? {
            return Err(PyTypeError::new_err(format!(
                "Array: an array of dtype {dtype} holds Python objects, which have no meaning on devices"
            )));
        }
        let item: usize = dtype.getattr(intern!(py, "itemsize"))?.extract()?;
        let interface = interface.cast_into::<PyDict>().map_err(|_| wrong())?;
        let (address, read_only): (usize, bool) = interface
            .get_item(intern!(py, "data"))?
            .ok_or_else(wrong)?
            .extract()
            .map_err(|_| wrong())?;
        let shape: Vec<usize> = interface
            .get_item(intern!(py, "shape"))?
            .ok_or_else(wrong)?
            .extract()?;
        let strides: Option<Vec<isize>> = match interface.get_item(intern!(py, "strides"))? {
            Some(strides) => strides.extract()?,
            None => None,
        };
        let strides = strides.map_or_else(|| c_order(&shape, item), SmallVec::from_vec);
        Ok(Self {
            address,
            shape: SmallVec::from_vec(shape),
            strides,
            item,
            read_only,
        })
    }

    /// Bytes from the first element to the lowest byte and to the end of the highest.
    fn extent(&self) -> (isize, isize) {
        extent(&self.shape, &self.strides, self.item)
    }

    /// Whether it may be written, each element for itself: broadcast and sliding-window views are not.
    fn writable(&self) -> bool {
        let mut dimensions: SmallVec<[(usize, usize); 4]> = self
            .shape
            .iter()
            .zip(&self.strides)
            .filter(|(n, _)| **n > 1)
            .map(|(&n, stride)| (stride.unsigned_abs(), n))
            .collect();
        dimensions.sort_unstable();
        let mut inner = self.item;
        let apart = dimensions.into_iter().all(|(stride, n)| {
            let is_apart = stride >= inner;
            inner = inner.saturating_add(stride.saturating_mul(n - 1));
            is_apart
        });
        apart && !self.read_only
    }
}

/// Bytes from the first element of a box to its lowest byte and to the end of its highest.
pub(crate) fn extent(shape: &[usize], strides: &[isize], item: usize) -> (isize, isize) {
    if shape.contains(&0) {
        return (0, 0);
    }
    let steps = |(&n, &stride): (&usize, &isize)| (n - 1).cast_signed().saturating_mul(stride);
    let (mut low, mut high) = (0_isize, item.cast_signed());
    for step in shape.iter().zip(strides).map(steps) {
        if step < 0 {
            low = low.saturating_add(step);
        } else {
            high = high.saturating_add(step);
        }
    }
    (low, high)
}

/// The strides of a dense array, the last index fastest.
pub(crate) fn c_order(shape: &[usize], item: usize) -> SmallVec<[isize; 4]> {
    let mut strides: SmallVec<[isize; 4]> = SmallVec::with_capacity(shape.len());
    let mut step = item.cast_signed();
    for &n in shape.iter().rev() {
        strides.push(step);
        step = step.saturating_mul(n.max(1).cast_signed());
    }
    strides.reverse();
    strides
}
