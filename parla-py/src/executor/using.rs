//! How a worker runs a body that uses arrays or devices.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use parla_core::{DeviceId, MachineModel};
use parla_data::{DataError, Ended, Operand};
use parla_device::{Device, DeviceError, Event, Machine};
use parla_sched::{Assigned, Cx, Runahead};
use pyo3::exceptions::PyMemoryError;
use pyo3::prelude::*;

use super::{PyExecutor, PyThread, Ran, step};
use crate::assignment;
use crate::task::{Task, UNDECIDED};
use crate::{errors, keep, machine, python, room, runtime};

impl PyExecutor {
    /// One step of a task with operands or devices. Its [`Uses`](assignment::Uses) say where they are while the body runs.
    pub(super) fn run_using(
        &self,
        py: Python<'_>,
        thread: &mut PyThread,
        cx: &Cx<'_, Self>,
        task: &Py<Task>,
    ) -> Ran {
        if let Some(drained) = cx.drained() {
            return last_step(py, task, drained);
        }
        let assigned = cx.assigned();
        let prepared = self
            .prepare(py, cx, task, assigned.as_ref())
            .and_then(|()| self.watch_inputs(py, task, assigned.as_deref()));
        if let Err(error) = prepared {
            return Ran::Failed(error);
        }
        let ran = run_on_devices(py, task, assigned, || {
            thread.in_context(py, task, || step(py, task))
        });
        let ran = self.judge_inputs(py, task, ran);
        let assigned = cx.assigned(); // another one, if the body has waited
        let (runahead, kernel_errors, operands) = {
            let mut core = task.get().core.lock();
            let uses = core.uses.as_mut().expect("it is there until the task ends");
            uses.assigned = None; // not the last one: `assigned` is here
            (
                uses.runahead,
                uses.kernel_errors.clone(),
                Arc::clone(&uses.operands),
            )
        };
        let kernel_error = kernel_errors.and_then(|errors| errors.take(py));
        let ran = match (ran, kernel_error) {
            (Ran::Done(_), Some(error)) => Ran::Failed(error),
            (ran, _) => ran,
        };
        let ran = match &assigned {
            Some(assigned) => self.settle(py, task, assigned, runahead, ran),
            None => ran,
        };
        if let Ran::Failed(error) = &ran {
            match &assigned {
                None => self.spoil(py, task, &operands),
                Some(assigned) => self.make_room(py, task, assigned, error),
            }
        }
        drop((assigned, operands));
        keep::drain(py);
        ran
    }

    /// Brings what the body needs: where it was placed that has been done, otherwise its operands must be current at home.
    fn prepare(
        &self,
        py: Python<'_>,
        cx: &Cx<'_, Self>,
        task: &Py<Task>,
        assigned: Option<&Arc<Assigned>>,
    ) -> PyResult<()> {
        let (operands, goes_on) = {
            let mut core = task.get().core.lock();
            let uses = core.uses.as_mut().expect("it is there until the task ends");
            uses.assigned = assigned.cloned();
            if let Some(assigned) = assigned {
                let choice = u32::try_from(assigned.choice).unwrap_or(UNDECIDED);
                task.get().choice.store(choice, Ordering::Relaxed);
            }
            let goes_on = std::mem::replace(&mut uses.begun, true);
            if assigned.is_some() {
                return Ok(());
            }
            (Arc::clone(&uses.operands), goes_on)
        };
        self.trace_uses(cx, &operands);
        self.bring_home(py, &operands, goes_on)
    }

    /// Makes operands current at home; `goes_on`: also those that the task itself has written.
    fn bring_home(&self, py: Python<'_>, operands: &[Operand], goes_on: bool) -> PyResult<()> {
        if operands.iter().all(|operand| operand.array.is_host_only()) {
            return Ok(());
        }
        let store = self.store_or_bare(py)?;
        let at_home = |operand: &Operand| {
            let (array, region) = (&operand.array, &operand.region);
            // After a wait also what it wrote itself: those it waited for may have changed that.
            if operand.fetches() || goes_on {
                match store.to_host(array, region, false) {
                    // Who was waited for has failed. The body goes on, and hears of it when it looks there.
                    Err(DataError::Invalid { .. }) if goes_on => return Ok(()),
                    brought => brought?,
                }
            }
            if operand.access.writes() {
                store.to_overwrite(array, region)?;
            }
            Ok(())
        };
        py.detach(|| operands.iter().try_for_each(at_home))
            .map_err(|error| errors::data(py, &error))
    }

    /// The body waited for other tasks, which may have changed the arrays it uses: has them brought again.
    pub(crate) fn renew_arrays(
        &self,
        py: Python<'_>,
        cx: &Cx<'_, Self>,
        task: &Py<Task>,
    ) -> PyResult<()> {
        let operands = match &task.get().core.lock().uses {
            Some(uses) => Arc::clone(&uses.operands),
            _ => return Ok(()),
        };
        let renewed = runtime::detached(py, || cx.renew_data());
        let Some(assigned) = cx.assigned() else {
            self.trace_uses(cx, &operands);
            self.bring_home(py, &operands, true)?;
            return self.watch_inputs(py, task, None);
        };
        let before = task
            .get()
            .core
            .lock()
            .uses
            .as_mut()
            .and_then(|uses| uses.assigned.replace(assigned));
        drop(before);
        match renewed {
            Ok(assigned) => self.watch_inputs(py, task, assigned.as_deref()),
            Err(error) => Err(errors::placing(py, &error)),
        }
    }

    /// The body has returned or raised: what its devices still have to do comes first.
    fn settle(
        &self,
        py: Python<'_>,
        task: &Py<Task>,
        assigned: &Assigned,
        runahead: Runahead,
        ran: Ran,
    ) -> Ran {
        let wanted = match ran {
            // Where streams keep the order the runtime needs their events, whoever synchronises.
            Ran::Done(_) => runahead != Runahead::User || self.is_stream_ordered(assigned),
            Ran::Failed(_) => true,
            Ran::Awaits(_) | Ran::Drains(_) => false,
        };
        if !wanted {
            return ran;
        }
        match (ran, outstanding(assigned)) {
            (Ran::Done(_), Err(error)) => Ran::Failed(errors::device(py, &error)),
            (Ran::Done(value), Ok(events)) if !events.is_empty() => {
                if let Some(uses) = &mut task.get().core.lock().uses {
                    uses.value = Some(value);
                }
                Ran::Drains(events)
            }
            (Ran::Failed(error), Ok(events)) => {
                // It must not go on writing where others write next. The body's own error is the one to report.
                py.detach(|| events.iter().for_each(|event| drop(event.synchronize())));
                Ran::Failed(error)
            }
            (ran, _) => ran,
        }
    }

    /// Whether work on all of its devices goes by the order of streams.
    fn is_stream_ordered(&self, assigned: &Assigned) -> bool {
        let ordered = |machine: &Arc<Machine>| {
            let mut devices = assigned.devices.iter();
            devices.all(|&device| machine.device(device).stream_ordered())
        };
        self.machine().is_some_and(ordered)
    }

    /// A body that will be run again could not have the memory it asked a device for: gives up copies of arrays there that nobody uses.
    fn make_room(&self, py: Python<'_>, task: &Py<Task>, assigned: &Assigned, error: &PyErr) {
        // CuPy's error and ours are MemoryErrors, Torch's is not.
        let is_full = error.is_instance_of::<PyMemoryError>(py)
            || error
                .get_type(py)
                .name()
                .is_ok_and(|name| name == "OutOfMemoryError");
        if task.get().core.lock().retries == 0 || !is_full {
            return;
        }
        let Some(store) = &self.store else { return };
        let model = store.machine().model();
        // Other libraries do not say how much they asked for: half of the memory, then.
        let said = |name: &str| {
            let bytes = error.value(py).getattr(name);
            bytes.and_then(|bytes| bytes.extract::<u64>()).ok()
        };
        let (requested, free) = (said("requested"), said("free"));
        for &device in &assigned.devices {
            let memory = model.memory_of(device);
            if memory != MachineModel::HOST {
                let capacity = model.memories[memory.0 as usize].capacity;
                let _room = room::make(py, store, device, requested.unwrap_or(capacity / 2), free);
                // For libraries that take memory from the system, as ours kept it.
                py.detach(|| store.machine().device(device).release_unused());
            }
        }
    }

    /// The body failed half-way: what it was to write at home is not to be trusted.
    fn spoil(&self, py: Python<'_>, task: &Py<Task>, operands: &Arc<[Operand]>) {
        if !operands.iter().any(|operand| operand.access.writes()) {
            return;
        }
        let Ok(store) = self.store_or_bare(py) else {
            return;
        };
        let because = format!("{} failed", task.get().describe(py));
        let n_slots = operands.iter().map(|operand| operand.slot + 1).max();
        let cpu = vec![DeviceId(0); n_slots.unwrap_or(1)];
        py.detach(|| {
            if let Some(mut staged) = store.try_stage(operands, &cpu) {
                staged.begin();
                staged.end(Ended::Badly(because));
            }
        });
    }
}

/// The devices have done what the body gave them, or failed.
fn last_step(py: Python<'_>, task: &Py<Task>, drained: Result<(), DeviceError>) -> Ran {
    let (value, kernel_errors) = {
        let mut core = task.get().core.lock();
        let uses = core.uses.as_mut().expect("it is there until the task ends");
        (uses.value.take(), uses.kernel_errors.clone())
    };
    let kernel_error = kernel_errors.and_then(|errors| errors.take(py));
    match (kernel_error, drained, value) {
        // What the function raised says more than that the device noticed.
        (Some(error), ..) => Ran::Failed(error),
        (None, Err(error), _) => Ran::Failed(errors::device(py, &error)),
        (None, Ok(()), Some(value)) => Ran::Done(value),
        (None, Ok(()), None) => Ran::Failed(errors::parla_error(py, "a task lost its value")),
    }
}

/// The vendor's contexts that were on this thread's stack, and who puts them there again.
struct CurrentContext((Arc<dyn Device>, Vec<usize>));

impl CurrentContext {
    /// A thread that had none keeps the one that is current now.
    fn keep(&mut self) {
        let (device, before) = &mut self.0;
        if before.is_empty() {
            let now = device.make_current().unwrap_or_default();
            before.extend(now.last());
        }
    }
}

impl Drop for CurrentContext {
    fn drop(&mut self) {
        let (device, before) = &self.0;
        device.restore_current(before);
    }
}

/// Runs the body with the devices' libraries set to its devices and streams.
fn run_on_devices(
    py: Python<'_>,
    task: &Py<Task>,
    assigned: Option<Arc<Assigned>>,
    run: impl FnOnce() -> Ran,
) -> Ran {
    let Some(assigned) = assigned else {
        return run();
    };
    let mut context = None;
    let mut enter = || -> PyResult<Option<Py<PyAny>>> {
        let machine = machine::current(py)?;
        let has_library = |id: &parla_core::DeviceId| machine.device(*id).ordinal().is_some();
        if !assigned.devices.iter().any(has_library) {
            return Ok(None);
        }
        // First, and given back last: the libraries change it, too.
        context = assignment::make_current(task.get(), &assigned, &machine);
        let devices = assignment::to_list(py, task.get(), &assigned)?;
        let token = python::enter_devices(py)?.call1((devices,))?;
        Ok(Some(token.unbind()))
    };
    let token = enter();
    let mut entered = context.map(CurrentContext);
    let token = match token {
        Ok(token) => token,
        Err(error) => return Ran::Failed(error),
    };
    drop(assigned);
    let ran = run();
    let Some(token) = token else {
        return ran;
    };
    let left = python::leave_devices(py).and_then(|leave| leave.call1((token,))?.is_truthy());
    if let (Ok(true), Some(entered)) = (&left, &mut entered) {
        entered.keep();
    }
    drop(entered);
    match (ran, left) {
        (Ran::Failed(error), _) => Ran::Failed(error),
        (_, Err(error)) => Ran::Failed(error),
        (ran, Ok(_)) => ran,
    }
}

/// Events after all that the body gave to its devices and these have not done yet.
fn outstanding(assigned: &Assigned) -> Result<Vec<Arc<dyn Event>>, DeviceError> {
    let mut events = Vec::new();
    for stream in assigned.streams.iter().flatten() {
        if !stream.is_idle()? {
            events.push(stream.record()?);
        }
    }
    Ok(events)
}
