//! What the running task has: its devices with their streams, and its operands in place.

use std::cell::RefCell;
use std::sync::Arc;

use parla_core::{DeviceId, MachineModel, Region};
use parla_data::Operand;
use parla_device::{Device, Machine, Place};
use parla_sched::{Assigned, Runahead};
use pyo3::exceptions::PyIndexError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};

use crate::stream::{KernelErrors, Stream};
use crate::task::Task;
use crate::{errors, machine, runtime};

/// What a task uses beyond a worker's time.
pub(crate) struct Uses {
    pub(crate) operands: Arc<[Operand]>,
    pub(crate) runahead: Runahead,
    /// Where its data is; `None` while it does not run, or if nothing had to be placed: then its operands are at home.
    pub(crate) assigned: Option<Arc<Assigned>>,
    /// Which of its devices counts as the current one.
    pub(crate) slot: usize,
    /// Its body has started once.
    pub(crate) begun: bool,
    /// What the body returned, while its devices are still at work.
    pub(crate) value: Option<Py<PyAny>>,
    /// What Python functions raised that it launched on its streams.
    pub(crate) kernel_errors: Option<KernelErrors>,
    /// Who sees to it that its inputs stay as they are (`parla._inputs.Watch`); `None`: nobody, or not yet.
    pub(crate) watch: Option<Py<PyAny>>,
}

impl Uses {
    pub(crate) fn new(operands: Arc<[Operand]>, runahead: Runahead) -> Self {
        Self {
            operands,
            runahead,
            assigned: None,
            slot: 0,
            begun: false,
            value: None,
            kernel_errors: None,
            watch: None,
        }
    }
}

/// A task on whose behalf a thread works that is none of the runtime's, and its current device.
type Lent = (Py<Task>, usize);

thread_local! {
    static LENT: RefCell<Option<Lent>> = const { RefCell::new(None) };
}

/// The running task with what it uses.
pub(crate) struct Current {
    pub(crate) task: Py<Task>,
    operands: Arc<[Operand]>,
    assigned: Option<Arc<Assigned>>,
    slot: usize,
}

/// What the task uses that this thread runs; `None`: it runs none, or one without operands and devices.
pub(crate) fn current(py: Python<'_>) -> Option<Current> {
    let lent = LENT.with_borrow(|lent| {
        lent.as_ref()
            .map(|(task, slot)| (task.clone_ref(py), Some(*slot)))
    });
    let (task, slot) = match lent {
        Some(lent) => lent,
        None => (runtime::current_task(py)?, None),
    };
    let (operands, assigned, slot) = {
        let core = task.get().core.lock();
        let uses = core.uses.as_ref()?;
        (
            Arc::clone(&uses.operands),
            uses.assigned.clone(),
            slot.unwrap_or(uses.slot),
        )
    };
    Some(Current {
        task,
        operands,
        assigned,
        slot,
    })
}

impl Current {
    pub(crate) fn operands(&self) -> &[Operand] {
        &self.operands
    }

    /// Where it was placed, if somebody had to choose.
    pub(crate) fn assigned(&self) -> Option<&Arc<Assigned>> {
        self.assigned.as_ref()
    }

    /// The operand that contains `region`, its number, and where it is (`None`: at home). If there are several, one on the current device goes first, then
    /// one that may be written if that is wanted.
    pub(crate) fn find(
        &self,
        array: &parla_data::Array,
        region: &Region,
        write: bool,
    ) -> Option<(usize, &Operand, Option<Place>)> {
        let contains =
            |operand: &Operand| operand.array.id() == array.id() && operand.region.contains(region);
        let rank =
            |operand: &Operand| (operand.slot == self.slot, !write || operand.access.writes());
        let (index, operand) = self
            .operands
            .iter()
            .enumerate()
            .filter(|(_, operand)| contains(operand))
            .max_by_key(|(index, operand)| (rank(operand), std::cmp::Reverse(*index)))?;
        let place = self
            .assigned
            .as_ref()
            .and_then(|assigned| assigned.place(index));
        Some((index, operand, place))
    }

    /// The task's stream on a device, if that is one of its devices and has streams.
    pub(crate) fn stream_on(&self, device: DeviceId) -> Option<Arc<dyn parla_device::Stream>> {
        let assigned = self.assigned.as_ref()?;
        let slot = assigned.devices.iter().position(|&own| own == device)?;
        assigned.streams.get(slot)?.clone()
    }

    /// Whether the current device works in the host's memory.
    pub(crate) fn is_on_host(&self) -> bool {
        let Some(assigned) = &self.assigned else {
            return true;
        };
        let machine = self.task.get().rt.executor().machine();
        match (machine, assigned.devices.get(self.slot)) {
            (Some(machine), Some(device)) => {
                machine.model().memory_of(*device) == MachineModel::HOST
            }
            _ => true,
        }
    }

    /// Its devices, for messages.
    pub(crate) fn device_names(&self, py: Python<'_>) -> String {
        let (Some(assigned), Ok(machine)) = (&self.assigned, machine::current(py)) else {
            return "the CPU".to_owned();
        };
        let names: Vec<_> = assigned
            .devices
            .iter()
            .map(|device| machine.model().device(*device).name.clone())
            .collect();
        names.join(" and ")
    }
}

/// Where the running task was placed.
///
/// Returns:
///     One dict per device, in the order of its placement: `device` (its number), `architecture`, `index`, `ordinal` (the vendor's number, or
///     None), `stream` (a `Stream`, or None). None if no task runs on this thread, or one that nobody had to place.
#[pyfunction]
pub(crate) fn assignment(py: Python<'_>) -> PyResult<Option<Bound<'_, PyList>>> {
    let Some(current) = current(py) else {
        return Ok(None);
    };
    match &current.assigned {
        Some(assigned) => to_list(py, current.task.get(), assigned).map(Some),
        None => Ok(None),
    }
}

/// An assignment as Python sees it.
pub(crate) fn to_list<'py>(
    py: Python<'py>,
    task: &Task,
    assigned: &Assigned,
) -> PyResult<Bound<'py, PyList>> {
    let errors = match &mut task.core.lock().uses {
        Some(uses) => uses.kernel_errors.get_or_insert_default().clone(),
        None => KernelErrors::default(),
    };
    let machine = match task.rt.executor().machine() {
        Some(machine) => Arc::clone(machine),
        None => machine::current(py)?,
    };
    let list = PyList::empty(py);
    for (slot, id) in assigned.devices.iter().enumerate() {
        let (facts, device) = (machine.model().device(*id), machine.device(*id));
        let stream = assigned.streams.get(slot).and_then(Option::as_ref);
        let stream = stream
            .map(|stream| Stream::new(Arc::clone(stream), Arc::clone(device), errors.clone()));
        let dict = PyDict::new(py);
        dict.set_item("device", id.0)?;
        dict.set_item("architecture", &facts.architecture)?;
        dict.set_item("index", facts.index)?;
        dict.set_item("ordinal", device.ordinal())?;
        dict.set_item("stream", stream)?;
        list.append(dict)?;
    }
    Ok(list)
}

/// Makes the vendor's context of the task's current device current on this thread, if it has one; that device, and the contexts that it had before.
pub(crate) fn make_current(
    task: &Task,
    assigned: &Assigned,
    machine: &Machine,
) -> Option<(Arc<dyn Device>, Vec<usize>)> {
    let slot = task.core.lock().uses.as_ref().map_or(0, |uses| uses.slot);
    let device = machine.device(*assigned.devices.get(slot)?);
    let before = device.make_current()?;
    Some((Arc::clone(device), before))
}

/// Which of the running task's devices counts as the current one from now on (for `with context[i]`). Returns which did before.
///
/// Raises:
///     IndexError: the task has no such device.
///     InvalidSchedulerAccessException: no task runs on this thread.
#[pyfunction]
pub(crate) fn set_current_slot(py: Python<'_>, slot: usize) -> PyResult<usize> {
    let before = set_slot(py, slot)?;
    let assigned = current(py).and_then(|current| current.assigned);
    if let Some(id) = assigned.and_then(|assigned| assigned.devices.get(slot).copied()) {
        // Not given back here: that is done for the body as a whole.
        machine::current(py)?.device(id).make_current();
    }
    Ok(before)
}

fn set_slot(py: Python<'_>, slot: usize) -> PyResult<usize> {
    let check = |assigned: Option<&Arc<Assigned>>| {
        let n = assigned.map_or(1, |assigned| assigned.devices.len());
        if slot < n {
            Ok(())
        } else {
            Err(PyIndexError::new_err(format!(
                "device {slot} of a task with {n}"
            )))
        }
    };
    let lent = LENT.with_borrow_mut(|lent| {
        lent.as_mut()
            .map(|(_, current)| std::mem::replace(current, slot))
    });
    if let Some(before) = lent {
        return Ok(before);
    }
    let Some(task) = runtime::current_task(py) else {
        return Err(errors::no_runtime(
            py,
            "this can be set only inside a task; no task runs on this thread",
        ));
    };
    let mut core = task.get().core.lock();
    match core.uses.as_mut() {
        Some(uses) => {
            check(uses.assigned.as_ref())?;
            Ok(std::mem::replace(&mut uses.slot, slot))
        }
        None => {
            check(None)?;
            Ok(0)
        }
    }
}

/// Lets this thread work on behalf of a running task (None: no longer), with device `slot` as the current one: for threads that the task itself started
/// and waits for.
#[pyfunction]
#[pyo3(signature = (task, slot = 0))]
pub(crate) fn lend_task(task: Option<Py<Task>>, slot: usize) {
    let before = LENT.replace(task.map(|task| (task, slot)));
    drop(before);
}
