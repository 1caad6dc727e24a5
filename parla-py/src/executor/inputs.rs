//! With `Parla(check=True)`: whether bodies leave their inputs as they are. `parla._inputs` compares; here is where the inputs are.

use std::sync::Arc;

use parla_core::{MachineModel, Region, TraceUse};
use parla_data::Operand;
use parla_sched::Assigned;
use pyo3::exceptions::PyBaseException;
use pyo3::prelude::*;
use pyo3::types::{PyList, PyTuple};

use super::{PyExecutor, Ran};
use crate::device_block::DeviceBlock;
use crate::task::Task;
use crate::{array, errors, machine, python};

impl PyExecutor {
    /// The body is about to run, or to go on: from now on its inputs stay as they are.
    pub(super) fn watch_inputs(
        &self,
        py: Python<'_>,
        task: &Py<Task>,
        assigned: Option<&Assigned>,
    ) -> PyResult<()> {
        if !self.check {
            return Ok(());
        }
        let (operands, watch) = {
            let core = task.get().core.lock();
            let uses = core.uses.as_ref().expect("it is there until the task ends");
            let watch = uses.watch.as_ref().map(|watch| watch.clone_ref(py));
            (Arc::clone(&uses.operands), watch)
        };
        if operands.is_empty() {
            return Ok(());
        }
        let watch = match watch {
            Some(watch) => watch,
            None => {
                let made = python::input_watch(py)?.call1((task.get().describe(py),))?;
                let made = made.unbind();
                if let Some(uses) = &mut task.get().core.lock().uses {
                    uses.watch = Some(made.clone_ref(py));
                }
                made
            }
        };
        let (inputs, outputs) = (PyList::empty(py), PyList::empty(py));
        for (index, operand) in operands.iter().enumerate() {
            let id = operand.array.id().0;
            if operand.access.writes() {
                outputs.append((id, ranges(py, &operand.region)?))?;
                continue;
            }
            for region in unwritten(operand, &operands) {
                if let Some(place) = place(py, operand, index, &region, assigned)? {
                    let name = format!("{}{region}", operand.array.name());
                    inputs.append((index, name, id, ranges(py, &region)?, place))?;
                }
            }
        }
        let changed = watch.call_method1(py, "begin", (inputs, outputs))?;
        self.distrust(py, task, changed.bind(py))
    }

    /// The body has let go of its inputs: have they changed? That is an error of the task when its body ends.
    pub(crate) fn leave_inputs(&self, py: Python<'_>, task: &Py<Task>) {
        if !self.check {
            return;
        }
        let Some(watch) = watch_of(py, task) else {
            return;
        };
        let changed = watch.call_method0(py, "end");
        let ended = changed.and_then(|changed| self.distrust(py, task, changed.bind(py)));
        if let Err(error) = ended {
            error.write_unraisable(py, Some(watch.bind(py)));
        }
    }

    /// The body has changed parts of its inputs, by operand: what was where it ran is not to be trusted.
    fn distrust(
        &self,
        py: Python<'_>,
        task: &Py<Task>,
        changed: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let changed: Vec<(usize, Vec<(usize, usize)>)> = changed.extract()?;
        if changed.is_empty() {
            return Ok(());
        }
        let (operands, assigned) = {
            let core = task.get().core.lock();
            let uses = core.uses.as_ref().expect("it is there until the task ends");
            (Arc::clone(&uses.operands), uses.assigned.clone())
        };
        let store = self.store_or_bare(py)?;
        let because = format!("{} changed it, an input", task.get().describe(py));
        for (index, ranges) in changed {
            let operand = &operands[index];
            let region = Region::new(ranges.into_iter().map(|(start, end)| start..end));
            let device = assigned.as_ref().map(|at| at.devices[operand.slot]);
            let memory =
                device.map_or(MachineModel::HOST, |d| store.machine().model().memory_of(d));
            store.distrust(&operand.array, &region, memory, &because);
        }
        Ok(())
    }

    /// What the body came to, which is an error if it has changed an input.
    pub(super) fn judge_inputs(&self, py: Python<'_>, task: &Py<Task>, ran: Ran) -> Ran {
        if !self.check {
            return ran;
        }
        self.leave_inputs(py, task);
        if matches!(ran, Ran::Awaits(_)) {
            return ran;
        }
        let Some(watch) = watch_of(py, task) else {
            return ran;
        };
        match (ran, watch.call_method0(py, "check")) {
            (ran, Ok(_)) => ran,
            (Ran::Failed(error), Err(changed)) => {
                let value: Py<PyBaseException> = error.into_value(py);
                errors::add_note(value.bind(py), &format!("besides, {}", changed.value(py)));
                Ran::Failed(PyErr::from_value(value.into_bound(py).into_any()))
            }
            (_, Err(changed)) => Ran::Failed(changed),
        }
    }

    /// For a trace: what a body uses that nobody had to place. Nothing moves there, so there are no versions.
    pub(super) fn trace_uses(&self, cx: &parla_sched::Cx<'_, Self>, operands: &[Operand]) {
        if !self.trace {
            return;
        }
        let one = |operand: &Operand| TraceUse {
            array: operand.array.id().0,
            name: operand.array.name().to_owned(),
            region: operand.region.clone(),
            access: operand.access,
            exact: operand.exact,
            memory: MachineModel::HOST,
            finds: Vec::new(),
            writes: None,
        };
        cx.trace_uses(operands.iter().map(one).collect());
    }
}

fn watch_of(py: Python<'_>, task: &Py<Task>) -> Option<Py<PyAny>> {
    let core = task.get().core.lock();
    let watch = core.uses.as_ref()?.watch.as_ref()?;
    Some(watch.clone_ref(py))
}

/// What of an input the task does not write as part of another operand.
fn unwritten(input: &Operand, operands: &[Operand]) -> Vec<Region> {
    let mut rest = vec![input.region.clone()];
    for other in operands {
        if other.access.writes() && other.array.id() == input.array.id() {
            let parts = rest.iter().flat_map(|part| part.difference(&other.region));
            rest = parts.collect();
        }
    }
    rest.retain(|region| !region.is_empty());
    rest
}

/// Where a box of an operand is, for Python: address, shape, strides, bytes per element, what keeps the memory. `None`: the CPU cannot address it.
fn place<'py>(
    py: Python<'py>,
    operand: &Operand,
    index: usize,
    region: &Region,
    assigned: Option<&Assigned>,
) -> PyResult<Option<Bound<'py, PyTuple>>> {
    let placed = assigned.and_then(|assigned| assigned.place(index));
    let shape = PyTuple::new(py, region.shape())?;
    let item = operand.array.item();
    let Some(place) = placed.filter(|place| place.device.is_some()) else {
        let home = operand.array.home();
        let whole = Region::whole(operand.array.shape());
        let first = home.block.address() + home.offset;
        let address = array::address_of(first, &home.strides, &whole, region);
        let strides = PyTuple::new(py, &home.strides)?;
        return (address, shape, strides, item, py.None())
            .into_pyobject(py)
            .map(Some);
    };
    let machine = machine::current(py)?;
    let device = place.device.and_then(|key| machine.find(key.0, key.1));
    let Some(device) = device.filter(|device| machine.device(*device).host_access()) else {
        return Ok(None);
    };
    let first = place.block.address() + place.offset;
    let address = array::address_of(first, &place.strides, &operand.region, region);
    let strides = PyTuple::new(py, &place.strides)?;
    let keep = DeviceBlock::new(device.0, Arc::clone(&place.block));
    (address, shape, strides, item, keep)
        .into_pyobject(py)
        .map(Some)
}

fn ranges<'py>(py: Python<'py>, region: &Region) -> PyResult<Bound<'py, PyTuple>> {
    let ranges = region.ranges().map(|range| (range.start, range.end));
    PyTuple::new(py, ranges.collect::<Vec<_>>())
}
