//! The devices and arrays of an open runtime.

use std::ops::ControlFlow;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use parla_core::{Access, Region, TraceUse};
use parla_data::{DataError, DataEvent, Store};
use parla_device::Machine;
use parla_sched::{Placement, policy};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyTuple};

use super::Runtime;
use crate::{errors, keep, machine};

impl Runtime {
    /// Brings the newest contents of all arrays home and gives the devices' memory back. What goes wrong there is an error of the block, like a stall.
    ///
    /// `interrupted` is told what a signal handler raises, and says whether to wait on. `false`: it did not, and data are still on their way: they
    /// arrive, and whoever reads an array waits for its own.
    pub(super) fn bring_data_home(
        &self,
        py: Python<'_>,
        stalled: &mut Option<PyErr>,
        mut interrupted: impl FnMut(PyErr) -> ControlFlow<()>,
    ) -> bool {
        let Some(store) = self.rt.executor().store() else {
            return true;
        };
        let closed = if store.is_unused() {
            store.close()
        } else {
            let (done, mut closed) = mpsc::channel();
            let theirs = Arc::clone(store);
            // A thread of its own: copies can't be broken off, but waiting for them can.
            let started = thread::Builder::new()
                .name("parla-home".to_owned())
                .spawn(move || {
                    // Nobody may be listening any more.
                    let _ = done.send(theirs.close());
                });
            match started {
                Err(_) => py.detach(|| store.close()),
                Ok(thread) => loop {
                    let heard;
                    (closed, heard) = py.detach(move || {
                        let heard = closed.recv_timeout(LISTEN);
                        (closed, heard)
                    });
                    match heard {
                        Ok(closed) => {
                            // It has nothing left to do.
                            let _ = py.detach(|| thread.join());
                            break closed;
                        }
                        Err(mpsc::RecvTimeoutError::Timeout) => {
                            if let Err(error) = py.check_signals()
                                && interrupted(error).is_break()
                            {
                                return false;
                            }
                        }
                        Err(mpsc::RecvTimeoutError::Disconnected) => {
                            if let Err(panic) = py.detach(|| thread.join()) {
                                std::panic::resume_unwind(panic);
                            }
                            break Ok(());
                        }
                    }
                },
            }
        };
        keep::drain(py);
        for error in closed.err().into_iter().flatten() {
            // What is invalid because its task failed has been reported by that task, and is again to whoever reads it.
            if matches!(error, DataError::Invalid { .. }) {
                continue;
            }
            let error = errors::data(py, &error);
            match stalled {
                None => *stalled = Some(error),
                Some(first) => errors::add_note(first.value(py), &format!("besides, {error}")),
            }
        }
        true
    }
}

/// How often a thread that waits for data to come home looks for signals.
const LISTEN: Duration = Duration::from_millis(50);

/// Who places tasks, and what arrays have on the devices; `None`: there is no memory but the host's, and one CPU device.
pub(super) fn placement(py: Python<'_>, policy: &str, depth: usize) -> PyResult<Option<Placement>> {
    if depth == 0 {
        return Err(PyValueError::new_err("depth: expected 1 or more, got 0"));
    }
    let policy = policy::make(policy, 0)
        .map_err(|error| errors::policy_error(py, format!("policy: {error}")))?;
    let machine = machine::current(py)?;
    if let ([_], [_]) = (&machine.model().memories[..], &machine.model().devices[..]) {
        return Ok(None);
    }
    Ok(Some(Placement {
        store: Store::new(machine),
        policy,
        depth,
    }))
}

/// What happened on the devices and in their memories, into `dict`.
pub(super) fn add_device_stats(
    dict: &Bound<'_, PyDict>,
    stats: &parla_sched::Stats,
    machine: Option<&Arc<Machine>>,
) -> PyResult<()> {
    let py = dict.py();
    let (devices, memories) = (PyList::empty(py), PyList::empty(py));
    for device in &stats.devices {
        let one = PyDict::new(py);
        one.set_item("name", &device.name)?;
        one.set_item("tasks", device.tasks)?;
        one.set_item("busy_s", device.busy_ns as f64 * 1e-9)?;
        devices.append(one)?;
    }
    if let (Some(data), Some(machine)) = (&stats.data, machine) {
        let model = machine.model();
        for (memory, counts) in model.memories.iter().zip(&data.memories) {
            let one = PyDict::new(py);
            one.set_item("name", &memory.name)?;
            one.set_item("used", counts.used)?;
            one.set_item("peak", counts.peak)?;
            one.set_item("evictions", counts.evictions)?;
            one.set_item("copies", counts.n_copies)?;
            let from = PyDict::new(py);
            for (source, bytes) in model.memories.iter().zip(&counts.bytes_from) {
                from.set_item(&source.name, bytes)?;
            }
            one.set_item("bytes_from", from)?;
            memories.append(one)?;
        }
    }
    dict.set_item("devices", devices)?;
    dict.set_item("memories", memories)
}

/// What happened to the copies of arrays, for those who check that no more was moved than had to be.
pub(super) fn history<'py>(
    py: Python<'py>,
    store: Option<&Arc<Store>>,
) -> PyResult<Bound<'py, PyList>> {
    let list = PyList::empty(py);
    let Some(store) = store else {
        return Ok(list);
    };
    let memories = &store.machine().model().memories;
    for one in py.detach(|| store.history()) {
        let dict = PyDict::new(py);
        dict.set_item("event", one.event.name())?;
        dict.set_item("array", one.array)?;
        dict.set_item("name", &*one.name)?;
        dict.set_item("shape", PyTuple::new(py, &one.shape)?)?;
        dict.set_item("item", one.item)?;
        dict.set_item("instance", one.instance.0)?;
        dict.set_item("memory", &memories[one.memory.0 as usize].name)?;
        dict.set_item("region", ranges(py, &one.region)?)?;
        match one.event {
            DataEvent::Asked {
                access,
                exact,
                again,
            } => {
                dict.set_item("access", access_name(access))?;
                dict.set_item("exact", exact)?;
                dict.set_item("again", again)?;
            }
            DataEvent::Ahead { sure } => dict.set_item("sure", sure)?,
            DataEvent::Reached { overwrites } => dict.set_item("overwrites", overwrites)?,
            DataEvent::Copied { from, source } => {
                dict.set_item("from", from.0)?;
                dict.set_item("source", &memories[source.0 as usize].name)?;
            }
            _ => {}
        }
        list.append(dict)?;
    }
    Ok(list)
}

/// A box as one (start, stop) per dimension.
fn ranges<'py>(py: Python<'py>, region: &Region) -> PyResult<Bound<'py, PyTuple>> {
    let ranges = region.ranges().map(|range| (range.start, range.end));
    PyTuple::new(py, ranges.collect::<Vec<_>>())
}

fn access_name(access: Access) -> &'static str {
    match access {
        Access::Input => "input",
        Access::Output => "output",
        Access::InOut => "inout",
    }
}

/// What a body did with an operand, for a trace.
pub(super) fn describe_use<'py>(
    py: Python<'py>,
    one: &TraceUse,
    machine: Option<&Arc<Machine>>,
) -> PyResult<Bound<'py, PyDict>> {
    let memories = machine.map(|machine| &machine.model().memories);
    let memory = memories.and_then(|memories| memories.get(one.memory.0 as usize));
    let reads = (one.finds.iter())
        .map(|(region, version)| Ok((ranges(py, region)?, *version)))
        .collect::<PyResult<Vec<_>>>()?;
    let dict = PyDict::new(py);
    dict.set_item("array", one.array)?;
    dict.set_item("name", &one.name)?;
    dict.set_item("region", ranges(py, &one.region)?)?;
    dict.set_item("access", access_name(one.access))?;
    dict.set_item("exact", one.exact)?;
    dict.set_item("memory", memory.map_or("host", |memory| &memory.name))?;
    dict.set_item("reads", reads)?;
    dict.set_item("writes", one.writes)?;
    Ok(dict)
}
