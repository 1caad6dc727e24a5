//! Memory of devices in Python's hands: `DeviceBlock`, and copies between any two memories.

use std::sync::{Arc, Weak};

use parla_core::{DeviceId, MachineModel};
use parla_device::{Block, Copy, DeviceError, Machine, Place, Stream};
use pyo3::exceptions::{PyMemoryError, PyValueError};
use pyo3::prelude::*;
use smallvec::SmallVec;

use crate::array::extent;
use crate::keep::Kept;
use crate::{assignment, errors, keep, machine, room, runtime};

/// A piece of a device's memory, given back when the last reference goes.
#[pyclass(frozen, weakref, module = "parla._native")]
pub(crate) struct DeviceBlock {
    device: u32,
    block: Arc<Block>,
    /// The memory of an array that the runtime lends a task, and waits for itself.
    is_lent: bool,
    /// The stream of the task that allocated it; gone when that has ended, and its work with it.
    stream: Option<Weak<dyn Stream>>,
}

impl DeviceBlock {
    pub(crate) fn new(device: u32, block: Arc<Block>) -> Self {
        Self {
            device,
            block,
            is_lent: true,
            stream: None,
        }
    }
}

impl Drop for DeviceBlock {
    /// A body may drop memory while kernels that it launched still use it, be it its own or what an earlier task left it: then the memory goes
    /// back after them.
    fn drop(&mut self) {
        if self.is_lent {
            return;
        }
        let own = self.stream.take().and_then(|stream| stream.upgrade());
        let current = Python::try_attach(|py| {
            assignment::current(py).and_then(|current| current.stream_on(DeviceId(self.device)))
        });
        for stream in [own, current.flatten()].into_iter().flatten() {
            if !stream.is_idle().unwrap_or(true)
                && let Ok(event) = stream.record()
            {
                let block = Arc::clone(&self.block);
                event.on_done(Box::new(move |_| drop(block)));
            }
        }
    }
}

#[pymethods]
impl DeviceBlock {
    /// Where it begins, in the address space of its device.
    #[getter]
    fn address(&self) -> usize {
        self.block.address()
    }

    /// Its size in bytes.
    #[getter]
    fn nbytes(&self) -> u64 {
        self.block.bytes()
    }

    /// The number of its device.
    #[getter]
    fn device(&self) -> u32 {
        self.device
    }

    fn __repr__(&self) -> String {
        let (address, bytes) = (self.block.address(), self.block.bytes());
        format!(
            "<DeviceBlock of {bytes} bytes at {address:#x} on device {}>",
            self.device
        )
    }
}

/// Allocate memory for a dense array on a device, uninitialised. In a runtime, copies of arrays that nobody uses give way.
///
/// Raises:
///     DeviceOutOfMemory: with the bytes requested, free and there in all.
///     DeviceError: the device is lost, or refuses.
#[pyfunction]
pub(crate) fn device_array(
    py: Python<'_>,
    device_number: u32,
    shape: Vec<usize>,
    itemsize: usize,
) -> PyResult<DeviceBlock> {
    let machine = machine::current(py)?;
    let (id, device) = machine::device(&machine, device_number)?;
    let bytes = shape
        .iter()
        .try_fold(itemsize, |bytes, &n| bytes.checked_mul(n))
        .and_then(|bytes| u64::try_from(bytes).ok())
        .ok_or_else(|| {
            PyMemoryError::new_err(format!(
                "an array of shape {shape:?} has more bytes than can be counted"
            ))
        })?;
    let block = match py.detach(|| device.allocate(bytes)) {
        Err(full @ DeviceError::OutOfMemory { free, .. }) => {
            // Copies of arrays that nobody uses give way.
            let store = runtime::store_of_this_thread().ok_or(full);
            store.and_then(|store| {
                let _room = room::make(py, &store, id, bytes, Some(free));
                py.detach(|| device.allocate(bytes))
            })
        }
        allocated => allocated,
    };
    let block = block.map_err(|error| errors::device(py, &error))?;
    let stream = assignment::current(py).and_then(|current| current.stream_on(id));
    Ok(DeviceBlock {
        device: id.0,
        block,
        is_lent: false,
        stream: stream.map(|stream| Arc::downgrade(&stream)),
    })
}

/// Copy a box of elements from one memory to another, and wait until it is there. Strides are in bytes, one per dimension, and may be negative (or
/// zero in the source). A device of None is the host's memory. `keep` stays alive meanwhile.
///
/// Raises:
///     ValueError: shape and strides do not fit together, or there is no such device.
///     DeviceError: a device refused or failed.
#[pyfunction]
#[allow(
    clippy::too_many_arguments,
    reason = "two places and what lies between them"
)]
pub(crate) fn copy_strided(
    py: Python<'_>,
    dst_device: Option<u32>,
    dst_address: usize,
    dst_strides: Vec<isize>,
    src_device: Option<u32>,
    src_address: usize,
    src_strides: Vec<isize>,
    shape: Vec<usize>,
    itemsize: usize,
    keep: Py<PyAny>,
) -> PyResult<()> {
    for strides in [&dst_strides, &src_strides] {
        if strides.len() != shape.len() {
            return Err(PyValueError::new_err(format!(
                "copy: {} strides for an array of {} dimensions",
                strides.len(),
                shape.len()
            )));
        }
    }
    if shape.contains(&0) || itemsize == 0 {
        return Ok(());
    }
    let machine = machine::current(py)?;
    let keep = Arc::new(Kept::new(keep));
    let place = |device: Option<u32>, address: usize, strides: Vec<isize>| -> PyResult<_> {
        let device = device
            .map(|number| machine::device(&machine, number))
            .transpose()?
            .map(|(id, _)| id);
        let (low, high) = extent(&shape, &strides, itemsize);
        let block = Block::foreign(
            address.wrapping_add_signed(low),
            high.abs_diff(low) as u64,
            Arc::clone(&keep),
        );
        let place = Place {
            block: Arc::new(block),
            offset: low.unsigned_abs(),
            strides: SmallVec::from_vec(strides),
            device: device.and_then(|id| machine.key(machine.model().memory_of(id))),
        };
        Ok((device, place))
    };
    let (to, destination) = place(dst_device, dst_address, dst_strides)?;
    let (from, source) = place(src_device, src_address, src_strides)?;
    let copy = Copy {
        item: itemsize,
        shape: SmallVec::from_slice(&shape),
        source,
        destination,
    };
    // In a task the copy follows what is on the task's streams: its data may still be on the way, and kernels may use it.
    let current = assignment::current(py);
    let own = |device: Option<DeviceId>| current.as_ref()?.stream_on(device?);
    let (at_destination, at_source) = (own(to), own(from));
    py.detach(|| {
        let stream = match (&at_destination, &at_source) {
            (Some(stream), _) | (None, Some(stream)) => Arc::clone(stream),
            (None, None) => stream_for(&machine, to, from)?,
        };
        if let (Some(_), Some(before)) = (&at_destination, &at_source)
            && to != from
        {
            stream.wait(&before.record()?)?;
        }
        stream.copy(copy)?;
        stream.synchronize()
    })
    .map_err(|error| errors::device(py, &error))?;
    drop(keep);
    keep::drain(py);
    Ok(())
}

/// Wait until a stream that another library made has done what is on it. `stream` is its handle; 1 and 2 are CUDA's default streams.
///
/// Raises:
///     ValueError: there is no such device.
///     DeviceError: what went wrong on the device meanwhile.
#[pyfunction]
pub(crate) fn synchronize_raw(py: Python<'_>, device_number: u32, stream: usize) -> PyResult<()> {
    let machine = machine::current(py)?;
    let device = Arc::clone(machine::device(&machine, device_number)?.1);
    py.detach(|| device.synchronize_raw(stream))
        .map_err(|error| errors::device(py, &error))
}

/// The ordinal of the CUDA GPU whose memory has this address; None if there is none.
#[pyfunction]
pub(crate) fn ordinal_of(py: Python<'_>, address: usize) -> PyResult<Option<i32>> {
    let machine = machine::current(py)?;
    let n = machine.model().devices.len() as u32;
    let mut devices = (0..n).map(|number| machine.device(DeviceId(number)));
    let cuda = devices.find(|device| device.ordinal().is_some());
    Ok(cuda.and_then(|device| device.ordinal_of(address)))
}

/// A stream of the device whose memory takes part: the destination's, unless that is the host's.
fn stream_for(
    machine: &Machine,
    to: Option<DeviceId>,
    from: Option<DeviceId>,
) -> Result<Arc<dyn Stream>, DeviceError> {
    let has_own_memory = |id: &DeviceId| machine.model().memory_of(*id) != MachineModel::HOST;
    let device = to
        .filter(has_own_memory)
        .or(from.filter(has_own_memory))
        .unwrap_or(DeviceId(0));
    machine.device(device).stream()
}
