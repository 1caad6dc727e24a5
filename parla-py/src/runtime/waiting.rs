//! Waiting, detached: for the end of a task or of all, with an ear for signals and for threads that may yet mend a stall.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parla_core::TaskId;
use parla_core::lock::Mutex;
use parla_sched::{Cx, Waited};
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

use super::report::deadlock;
use super::this_thread::{detached, with_running};
use super::{Rt, add_released};
use crate::executor::PyExecutor;
use crate::task::Task;
use crate::{errors, python};

/// Python's identifiers of the threads that are in a wait of ours.
static WAITING: Mutex<Vec<std::ffi::c_ulong>> = Mutex::new(Vec::new());

/// Whether another thread, started since the runtime opened, may still spawn what everybody waits for.
fn others_may_spawn(py: Python<'_>, rt: &Rt) -> PyResult<bool> {
    let before = rt
        .executor()
        .threads_before
        .lock()
        .as_ref()
        .map(|before| before.clone_ref(py));
    let Some(before) = before else {
        return Ok(false);
    };
    let waiting = WAITING.lock().clone();
    python::may_still_spawn(py)?
        .call1((before, waiting))?
        .extract()
}

/// How often to look again while a stall may yet be mended by another thread.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Whether this is the thread that Python's signal handlers run on.
fn is_main_thread() -> bool {
    #[cfg(target_os = "linux")]
    // SAFETY: a system call without arguments.
    let thread = u32::try_from(unsafe { libc::gettid() });
    #[cfg(not(target_os = "linux"))]
    let thread = Ok(std::process::id()); // then every thread looks after signals: PyErr_CheckSignals knows
    thread == Ok(std::process::id())
}

/// Waits, detached, with signal handlers run now and then if this is the main thread.
fn wait_detached(
    py: Python<'_>,
    wait: impl FnOnce(Option<parla_sched::Tick<'_>>) -> Waited,
) -> PyResult<Waited> {
    let mut raised = None;
    let begun = now();
    // SAFETY: a thread may ask who it is.
    let me = unsafe { libc::pthread_self() };
    WAITING.lock().push(me);
    let waited = detached(py, || {
        if !is_main_thread() {
            return wait(None);
        }
        let mut tick = || match Python::attach(|py| py.check_signals()) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                raised = Some(error);
                ControlFlow::Break(())
            }
        };
        wait(Some(&mut tick))
    });
    add_released(begun.elapsed());
    {
        let mut waiting = WAITING.lock();
        if let Some(at) = waiting.iter().position(|ident| *ident == me) {
            waiting.swap_remove(at);
        }
    }
    match raised {
        Some(error) => Err(error),
        None => Ok(waited),
    }
}

#[allow(clippy::disallowed_methods, reason = "to know how long a wait took")]
pub(super) fn now() -> Instant {
    Instant::now()
}

/// Waits; a stall is one only if no other thread of the program may still mend it.
pub(super) fn wait_unless_stalled(
    py: Python<'_>,
    rt: &Rt,
    timeout: Option<Duration>,
    wait: impl Fn(Option<Duration>, Option<parla_sched::Tick<'_>>) -> Waited,
) -> PyResult<Waited> {
    loop {
        let waited = wait_detached(py, |tick| wait(timeout, tick))?;
        if !matches!(waited, Waited::Stalled(_)) {
            return Ok(waited);
        }
        if !others_may_spawn(py, rt)? {
            // Nobody can any more; but between the stall and this look somebody may have, and ended.
            return wait_detached(py, |tick| wait(timeout, tick));
        }
        match wait_detached(py, |tick| wait(Some(LOOK_AGAIN), tick))? {
            Waited::TimedOut => {}
            other => return Ok(other),
        }
    }
}

/// Waits for the ends of tasks, all of them in one wait. `false`: the time was over first.
pub(crate) fn wait_for(
    py: Python<'_>,
    tasks: &[&Bound<'_, Task>],
    timeout: Option<Duration>,
) -> PyResult<bool> {
    let begun = now();
    // Mostly they are all of one runtime.
    for tasks in tasks.chunk_by(|a, b| Arc::ptr_eq(&a.get().rt, &b.get().rt)) {
        let rt = &tasks[0].get().rt;
        let ids: Vec<_> = tasks.iter().map(|task| task.get().id()).collect();
        let left = timeout.map(|timeout| timeout.saturating_sub(begun.elapsed()));
        if !wait_in(py, rt, &ids, left)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn wait_in(
    py: Python<'_>,
    rt: &Arc<Rt>,
    ids: &[TaskId],
    timeout: Option<Duration>,
) -> PyResult<bool> {
    check_not_forked(rt)?;
    let running = with_running(|task, cx| match cx {
        Some(cx) if Arc::ptr_eq(&task.get().rt, rt) => Some((
            task.clone_ref(py),
            std::ptr::from_ref(cx).cast::<Cx<'static, PyExecutor>>(),
        )),
        _ => None,
    });
    let waited = match running.flatten() {
        None => wait_unless_stalled(py, rt, timeout, |timeout, tick| {
            rt.wait_all(ids, timeout, tick)
        })?,
        Some((task, cx)) => {
            let me = task.get().id();
            rt.executor().begin_blocking(task, ids);
            // SAFETY: as in `with_running`: the body on this thread has not returned, so its `cx` is alive.
            let cx = unsafe { &*cx };
            let waited = wait_unless_stalled(py, rt, timeout, |timeout, tick| {
                cx.wait_all(ids, timeout, tick)
            });
            // A deadlock tells what this body waits for, too.
            let waited = waited.and_then(|waited| outcome(py, rt, waited));
            rt.executor().end_blocking(me);
            return waited;
        }
    };
    outcome(py, rt, waited)
}

/// Whether it ended well, or the error.
fn outcome(py: Python<'_>, rt: &Rt, waited: Waited) -> PyResult<bool> {
    match waited {
        Waited::Ended => Ok(true),
        Waited::TimedOut => Ok(false),
        Waited::Stalled(diagnosis) => Err(deadlock(py, rt, &diagnosis)),
        Waited::Interrupted => Err(PyRuntimeError::new_err("interrupted")),
        _ => Err(errors::parla_error(
            py,
            "a worker thread of the runtime has died; this is a fault of the runtime",
        )),
    }
}

pub(super) fn check_not_forked(rt: &Rt) -> PyResult<()> {
    if rt.executor().pid == std::process::id() {
        return Ok(());
    }
    Err(PyRuntimeError::new_err(
        "this runtime belongs to the parent process: its threads do not exist after a fork; open a new `with Parla():` in the child",
    ))
}

/// The task that runs here is about to wait for another, which may change what it uses.
pub(crate) fn leave_inputs(py: Python<'_>) {
    let running = with_running(|task, cx| cx.map(|_| task.clone_ref(py)));
    if let Some(task) = running.flatten() {
        task.get().rt.executor().leave_inputs(py, &task);
    }
}

/// A task that has waited for another goes on: what it uses may have been changed.
pub(crate) fn renew_arrays(py: Python<'_>) -> PyResult<()> {
    let running = with_running(|task, cx| {
        let cx = cx.map(|cx| std::ptr::from_ref(cx).cast::<Cx<'static, PyExecutor>>());
        cx.map(|cx| (task.clone_ref(py), cx))
    });
    let Some((task, cx)) = running.flatten() else {
        return Ok(());
    };
    // SAFETY: as in `with_running`: the body on this thread has not returned, so its `cx` is alive.
    let cx = unsafe { &*cx };
    let rt = Arc::clone(&task.get().rt);
    rt.executor().renew_arrays(py, cx, &task)
}
