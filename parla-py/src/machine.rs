//! `machine()`: the devices, memories and links of this process, probed when first asked for.

use std::sync::Arc;

use parla_core::lock::Mutex;
use parla_core::{DeviceId, MemoryId};
use parla_data::Store;
use parla_device::{Device, DeviceError, HostBackend, HostOptions, Machine, Part};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};

use crate::{errors, runtime};

/// The machine and why it has no GPU, if it has none.
struct Probed {
    machine: Arc<Machine>,
    no_gpu: Option<String>,
    /// For arrays that are asked about while no runtime is open: it holds nothing.
    store: Arc<Store>,
}

static MACHINE: Mutex<Option<Arc<Probed>>> = Mutex::new(None);

fn probed() -> Result<Arc<Probed>, DeviceError> {
    let mut machine = MACHINE.lock();
    if let Some(probed) = &*machine {
        return Ok(Arc::clone(probed));
    }
    let probed = Arc::new(probe()?);
    *machine = Some(Arc::clone(&probed));
    Ok(probed)
}

fn probe() -> Result<Probed, DeviceError> {
    let host = HostBackend::probe(&HostOptions::from_process_env()?)?;
    let n_workers: Vec<_> = host
        .host_devices()
        .iter()
        .map(|device| u32::try_from(device.n_workers()).unwrap_or(u32::MAX))
        .collect();
    let parts = [Part {
        backend: &host,
        n_workers: &n_workers,
        in_host_memory: true,
    }];
    let inside = |_, _| parla_core::Link {
        latency_ns: 0,
        bytes_per_second: 1e10,
        direct: true,
    };
    let machine = Arc::new(Machine::assemble(&parts, inside));
    Ok(Probed {
        store: Store::new(Arc::clone(&machine)),
        machine,
        no_gpu: Some("this build finds no GPUs".to_owned()),
    })
}

/// The machine of this process.
pub(crate) fn current(py: Python<'_>) -> PyResult<Arc<Machine>> {
    match py.detach(probed) {
        Ok(probed) => Ok(Arc::clone(&probed.machine)),
        Err(error) => Err(errors::device(py, &error)),
    }
}

/// A store on the machine for use outside any runtime.
pub(crate) fn bare_store(py: Python<'_>) -> PyResult<Arc<Store>> {
    match py.detach(probed) {
        Ok(probed) => Ok(Arc::clone(&probed.store)),
        Err(error) => Err(errors::device(py, &error)),
    }
}

/// The number of a device that a user named, checked.
pub(crate) fn device(machine: &Machine, number: u32) -> PyResult<(DeviceId, &Arc<dyn Device>)> {
    let n = machine.model().devices.len();
    if (number as usize) < n {
        Ok((DeviceId(number), machine.device(DeviceId(number))))
    } else {
        Err(PyValueError::new_err(format!(
            "device number {number} does not exist: the machine has {n} devices"
        )))
    }
}

/// The machine: what there is to run tasks on and to keep arrays in. Probed when first asked for; no device is touched for it.
///
/// Returns:
///     A dict with the keys `devices` (by device number: `architecture`, `index`, `name`, `memory` (its number), `capacity` (bytes), `workers`,
///     `host_access`, `stream_ordered`, `ordinal`), `memories` (`name`, `capacity`), `links` (from memory, to memory: `latency_ns`, `bytes_per_second`,
///     `direct`) and `unavailable` (for `gpu`: why there is none, or None).
///
/// Raises:
///     ValueError: an environment variable or a device file has a value that makes no sense.
///     DeviceError: a device that was asked for cannot be had.
#[pyfunction]
pub(crate) fn machine(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    let probed = py
        .detach(probed)
        .map_err(|error| errors::device(py, &error))?;
    let machine = &probed.machine;
    let model = machine.model();
    let devices = PyList::empty(py);
    for id in model.device_ids() {
        let (facts, device) = (model.device(id), machine.device(id));
        let dict = PyDict::new(py);
        dict.set_item("architecture", &facts.architecture)?;
        dict.set_item("index", facts.index)?;
        dict.set_item("name", &facts.name)?;
        dict.set_item("memory", facts.memory.0)?;
        dict.set_item("capacity", device.memory_capacity())?;
        dict.set_item("workers", facts.n_workers)?;
        dict.set_item("host_access", device.host_access())?;
        dict.set_item("stream_ordered", device.stream_ordered())?;
        dict.set_item("ordinal", device.ordinal())?;
        devices.append(dict)?;
    }
    let memories = PyList::empty(py);
    for memory in &model.memories {
        let dict = PyDict::new(py);
        dict.set_item("name", &memory.name)?;
        dict.set_item("capacity", memory.capacity)?;
        memories.append(dict)?;
    }
    let links = PyList::empty(py);
    for row in &model.links {
        let list = PyList::empty(py);
        for link in row {
            let dict = PyDict::new(py);
            dict.set_item("latency_ns", link.latency_ns)?;
            dict.set_item("bytes_per_second", link.bytes_per_second)?;
            dict.set_item("direct", link.direct)?;
            list.append(dict)?;
        }
        links.append(list)?;
    }
    let unavailable = PyDict::new(py);
    unavailable.set_item("gpu", probed.no_gpu.as_deref())?;
    let dict = PyDict::new(py);
    dict.set_item("devices", devices)?;
    dict.set_item("memories", memories)?;
    dict.set_item("links", links)?;
    dict.set_item("unavailable", unavailable)?;
    Ok(dict)
}

/// Replaces the machine of this process, as `config` says; None: as the environment says, read again.
///
/// Raises:
///     ParlaError: a runtime is open.
///     TypeError, ValueError: the configuration makes no sense.
#[pyfunction]
#[pyo3(signature = (config))]
pub(crate) fn configure_machine(py: Python<'_>, config: Option<&Bound<'_, PyAny>>) -> PyResult<()> {
    if runtime::is_any_open() {
        return Err(errors::parla_error(
            py,
            "the machine cannot be configured while a runtime is open",
        ));
    }
    if let Some(config) = config {
        return Err(PyTypeError::new_err(format!(
            "configure_machine: expected None, not {}",
            config.get_type().name()?
        )));
    }
    let before = MACHINE.lock().take();
    drop(before);
    Ok(())
}

/// A memory's number that a user named, checked.
pub(crate) fn memory(machine: &Machine, number: u32) -> PyResult<MemoryId> {
    let n = machine.model().memories.len();
    if (number as usize) < n {
        Ok(MemoryId(number))
    } else {
        Err(PyValueError::new_err(format!(
            "memory number {number} does not exist: the machine has {n} memories"
        )))
    }
}
