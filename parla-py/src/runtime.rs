//! One open runtime as Python sees it.

mod data;
pub(crate) mod exit;
mod report;
pub(crate) mod reservation;
pub(crate) mod this_thread;
mod waiting;

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use parla_core::{Claim, DeviceId, TaskId, TraceEvent, Vcus};
use parla_sched::{Options, Waited};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};

use crate::errors;
use crate::executor::PyExecutor;
use crate::task::Task;
use crate::{body, gil, placed, python, spawn};
use data::{add_device_stats, placement};
use report::{MAX_LINES, deadlock, describe, reasons};
use this_thread::{OPEN, OPENED};
pub(crate) use this_thread::{
    add_released, current, current_task, detached, enter_cancelled, enter_task, is_any_open,
    note_spawned, of_this_thread, runs_a_placed_task, runs_a_task, runs_a_task_with_arrays,
    spawn_in, store_of_this_thread, take_released, trace_waited,
};
use waiting::{check_not_forked, now, wait_unless_stalled};
pub(crate) use waiting::{leave_inputs, renew_arrays, wait_for};

/// The scheduler's runtime with Python's executor.
pub(crate) type Rt = parla_sched::Runtime<PyExecutor>;

/// Failed tasks nobody looked at, a deadlock error, and what a signal handler raised.
type Finished<'py> = (Bound<'py, PyList>, Option<PyErr>, Option<PyErr>);

/// How long the exit of the interpreter waits for running bodies, ...
const EXIT_GRACE: f64 = 5.0;
/// ... and then for those that an exception is thrown into.
const LAST_WORDS: Duration = Duration::from_millis(300);

/// The native half of `parla.Parla`: one open runtime.
#[pyclass(frozen, module = "parla._native")]
pub(crate) struct Runtime {
    rt: Arc<Rt>,
    memory: u64,
}

#[pymethods]
impl Runtime {
    /// Starts the workers. With several CPU devices, `memory` (bytes) is that of all of them, and each has its own worker. `policy` (name:option=value)
    /// places tasks that may run on several devices or use arrays, `depth` of them ahead of those that run on a device. `environments` is for
    /// `parla.environments`. `check`: bodies that change their inputs fail.
    #[new]
    #[pyo3(signature = (workers, memory, *, devices = 1, trace = false, policy = "locality", depth = 2, environments = None, runahead = None, check = false))]
    #[allow(clippy::too_many_arguments, reason = "keyword arguments in Python")]
    fn new(
        py: Python<'_>,
        workers: usize,
        memory: u64,
        devices: u32,
        trace: bool,
        policy: &str,
        depth: usize,
        environments: Option<Py<PyAny>>,
        runahead: Option<&Bound<'_, PyAny>>,
        check: bool,
    ) -> PyResult<Self> {
        gil::init(py);
        let runahead = runahead.map(spawn::parse_runahead).transpose()?;
        let runahead = runahead.unwrap_or_default();
        let placement = placement(py, policy, depth)?;
        let store = placement
            .as_ref()
            .map(|placement| Arc::clone(&placement.store));
        let options = Options {
            workers,
            capacity: Claim {
                vcus: Vcus(Vcus::WHOLE.0.saturating_mul(devices)),
                memory,
            },
            trace,
            name: "parla".to_owned(),
            bind: Vec::new(),
            placement,
        };
        let rt = py
            .detach(|| {
                Rt::new(
                    PyExecutor::new(trace, store, environments, runahead, check),
                    options,
                )
            })
            .map_err(|error| errors::parla_error(py, error.to_string()))?;
        Ok(Self {
            rt: Arc::new(rt),
            memory,
        })
    }

    /// This runtime becomes the one that this thread (and threads with none of their own) spawns into.
    fn open(&self, py: Python<'_>) -> PyResult<()> {
        let threads = python::thread_snapshot(py)?.call0()?.unbind();
        *self.rt.executor().threads_before.lock() = Some(threads);
        self.rt.enlist_this_thread();
        OPENED.with_borrow_mut(|opened| opened.push(Arc::clone(&self.rt)));
        OPEN.lock().push(Arc::clone(&self.rt));
        Ok(())
    }

    /// Waits until nothing is pending; `cancel`: after cancelling what has not started; `timeout`: after so many seconds
    /// running bodies are abandoned; `interrupted`: the block was left by an interrupt, so that the next one abandons them, too.
    ///
    /// Returns (failed tasks nobody looked at, deadlock error or None, what a signal handler raised or None).
    #[pyo3(signature = (cancel, timeout = None, interrupted = false))]
    fn finish<'py>(
        &self,
        py: Python<'py>,
        cancel: bool,
        timeout: Option<f64>,
        interrupted: bool,
    ) -> PyResult<Finished<'py>> {
        if check_not_forked(&self.rt).is_err() {
            return Ok((PyList::empty(py), None, None)); // the child of a fork leaves the block: the tasks are the parent's
        }
        let rt = &self.rt;
        let timeout = timeout.map(Duration::from_secs_f64);
        let mut stalled = None;
        let mut interrupt = None;
        let mut abandoned = false;
        if cancel {
            py.detach(|| rt.cancel_unstarted());
        }
        loop {
            match wait_unless_stalled(py, rt, timeout, |timeout, tick| rt.wait_idle(timeout, tick))
            {
                Ok(Waited::Stalled(diagnosis)) => {
                    stalled = stalled.or_else(|| Some(deadlock(py, rt, &diagnosis)));
                    py.detach(|| rt.cancel_stranded());
                }
                Ok(Waited::Ended) => {
                    rt.close();
                    if rt.n_pending() == 0 {
                        break;
                    }
                }
                Ok(Waited::TimedOut) => {
                    self.abandon(py);
                    abandoned = true;
                    break;
                }
                Ok(_) => {
                    stalled = Some(errors::parla_error(
                        py,
                        "a worker thread of the runtime has died; this is a fault of the runtime",
                    ));
                    break;
                }
                Err(error) if interrupt.is_none() && !interrupted => {
                    interrupt = Some(error);
                    py.detach(|| rt.cancel_unstarted());
                }
                Err(error) => {
                    interrupt = Some(error);
                    self.abandon(py);
                    abandoned = true;
                    break;
                }
            }
        }
        if !abandoned {
            let came_home = self.bring_data_home(py, &mut stalled, |error| {
                let again = interrupt.is_some() || interrupted;
                interrupt = Some(error);
                if again {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                }
            });
            if !came_home {
                self.abandon(py);
            }
        }
        let failed = PyList::new(py, rt.executor().take_failed())?;
        Ok((failed, stalled, interrupt))
    }

    /// Stops and joins the workers.
    fn close(&self, py: Python<'_>) {
        OPENED.with_borrow_mut(|opened| opened.retain(|rt| !Arc::ptr_eq(rt, &self.rt)));
        OPEN.lock().retain(|rt| !Arc::ptr_eq(rt, &self.rt));
        if check_not_forked(&self.rt).is_ok() {
            py.detach(|| self.rt.shutdown());
            self.rt.executor().close();
            body::forget_codes();
            placed::forget_placements();
        }
    }

    /// Leaves running bodies to themselves, with a `TaskCancelled` raised in each as soon as it runs Python code.
    ///
    /// What is blocked outside of Python does not notice, and ends with the process.
    fn abandon(&self, py: Python<'_>) {
        py.detach(|| self.rt.abandon());
        let cancelled = errors::task_cancelled(py, "").get_type(py);
        let begun = now();
        loop {
            let running = self.rt.executor().running_threads();
            if running.is_empty() || begun.elapsed() > LAST_WORDS {
                return;
            }
            for ident in running {
                // SAFETY: attached; an ident that no longer runs Python is ignored.
                unsafe { ffi::PyThreadState_SetAsyncExc(ident.cast_signed(), cancelled.as_ptr()) };
            }
            py.detach(|| std::thread::sleep(LAST_WORDS / 20));
        }
    }

    /// Whether it takes no more tasks.
    #[getter]
    fn closed(&self) -> bool {
        self.rt.is_closed()
    }

    /// Counts since the start, as `parla.Parla.stats` documents them.
    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let stats = self.rt.stats();
        let failed = self.rt.executor().n_failed.load(Ordering::Relaxed);
        let cancelled = self.rt.executor().n_cancelled.load(Ordering::Relaxed);
        let dict = PyDict::new(py);
        dict.set_item("workers", stats.workers.len())?;
        dict.set_item("spawned", stats.spawned)?;
        dict.set_item("pending", stats.spawned.saturating_sub(stats.finished))?;
        dict.set_item("done", stats.finished.saturating_sub(failed + cancelled))?;
        dict.set_item("failed", failed)?;
        dict.set_item("cancelled", cancelled)?;
        dict.set_item(
            "steps_per_worker",
            stats.workers.iter().map(|w| w.steps).collect::<Vec<_>>(),
        )?;
        dict.set_item(
            "steals",
            stats.workers.iter().map(|w| w.steals).sum::<u64>(),
        )?;
        dict.set_item("parks", stats.workers.iter().map(|w| w.parks).sum::<u64>())?;
        dict.set_item("vcus_claimed", f64::from(stats.claimed.vcus.0) / 1000.0)?;
        dict.set_item("memory_claimed", stats.claimed.memory)?;
        dict.set_item("memory", self.memory)?;
        add_device_stats(&dict, &stats, self.rt.executor().machine())?;
        Ok(dict)
    }

    /// The trace so far, one dict per record.
    fn trace<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let (records, devices) = py.detach(|| (self.rt.trace(), self.rt.stats().devices));
        let list = PyList::empty(py);
        for record in records {
            let (name, location) = self.rt.executor().traced_name(record.task);
            let dict = PyDict::new(py);
            dict.set_item("event", record.event.name())?;
            dict.set_item("task", record.task.as_u64())?;
            dict.set_item("name", name)?;
            dict.set_item("time", record.time_ns as f64 * 1e-9)?;
            dict.set_item("worker", record.worker.map_or(-1, i64::from))?;
            let ids: Vec<u64> = record.tasks.iter().map(|id| id.as_u64()).collect();
            match record.event {
                TraceEvent::Spawned => {
                    dict.set_item("deps", ids)?;
                    dict.set_item("parent", record.parent.map(TaskId::as_u64))?;
                    dict.set_item("vcus", f64::from(record.claim.vcus.0) / 1000.0)?;
                    dict.set_item("memory", record.claim.memory)?;
                    dict.set_item("location", location)?;
                }
                TraceEvent::Suspended | TraceEvent::Waited => dict.set_item("on", ids)?,
                TraceEvent::Placed => {
                    let name = |device: &DeviceId| devices.get(device.0 as usize).map(|d| &d.name);
                    let names: Vec<_> = record.devices.iter().filter_map(name).collect();
                    dict.set_item("devices", names)?;
                    dict.set_item("why", &record.note)?;
                }
                TraceEvent::Running | TraceEvent::Resumed if !record.uses.is_empty() => {
                    let uses = record.uses.iter();
                    let uses =
                        uses.map(|one| data::describe_use(py, one, self.rt.executor().machine()));
                    dict.set_item("uses", uses.collect::<PyResult<Vec<_>>>()?)?;
                }
                _ => {}
            }
            if matches!(
                record.event,
                TraceEvent::Suspended | TraceEvent::Done | TraceEvent::Failed
            ) {
                dict.set_item("gil", record.held_ns as f64 * 1e-9)?;
            }
            list.append(dict)?;
        }
        Ok(list)
    }

    /// With a trace: what happened to the copies of arrays, in order, one dict each.
    fn data_history<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        data::history(py, self.rt.executor().store())
    }

    /// What a task is doing or waiting for, and why it is where it is, in words.
    fn why(&self, py: Python<'_>, task: &Bound<'_, Task>) -> String {
        let id = task.get().id();
        let description = task.get().describe(py);
        let state = task
            .getattr("state")
            .map_or_else(|_| "?".to_owned(), |state| state.to_string());
        if task.get().is_done() || !Arc::ptr_eq(&task.get().rt, &self.rt) {
            return format!("{description} is {state}");
        }
        let (diagnosis, placement) = py.detach(|| (self.rt.diagnose(), self.rt.placement_of(id)));
        let placed = match placement {
            Some((devices, why)) if why.is_empty() => format!("; it was placed on {devices}"),
            Some((devices, why)) => format!("; it was placed on {devices}: {why}"),
            None => String::new(),
        };
        match diagnosis.blocked.iter().find(|blocked| blocked.id == id) {
            Some(blocked) => format!(
                "{description} is {state}: it {}{placed}",
                reasons(py, &self.rt, blocked, &diagnosis.never_spawned)
            ),
            None => format!("{description} is {state}{placed}"),
        }
    }

    /// Every task that has not ended, with what it waits for, in words.
    fn report(&self, py: Python<'_>) -> String {
        let diagnosis = self.rt.diagnose();
        let lines = diagnosis.blocked.iter().take(4 * MAX_LINES).map(|blocked| {
            format!(
                "{} {}",
                describe(py, &self.rt, blocked.id, true),
                reasons(py, &self.rt, blocked, &diagnosis.never_spawned)
            )
        });
        lines.collect::<Vec<_>>().join("\n")
    }

    /// Checks the invariants of the core; raises `ParlaError` naming what is violated. For tests, while nothing runs.
    fn validate(&self, py: Python<'_>) -> PyResult<()> {
        self.rt
            .validate()
            .map_err(|violated| errors::parla_error(py, violated))
    }
}

impl Drop for Runtime {
    /// One that was never closed (an interrupt came in between) is closed here: its workers need the GIL to end.
    fn drop(&mut self) {
        Python::attach(|py| self.close(py));
    }
}
