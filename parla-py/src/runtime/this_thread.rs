//! Which runtime and which task a thread is in.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parla_core::TaskId;
use parla_core::lock::Mutex;
use parla_data::Store;
use parla_sched::{Cx, SpawnError, Task as Request};
use pyo3::intern;
use pyo3::prelude::*;

use super::Rt;
use crate::errors;
use crate::executor::{PyBody, PyExecutor};
use crate::task::Task;

/// The body that runs on this thread.
#[derive(Clone, Copy)]
pub(super) struct Running {
    /// Null while a cancelled coroutine is closed: then there is no worker to spawn through.
    cx: *const Cx<'static, PyExecutor>,
    task: *const Py<Task>,
}

thread_local! {
    pub(super) static RUNNING: Cell<Option<Running>> = const { Cell::new(None) };
    /// Runtimes opened by this thread and not closed, the innermost last.
    pub(super) static OPENED: RefCell<Vec<Arc<Rt>>> = const { RefCell::new(Vec::new()) };
    /// Time this thread was known not to hold the GIL, since last asked.
    static RELEASED: Cell<Duration> = const { Cell::new(Duration::ZERO) };
}

/// Every open runtime, the last opened last: for threads that opened none.
pub(super) static OPEN: Mutex<Vec<Arc<Rt>>> = Mutex::new(Vec::new());

/// This process is a fork of one that had an open runtime.
pub(super) static FORKED: AtomicBool = AtomicBool::new(false);

/// While it lives, this thread runs a task.
pub(crate) struct Entered(Option<Running>);

impl Drop for Entered {
    fn drop(&mut self) {
        RUNNING.set(self.0);
    }
}

/// This thread begins to run `task`.
pub(crate) fn enter_task(_py: Python<'_>, cx: &Cx<'_, PyExecutor>, task: &Py<Task>) -> Entered {
    // Lifetimes are erased, not extended: `Entered` ends inside the scope of both references.
    let cx = std::ptr::from_ref(cx).cast();
    Entered(RUNNING.replace(Some(Running { cx, task })))
}

/// This thread closes the coroutine of a cancelled task.
pub(crate) fn enter_cancelled(task: &Py<Task>) -> Entered {
    Entered(RUNNING.replace(Some(Running {
        cx: std::ptr::null(),
        task,
    })))
}

/// The running task and its worker, if this thread runs one.
pub(super) fn with_running<R>(
    f: impl FnOnce(&Py<Task>, Option<&Cx<'_, PyExecutor>>) -> R,
) -> Option<R> {
    let running = RUNNING.get()?;
    // SAFETY: both pointers were made from references that outlive the `Entered` which took them back out of
    // RUNNING at its end; they were made on this thread and are used on this thread only.
    let (task, cx) = unsafe { (&*running.task, running.cx.as_ref()) };
    Some(f(task, cx))
}

/// Whether this thread is a worker in the middle of a body.
pub(crate) fn runs_a_task() -> bool {
    with_running(|_, cx| cx.is_some()).unwrap_or(false)
}

/// Whether the body that runs on this thread uses arrays or devices.
pub(crate) fn runs_a_placed_task() -> bool {
    with_running(|task, _| task.get().has_uses).unwrap_or(false)
}

/// Whether the body that runs on this thread uses coherent arrays.
pub(crate) fn runs_a_task_with_arrays() -> bool {
    let uses_arrays = |task: &Py<Task>, _: Option<&Cx<'_, PyExecutor>>| {
        let core = task.get().core.lock();
        core.uses
            .as_ref()
            .is_some_and(|uses| !uses.operands.is_empty())
    };
    with_running(uses_arrays).unwrap_or(false)
}

/// For traces: this thread has learnt that a task has ended. `recorded`: by a wait that is recorded if a body does it.
pub(crate) fn trace_waited(task: &Task, recorded: bool) {
    let rt = &task.rt;
    if !rt.executor().trace {
        return;
    }
    let by_body = with_running(|body, cx| match cx {
        Some(cx) if Arc::ptr_eq(&body.get().rt, rt) => {
            if !recorded {
                cx.trace_waited(&[task.id()]);
            }
            true
        }
        _ => false,
    });
    if by_body != Some(true) {
        rt.trace_waited(task.id());
    }
}

/// The runtime that a spawn on this thread goes to.
pub(crate) fn of_this_thread() -> Option<Arc<Rt>> {
    if let Some(rt) = with_running(|task, _| Arc::clone(&task.get().rt)) {
        let inner = OPENED.with_borrow(|opened| opened.last().cloned());
        return inner.or(Some(rt));
    }
    OPENED
        .with_borrow(|opened| opened.last().cloned())
        .or_else(|| OPEN.lock().last().cloned())
}

/// The same, or the error that there is none.
pub(crate) fn current(py: Python<'_>) -> PyResult<Arc<Rt>> {
    of_this_thread().ok_or_else(|| {
        let text = if FORKED.load(Ordering::Relaxed) {
            "spawn: no runtime is open in this process: it is a fork of one that had a runtime, whose threads do not exist here; \
             open a new `with Parla():`"
        } else {
            "spawn: no runtime is open; spawn tasks inside `with Parla():` (tasks cannot be spawned after their block has ended)"
        };
        errors::no_runtime(py, text)
    })
}

/// Spawns through this thread's worker if it runs a task of `rt`, else from outside.
pub(crate) fn spawn_in(
    rt: &Arc<Rt>,
    request: Request<'_>,
    make_body: impl FnOnce(TaskId) -> PyBody,
) -> Result<TaskId, SpawnError> {
    let mut make_body = Some(make_body);
    let inside = with_running(|task, cx| match cx {
        Some(cx) if Arc::ptr_eq(&task.get().rt, rt) => {
            Some(cx.spawn(request.clone(), make_body.take().expect("taken once")))
        }
        _ => None,
    });
    match (inside.flatten(), make_body) {
        (Some(spawned), _) => spawned,
        (None, Some(make_body)) => rt.spawn(request, make_body),
        (None, None) => Err(SpawnError::Closed),
    }
}

/// Runs `f` on this thread without the GIL.
pub(crate) fn detached<R>(py: Python<'_>, f: impl FnOnce() -> R) -> R {
    struct OnThisThread<T>(T);
    // SAFETY: `detach` calls its closure on the calling thread and returns its result there; nothing goes to another thread. `f` has no token of the
    // GIL: `Python` is neither captured by our callers nor obtainable but by attaching.
    unsafe impl<T> Send for OnThisThread<T> {}
    impl<T> OnThisThread<T> {
        fn take(self) -> T {
            self.0
        }
    }
    let f = OnThisThread(f);
    py.detach(move || OnThisThread(f.take()())).take()
}

/// Tells an `async with finish():` of the running task that it has spawned another.
pub(crate) fn note_spawned(py: Python<'_>, spawned: &Py<Task>) -> PyResult<()> {
    let scope = with_running(|task, _| {
        task.get()
            .core
            .lock()
            .finish_scope
            .as_ref()
            .map(|scope| scope.clone_ref(py))
    });
    match scope.flatten() {
        Some(scope) => scope
            .bind(py)
            .call_method1(intern!(py, "append"), (spawned,))
            .map(drop),
        None => Ok(()),
    }
}

/// Adds to the time without the GIL.
pub(crate) fn add_released(time: Duration) {
    RELEASED.set(RELEASED.get() + time);
}

/// The time without the GIL since the last call.
pub(crate) fn take_released() -> Duration {
    RELEASED.replace(Duration::ZERO)
}

/// Whether any runtime is open in this process.
pub(crate) fn is_any_open() -> bool {
    !OPEN.lock().is_empty()
}

/// What arrays have in the memories of the runtime that this thread is in.
pub(crate) fn store_of_this_thread() -> Option<Arc<Store>> {
    of_this_thread()?.executor().store().cloned()
}

/// The task this thread runs, or None.
#[pyfunction]
pub(crate) fn current_task(py: Python<'_>) -> Option<Py<Task>> {
    with_running(|task, _| task.clone_ref(py))
}

/// The worker that runs the task of this thread, or None.
#[pyfunction]
pub(crate) fn current_worker() -> Option<u16> {
    with_running(|_, cx| cx.and_then(Cx::worker)).flatten()
}

/// Sets the list that collects what the running task spawns (`finish()`), and returns the one before.
#[pyfunction]
#[pyo3(signature = (scope))]
pub(crate) fn set_finish_scope(scope: Option<Py<PyAny>>) -> Option<Py<PyAny>> {
    with_running(|task, _| std::mem::replace(&mut task.get().core.lock().finish_scope, scope))
        .flatten()
}
