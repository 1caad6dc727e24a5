//! How a worker runs a task's body.

mod books;
mod environment;
mod inputs;
mod using;

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use parla_core::lock::Mutex;
use parla_core::{Cancelled, Diagnosis, TaskId};
use parla_data::Store;
use parla_device::{Event, ProfilerRange};
use parla_sched::native::panic_text;
use parla_sched::{Cx, Executor, PlacingError, Runahead, Step};
use pyo3::exceptions::{PyStopIteration, PyTypeError};
use pyo3::ffi;
use pyo3::prelude::*;
use rustc_hash::FxBuildHasher;

use crate::awaiter::Awaiter;
use crate::body::Work;
use crate::errors;
use crate::gil;
use crate::key::Key;
use crate::python;
use crate::runtime;
use crate::task::{Outcome, Task};

/// Runs Python bodies, and keeps the books that only Python needs.
#[derive(Default)]
pub(crate) struct PyExecutor {
    books: Mutex<Books>,
    pub(crate) n_failed: AtomicU64,
    pub(crate) n_cancelled: AtomicU64,
    pub(crate) trace: bool,
    /// The threads there were when the runtime was opened.
    pub(crate) threads_before: Mutex<Option<Py<PyAny>>>,
    /// The process it was made in: a fork copies it without its threads.
    pub(crate) pid: u32,
    threads: Mutex<Vec<Arc<ThreadBook>>>,
    /// What arrays have in the memories of the machine; `None`: there is no memory but the host's.
    store: Option<Arc<Store>>,
    /// The task environments that the program defined, as Python keeps them; `None`: there are none.
    pub(crate) environments: Option<Py<PyAny>>,
    /// When dependents of tasks that do not say go on.
    pub(crate) runahead: Runahead,
    /// Whether what bodies do to their inputs is checked.
    pub(crate) check: bool,
}

/// What others may know of a worker thread.
pub(crate) struct ThreadBook {
    /// Python's identifier of the thread.
    pub(crate) ident: std::ffi::c_ulong,
    /// The task it runs.
    running: Mutex<Option<Py<Task>>>,
}

type Map<V> = HashMap<TaskId, V, FxBuildHasher>;

#[derive(Default)]
struct Books {
    /// Failed tasks whose exception nobody has looked at, in no order.
    failed: Map<(u64, Py<Task>)>,
    /// Names of tasks that somebody depends on and nobody has spawned.
    declared: Map<(Arc<str>, Key)>,
    /// Name and place of spawn of every task, when there is a trace.
    names: Map<(String, String)>,
    /// Bodies blocked in a wait of ours, with what they wait for.
    blocked: Map<(Py<Task>, Arc<[TaskId]>)>,
    /// The last deadlock, in the words in which it was told first.
    deadlock: Option<(Arc<Diagnosis>, String)>,
}

/// A task on its way to a worker.
pub(crate) struct PyBody(pub(crate) Py<Task>);

/// A worker's side of the interpreter.
pub(crate) struct PyThread {
    gil: gil::Thread,
    book: Arc<ThreadBook>,
    /// `threading.settrace` and `setprofile` have been heard.
    hooked: bool,
    /// An empty set of context variables, for the next body.
    spare_context: Option<Py<PyAny>>,
    started: Option<Instant>,
}

impl Executor for PyExecutor {
    type Body = PyBody;
    type Thread = PyThread;

    fn enter(&self) -> PyThread {
        // SAFETY: a thread may ask who it is.
        let ident = unsafe { libc::pthread_self() };
        let book = Arc::new(ThreadBook {
            ident,
            running: Mutex::new(None),
        });
        let mut threads = self.threads.lock();
        threads.retain(|book| Arc::strong_count(book) > 1);
        threads.push(Arc::clone(&book));
        drop(threads);
        PyThread {
            gil: gil::Thread::new(),
            book,
            hooked: false,
            spare_context: None,
            started: None,
        }
    }

    fn prepare(&self, thread: &mut PyThread) {
        thread.gil.attach();
    }

    fn pause(&self, thread: &mut PyThread) {
        thread.gil.detach();
    }

    #[allow(
        clippy::disallowed_methods,
        reason = "only when a trace asks how long the GIL was held"
    )]
    fn run(
        &self,
        thread: &mut PyThread,
        cx: &Cx<'_, Self>,
        id: TaskId,
        body: PyBody,
    ) -> Step<PyBody> {
        thread.gil.attach();
        if self.trace {
            runtime::take_released();
            thread.started = Some(Instant::now());
        }
        Python::attach(|py| {
            if !std::mem::replace(&mut thread.hooked, true) {
                install_hooks(py);
            }
            *thread.book.running.lock() = Some(body.0.clone_ref(py));
            let _running = runtime::enter_task(py, cx, &body.0);
            let ran = catch_unwind(AssertUnwindSafe(|| {
                if body.0.get().has_uses {
                    self.run_using(py, thread, cx, &body.0)
                } else {
                    thread.in_context(py, &body.0, || step(py, &body.0))
                }
            }));
            let ran = ran.unwrap_or_else(|panic| {
                let text = format!(
                    "the runtime panicked while it ran this task: {}",
                    panic_text(&*panic)
                );
                Ran::Failed(errors::parla_error(py, text))
            });
            let mine = thread.book.running.lock().take();
            drop(mine);
            match ran {
                Ran::Done(value) => {
                    Task::end(body.0.bind(py), Outcome::Value(value));
                    Step::Done
                }
                Ran::Failed(error) => {
                    if self.retry(py, &body.0, &error) {
                        return Step::Await(body, Vec::new());
                    }
                    self.failed(py, &body.0, id, error);
                    Step::Failed
                }
                Ran::Awaits(ids) => Step::Await(body, ids),
                Ran::Drains(events) => Step::Draining(body, events),
            }
        })
    }

    fn refused(
        &self,
        thread: &mut PyThread,
        _cx: &Cx<'_, Self>,
        id: TaskId,
        PyBody(task): PyBody,
        error: &PlacingError,
    ) {
        thread.gil.attach();
        Python::attach(|py| {
            let work = task.get().core.lock().work.take();
            close_coroutine(py, &task, work);
            self.failed(py, &task, id, errors::placing(py, error));
        });
    }

    fn name_of(&self, id: TaskId) -> String {
        // Asked for when a task has failed, on the worker that ran it.
        let known = Python::try_attach(|py| {
            let failed = self
                .books
                .lock()
                .failed
                .get(&id)
                .map(|(_, task)| task.clone_ref(py));
            let task = failed.or_else(|| self.running(py, id))?;
            Some(task.get().describe(py))
        });
        known.flatten().unwrap_or_else(|| id.to_string())
    }

    fn cancelled(&self, tasks: Vec<Cancelled<PyBody>>) {
        Python::attach(|py| {
            for Cancelled {
                id, cause, body, ..
            } in tasks
            {
                let Some(PyBody(task)) = body else {
                    self.books.lock().declared.remove(&id);
                    continue;
                };
                self.n_cancelled.fetch_add(1, Ordering::Relaxed);
                let work = task.get().core.lock().work.take();
                close_coroutine(py, &task, work);
                let cause = if cause == id {
                    None
                } else {
                    self.find_cause(py, cause, &task)
                };
                Task::end(task.bind(py), Outcome::Cancelled { cause, error: None });
            }
        });
    }

    fn held_ns(&self, thread: &PyThread) -> u64 {
        let Some(started) = thread.started else {
            return 0;
        };
        let released = runtime::take_released();
        u64::try_from(started.elapsed().saturating_sub(released).as_nanos()).unwrap_or(u64::MAX)
    }
}

impl PyThread {
    /// Runs a step of a task with the task's own context variables: it begins with none set, and they follow it from worker to worker.
    fn in_context(&mut self, py: Python<'_>, task: &Py<Task>, step: impl FnOnce() -> Ran) -> Ran {
        let name = || {
            let name = task.get().name(py);
            name.bind(py).to_string_lossy().into_owned()
        };
        let _range = ProfilerRange::open(name);
        let Some(contexts) = crate::python::fast(py).and_then(|fast| fast.contexts.as_ref()) else {
            return step();
        };
        let own = task.get().core.lock().context.take();
        let context = match own.or_else(|| self.spare_context.take()) {
            Some(context) => context,
            None => match contexts.new_empty(py) {
                Ok(context) => context,
                Err(error) => return Ran::Failed(error),
            },
        };
        if let Err(error) = contexts.enter(context.bind(py)) {
            return Ran::Failed(error);
        }
        let ran = step();
        if let Err(error) = contexts.leave(context.bind(py)) {
            error.write_unraisable(py, Some(context.bind(py)));
            return ran;
        }
        if matches!(ran, Ran::Awaits(_)) {
            task.get().core.lock().context = Some(context);
        } else if context.bind(py).len().is_ok_and(|n| n == 0) {
            self.spare_context = Some(context);
        }
        ran
    }
}

impl Drop for PyThread {
    fn drop(&mut self) {
        self.gil.attach();
        Python::attach(|py| {
            self.spare_context = None;
            // A body that asked `threading` for the current thread left an entry there.
            let forget = || {
                py.import("threading")?
                    .getattr("_active")?
                    .call_method1("pop", (self.book.ident, py.None()))
            };
            if let Err(error) = forget() {
                error.write_unraisable(py, None);
            }
        });
        // A thread that ends keeps nothing; its place in the list goes with the next that starts.
        let mine = self.book.running.lock().take();
        drop(mine);
    }
}

/// Lets this thread's Python code be seen by debuggers and coverage tools, as in threads that `threading` starts.
fn install_hooks(py: Python<'_>) {
    let install = || -> PyResult<()> {
        let (threading, sys) = (py.import("threading")?, py.import("sys")?);
        for (hook, set) in [("_trace_hook", "settrace"), ("_profile_hook", "setprofile")] {
            if let Ok(hook) = threading.getattr(hook)
                && !hook.is_none()
            {
                sys.call_method1(set, (hook,))?;
            }
        }
        Ok(())
    };
    if let Err(error) = install() {
        error.write_unraisable(py, None);
    }
}

/// What one step of a body came to.
enum Ran {
    Done(Py<PyAny>),
    Failed(PyErr),
    Awaits(Vec<TaskId>),
    /// It returned, and its devices are still at work.
    Drains(Vec<Arc<dyn Event>>),
}

fn step(py: Python<'_>, task: &Py<Task>) -> Ran {
    match task.get().rt.executor().environments {
        None => step_here(py, task),
        Some(_) => environment::around(py, task, || step_here(py, task)),
    }
}

fn step_here(py: Python<'_>, task: &Py<Task>) -> Ran {
    let this = task.get();
    let (work, is_coroutine) = {
        let mut core = this.core.lock();
        if core.retries > 0 && core.again.is_none() {
            core.again = core.work.as_ref().and_then(|work| work.again(py));
        }
        (core.work.take(), core.is_coroutine)
    };
    let Some(work) = work else {
        return Ran::Failed(errors::parla_error(py, "a task without a body was run"));
    };
    let ran = match work {
        Work::Call(callable) => call(callable.bind(py)),
        Work::Captured(captured) => captured.function(py).and_then(|function| call(&function)),
        Work::Coroutine(coroutine) => Ok(coroutine.into_bound(py)),
    };
    match ran {
        Ok(value) if !is_coroutine => Ran::Done(value.unbind()),
        Ok(coroutine) => drive(&coroutine, this),
        Err(error) => Ran::Failed(error),
    }
}

/// Closes the coroutine of a task that will not go on: its `finally` blocks run; one that never started ends without a warning.
fn close_coroutine(py: Python<'_>, task: &Py<Task>, work: Option<Work>) {
    if let Some(Work::Coroutine(coroutine)) = work {
        let _running = runtime::enter_cancelled(task);
        crate::python::call_method_quietly(coroutine.bind(py), "close");
    }
}

fn call<'py>(callable: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    // SAFETY: attached, a live object; a new reference or null with an error set.
    unsafe {
        Bound::from_owned_ptr_or_err(callable.py(), ffi::PyObject_CallNoArgs(callable.as_ptr()))
    }
}

/// Runs a coroutine up to its next `await` of something that has not ended.
fn drive(coroutine: &Bound<'_, PyAny>, task: &Task) -> Ran {
    let py = coroutine.py();
    let mut yielded = match send_none(coroutine) {
        Ok(Sent::Returned(value)) => return Ran::Done(value.unbind()),
        Ok(Sent::Yielded(value)) => value,
        Err(error) => return Ran::Failed(error),
    };
    loop {
        let problem = match yielded.cast_exact::<Awaiter>() {
            Ok(awaiter) => match awaiter.get().ids(py, &task.rt) {
                Ok(ids) if ids.contains(&task.id()) => {
                    pyo3::exceptions::PyRuntimeError::new_err(format!(
                        "{} awaits itself: it would wait for ever",
                        task.describe(py)
                    ))
                }
                Ok(ids) => {
                    task.core.lock().work = Some(Work::Coroutine(coroutine.clone().unbind()));
                    return Ran::Awaits(ids);
                }
                Err(error) => error,
            },
            Err(_) => foreign_awaitable(coroutine, &yielded),
        };
        match coroutine.call_method1("throw", (problem,)) {
            Ok(next) => yielded = next,
            Err(error) if error.is_instance_of::<PyStopIteration>(py) => {
                return match error.value(py).getattr("value") {
                    Ok(value) => Ran::Done(value.unbind()),
                    Err(error) => Ran::Failed(error),
                };
            }
            Err(error) => return Ran::Failed(error),
        }
    }
}

enum Sent<'py> {
    Returned(Bound<'py, PyAny>),
    Yielded(Bound<'py, PyAny>),
}

fn send_none<'py>(coroutine: &Bound<'py, PyAny>) -> PyResult<Sent<'py>> {
    let py = coroutine.py();
    let mut result = std::ptr::null_mut();
    // SAFETY: attached, a live coroutine; `result` receives a new reference unless there is an error.
    unsafe {
        match ffi::PyIter_Send(coroutine.as_ptr(), ffi::Py_None(), &raw mut result) {
            ffi::PySendResult::PYGEN_RETURN => {
                Ok(Sent::Returned(Bound::from_owned_ptr(py, result)))
            }
            ffi::PySendResult::PYGEN_NEXT => Ok(Sent::Yielded(Bound::from_owned_ptr(py, result))),
            ffi::PySendResult::PYGEN_ERROR => Err(PyErr::fetch(py)),
        }
    }
}

fn foreign_awaitable(coroutine: &Bound<'_, PyAny>, yielded: &Bound<'_, PyAny>) -> PyErr {
    let name = |object: &Bound<'_, PyAny>| python::type_name(object);
    let body = coroutine
        .getattr("__name__")
        .map_or_else(|_| "body".to_owned(), |n| n.to_string());
    let what = if yielded.is_none() {
        "something of another event loop".to_owned()
    } else {
        format!("a {}", name(yielded))
    };
    PyTypeError::new_err(format!(
        "the task's body '{body}' awaits {what}: a task can await tasks, task ids, task spaces and tasks(...) only; \
         run other awaitables with asyncio.run() inside a task"
    ))
}
