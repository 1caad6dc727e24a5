//! `topology()`: the machine as a dict.

use parla_device::{DeviceError, Topology};
use pyo3::exceptions::PyOSError;
use pyo3::prelude::*;
use pyo3::types::PyDict;

/// What this process may use of the machine.
///
/// Keys: `workers` (default worker count), `cores` (physical cores), `pus` (hardware threads), `packages`,
/// `numa_nodes`, `memory` (bytes), `source` ("hwloc", "sysfs" or "std").
#[pyfunction]
pub(crate) fn topology(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    let (machine, memory) = py.detach(|| (Topology::detect(), parla_device::available_memory()));
    let memory = memory.map_err(|error: DeviceError| PyOSError::new_err(error.to_string()))?;
    let cores = machine.usable_cores();
    let dict = PyDict::new(py);
    dict.set_item("workers", machine.default_workers())?;
    dict.set_item("cores", cores.len())?;
    dict.set_item(
        "pus",
        cores.iter().map(|core| core.pus.len()).sum::<usize>(),
    )?;
    dict.set_item("packages", machine.packages.len())?;
    dict.set_item("numa_nodes", machine.numa_nodes.len())?;
    dict.set_item("memory", memory)?;
    dict.set_item("source", machine.source.to_string())?;
    Ok(dict)
}
