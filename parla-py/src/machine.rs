//! `machine()`: the devices, memories and links of this process, probed when first asked for.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use parla_core::lock::Mutex;
use parla_core::{DeviceId, MemoryId};
use parla_data::Store;
use parla_device::{Device, DeviceError, Machine, MachineOptions};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyFloat, PyInt, PyList, PyString};

use crate::{errors, python, runtime};

/// The machine, with what is made of it once.
struct Probed {
    machine: Arc<Machine>,
    /// For arrays that are asked about while no runtime is open: it holds nothing.
    store: Arc<Store>,
    /// As `machine()` returns it.
    dict: PyOnceLock<Py<PyDict>>,
}

impl Probed {
    fn new(options: &MachineOptions) -> Result<Arc<Self>, DeviceError> {
        Machine::probe(options).map(Self::of)
    }

    fn of(machine: Machine) -> Arc<Self> {
        let machine = Arc::new(machine);
        Arc::new(Self {
            store: Store::new(Arc::clone(&machine)),
            machine,
            dict: PyOnceLock::new(),
        })
    }
}

/// Nothing of Python is dropped or called under this lock.
static MACHINE: Mutex<Option<Arc<Probed>>> = Mutex::new(None);

/// Called detached: the first call looks at the machine.
fn find() -> Result<Arc<Probed>, DeviceError> {
    let mut machine = MACHINE.lock();
    if let Some(probed) = &*machine {
        return Ok(Arc::clone(probed));
    }
    let probed = Probed::new(&MachineOptions::from_process_env()?)?;
    *machine = Some(Arc::clone(&probed));
    Ok(probed)
}

fn probed(py: Python<'_>) -> PyResult<Arc<Probed>> {
    if let Some(known) = MACHINE.try_lock()
        && let Some(probed) = &*known
    {
        return Ok(Arc::clone(probed));
    }
    py.detach(find).map_err(|error| errors::device(py, &error))
}

/// In the child of a fork: the threads that drive the devices do not exist here, so it looks for them anew.
pub(crate) fn forget_after_fork() {
    if let Some(mut machine) = MACHINE.try_lock() {
        std::mem::forget(machine.take());
    }
}

/// The machine of this process.
pub(crate) fn current(py: Python<'_>) -> PyResult<Arc<Machine>> {
    probed(py).map(|probed| Arc::clone(&probed.machine))
}

/// A store on the machine for use outside any runtime.
pub(crate) fn bare_store(py: Python<'_>) -> PyResult<Arc<Store>> {
    probed(py).map(|probed| Arc::clone(&probed.store))
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

/// The machine: what there is to run tasks on and to keep arrays in. Looked at when first asked for; no device is touched for it.
///
/// Returns:
///     A dict with the keys `devices` (by device number: `architecture`, `index`, `name`, `memory` (its number), `capacity` (bytes), `workers`,
///     `host_access`, `stream_ordered`, `ordinal`, `model`), `memories` (`name`, `capacity`), `links` (from memory, to memory: `latency_ns`, `bytes_per_second`,
///     `direct`), `links_are_measured` and `unavailable` (for `gpu`: why there is none, or None). The same object every time, until the machine is replaced.
///
/// Raises:
///     ValueError: an environment variable has a value that makes no sense.
///     DeviceError: a device that was asked for cannot be had.
#[pyfunction]
pub(crate) fn machine(py: Python<'_>) -> PyResult<Py<PyDict>> {
    let probed = probed(py)?;
    let dict = probed
        .dict
        .get_or_try_init(py, || describe(py, &probed.machine).map(Bound::unbind))?;
    Ok(dict.clone_ref(py))
}

fn describe<'py>(py: Python<'py>, machine: &Machine) -> PyResult<Bound<'py, PyDict>> {
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
        dict.set_item("model", device.model())?;
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
    unavailable.set_item("gpu", machine.unavailable("gpu"))?;
    let dict = PyDict::new(py);
    dict.set_item("devices", devices)?;
    dict.set_item("memories", memories)?;
    dict.set_item("links", links)?;
    dict.set_item("links_are_measured", machine.links_are_measured())?;
    dict.set_item("unavailable", unavailable)?;
    Ok(dict)
}

/// Measure the links between the memories of this machine, which should have nothing else to do, and keep the results in a file for all runs
/// to come.
///
/// Returns:
///     The path of the file.
///
/// Raises:
///     ParlaError: a runtime is open; there are no real GPUs; there is no place for the file.
///     DeviceError: what a device says, `DeviceOutOfMemory` among it.
#[pyfunction]
pub(crate) fn measure_links(py: Python<'_>) -> PyResult<PathBuf> {
    let refuse = |why: &str| Err(errors::parla_error(py, format!("measure_links: {why}")));
    if runtime::is_any_open() {
        return refuse("a runtime is open, whose copies would disturb the measurement");
    }
    let machine = current(py)?;
    if machine.sim().is_some() {
        return refuse("simulated GPUs have the links that they are given (PARLA_SIM_LINK)");
    }
    if let Some(why) = machine.unavailable("gpu") {
        return refuse(&why);
    }
    let Some(path) = machine.link_file().map(Path::to_owned) else {
        return refuse("there is no place to keep the results: set PARLA_LINK_FILE to a file");
    };
    let measured = py.detach(|| {
        let measured = machine.with_links(machine.measure_links()?);
        measured.save_links(&path).map(|()| Probed::of(measured))
    });
    let measured = measured.map_err(|error| errors::device(py, &error))?;
    let before = MACHINE.lock().replace(measured);
    drop(before);
    Ok(path)
}

/// What a configuration may have, with the environment variable that says the same.
const KEYS: [(&str, &str); 8] = [
    ("file", "PARLA_DEVICE_FILE"),
    ("cpu_cores", "PARLA_CORES"),
    ("cpu_memory", "PARLA_CPU_MEM"),
    ("sim_gpus", "PARLA_SIM_GPUS"),
    ("gpu_memory", "PARLA_SIM_GPU_MEM"),
    ("links", "PARLA_SIM_LINK"),
    ("time", "PARLA_SIM_TIME"),
    ("faults", "PARLA_SIM_FAULTS"),
];

/// Replace the machine of this process.
///
/// Args:
///     config: None: what the environment says, read again. A dict: besides, or instead, what its keys say: `cpu_cores`, `cpu_memory` (bytes), `sim_gpus`
///         (how many), `gpu_memory` (bytes, or a list with one number per simulated GPU), `links`, `time`, `faults` (as in ``PARLA_SIM_LINK``,
///         ``PARLA_SIM_TIME``, ``PARLA_SIM_FAULTS``; `links` may also be a dict of its settings).
///
/// Raises:
///     ParlaError: a runtime is open.
///     TypeError, ValueError: the configuration makes no sense; the machine stays as it was.
#[pyfunction]
#[pyo3(signature = (config))]
pub(crate) fn configure_machine(
    py: Python<'_>,
    config: Option<&Bound<'_, PyDict>>,
) -> PyResult<()> {
    let mut said: Vec<(&'static str, String)> = Vec::new();
    for (key, value) in config.into_iter().flat_map(|config| config.iter()) {
        let known = key.extract::<String>().ok().and_then(|key| {
            let same = |(known, _): &&(&str, &'static str)| *known == key;
            KEYS.iter().find(same)
        });
        let Some((key, variable)) = known else {
            let known: Vec<_> = KEYS.iter().map(|(known, _)| *known).collect();
            return Err(PyValueError::new_err(format!(
                "configure_machine: {key} is not known; there are {}",
                known.join(", ")
            )));
        };
        if !value.is_none() {
            said.push((variable, setting(key, &value)?));
        }
    }
    let options = MachineOptions::from_env(|name| {
        let own = said.iter().find(|(variable, _)| *variable == name);
        own.map(|(_, value)| value.clone())
            .or_else(|| std::env::var_os(name).map(|value| value.to_string_lossy().into_owned()))
    });
    let options = options.map_err(|error| bad_setting(py, &error, &said))?;
    if runtime::is_any_open() {
        return Err(errors::parla_error(
            py,
            "the machine cannot be configured while a runtime is open",
        ));
    }
    let probed = py
        .detach(|| Probed::new(&options))
        .map_err(|error| errors::device(py, &error))?;
    let before = MACHINE.lock().replace(probed);
    drop(before);
    Ok(())
}

/// A value of a configuration as its variable would have it.
fn setting(key: &str, value: &Bound<'_, PyAny>) -> PyResult<String> {
    if value.is_instance_of::<PyString>()
        || value.is_instance_of::<PyInt>()
        || value.is_instance_of::<PyFloat>()
    {
        return Ok(value.str()?.to_string());
    }
    if let Ok(settings) = value.cast::<PyDict>() {
        let settings = settings.iter().map(|(key, value)| format!("{key}={value}"));
        return Ok(settings.collect::<Vec<_>>().join(","));
    }
    let Ok(items) = value.try_iter() else {
        return Err(PyTypeError::new_err(format!(
            "configure_machine: {key}: expected a number, a text or a list, not {}",
            python::type_name(value)
        )));
    };
    let items = items.map(|item| Ok(item?.str()?.to_string()));
    Ok(items.collect::<PyResult<Vec<_>>>()?.join(","))
}

/// An error of a variable that a configuration stands for names the key.
fn bad_setting(py: Python<'_>, error: &DeviceError, said: &[(&str, String)]) -> PyErr {
    match error {
        DeviceError::BadVariable {
            name,
            value,
            allowed,
        } if said.iter().any(|(variable, _)| variable == name) => {
            let key = KEYS.iter().find(|(_, variable)| variable == name);
            let key = key.map_or(*name, |(key, _)| *key);
            PyValueError::new_err(format!(
                "configure_machine: {key} is {value:?}, expected {allowed}"
            ))
        }
        error => errors::device(py, error),
    }
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
