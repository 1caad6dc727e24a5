//! How a worker runs a task's body.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use parking_lot::Mutex;
use parla_core::{Cancelled, TaskId};
use parla_sched::native::panic_text;
use parla_sched::{Cx, Executor, Step};
use pyo3::exceptions::{PyBaseException, PyStopIteration, PyTypeError};
use pyo3::ffi;
use pyo3::prelude::*;
use rustc_hash::FxBuildHasher;

use crate::awaiter::Awaiter;
use crate::body::Work;
use crate::errors;
use crate::gil;
use crate::key::Key;
use crate::runtime;
use crate::task::{Outcome, Task};

/// Runs Python bodies, and keeps the books that only Python needs.
#[derive(Default)]
pub(crate) struct PyExecutor {
    books: Mutex<Books>,
    pub(crate) n_failed: AtomicU64,
    pub(crate) n_cancelled: AtomicU64,
    pub(crate) trace: bool,
    /// The process it was made in: a fork copies it without its threads.
    pub(crate) pid: u32,
    /// Python's identifiers of the threads that run bodies.
    threads: Mutex<Vec<std::ffi::c_ulong>>,
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
    blocked: Map<(Py<Task>, TaskId)>,
}

/// A task on its way to a worker.
pub(crate) struct PyBody(pub(crate) Py<Task>);

/// A worker's side of the interpreter.
pub(crate) struct PyThread {
    gil: gil::Thread,
    started: Option<Instant>,
}

impl Executor for PyExecutor {
    type Body = PyBody;
    type Thread = PyThread;

    fn enter(&self) -> PyThread {
        // SAFETY: a thread may ask who it is.
        let ident = unsafe { libc::pthread_self() };
        self.threads.lock().push(ident);
        PyThread { gil: gil::Thread::new(), started: None }
    }

    fn prepare(&self, thread: &mut PyThread) {
        thread.gil.attach();
    }

    fn pause(&self, thread: &mut PyThread) {
        thread.gil.detach();
    }

    #[allow(clippy::disallowed_methods, reason = "only when a trace asks how long the GIL was held")]
    fn run(&self, thread: &mut PyThread, cx: &Cx<'_, Self>, id: TaskId, body: PyBody) -> Step<PyBody> {
        thread.gil.attach();
        if self.trace {
            runtime::take_released();
            thread.started = Some(Instant::now());
        }
        Python::attach(|py| {
            let _running = runtime::enter_task(py, cx, &body.0);
            let ran = catch_unwind(AssertUnwindSafe(|| step(py, &body.0)));
            let ran = ran.unwrap_or_else(|panic| {
                let text = format!("the runtime panicked while it ran this task: {}", panic_text(&*panic));
                Ran::Failed(errors::parla_error(py, text))
            });
            match ran {
                Ran::Done(value) => {
                    body.0.get().end(Outcome::Value(value));
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
            }
        })
    }

    fn cancelled(&self, tasks: Vec<Cancelled<PyBody>>) {
        Python::attach(|py| {
            for Cancelled { id, cause, body, .. } in tasks {
                let Some(PyBody(task)) = body else {
                    self.books.lock().declared.remove(&id);
                    continue;
                };
                self.n_cancelled.fetch_add(1, Ordering::Relaxed);
                let work = task.get().core.lock().work.take();
                if let Some(Work::Coroutine(coroutine)) = work {
                    // Its `finally` blocks run; a coroutine that never started ends without a warning.
                    let _running = runtime::enter_cancelled(&task);
                    crate::python::call_method_quietly(coroutine.bind(py), "close");
                }
                let cause = if cause == id { None } else { self.find_cause(py, cause, &task) };
                task.get().end(Outcome::Cancelled(cause));
            }
        });
    }

    fn held_ns(&self, thread: &PyThread) -> u64 {
        let Some(started) = thread.started else { return 0 };
        let released = runtime::take_released();
        u64::try_from(started.elapsed().saturating_sub(released).as_nanos()).unwrap_or(u64::MAX)
    }
}

/// What one step of a body came to.
enum Ran {
    Done(Py<PyAny>),
    Failed(PyErr),
    Awaits(Vec<TaskId>),
}

fn step(py: Python<'_>, task: &Py<Task>) -> Ran {
    let this = task.get();
    let (work, is_coroutine) = {
        let mut core = this.core.lock();
        let work = if core.retries > 0 { core.work.as_ref().and_then(|w| w.again(py)) } else { None };
        let work = match work {
            Some(again) => Some(again), // the original stays for the next try
            None => core.work.take(),
        };
        (work, core.is_coroutine)
    };
    let Some(work) = work else { return Ran::Failed(errors::parla_error(py, "a task without a body was run")) };
    let ran = match work {
        Work::Call(callable) => call(callable.bind(py)),
        Work::Captured(captured) => captured.function(py).and_then(|function| call(&function)),
        Work::Coroutine(coroutine) => Ok(coroutine.into_bound(py)),
    };
    let ran = match ran {
        Ok(value) if !is_coroutine => Ran::Done(value.unbind()),
        Ok(coroutine) => drive(&coroutine, this),
        Err(error) => Ran::Failed(error),
    };
    let globals = this.core.lock().globals.as_ref().map(|globals| globals.clone_ref(py));
    if let Some(globals) = globals {
        crate::python::call_method_quietly(globals.bind(py), "write_back");
    }
    ran
}

fn call<'py>(callable: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    // SAFETY: attached, a live object; a new reference or null with an error set.
    unsafe { Bound::from_owned_ptr_or_err(callable.py(), ffi::PyObject_CallNoArgs(callable.as_ptr())) }
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
                Ok(ids) if ids.contains(&task.id()) => pyo3::exceptions::PyRuntimeError::new_err(format!(
                    "{} awaits itself: it would wait for ever",
                    task.describe(py)
                )),
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
            ffi::PySendResult::PYGEN_RETURN => Ok(Sent::Returned(Bound::from_owned_ptr(py, result))),
            ffi::PySendResult::PYGEN_NEXT => Ok(Sent::Yielded(Bound::from_owned_ptr(py, result))),
            ffi::PySendResult::PYGEN_ERROR => Err(PyErr::fetch(py)),
        }
    }
}

fn foreign_awaitable(coroutine: &Bound<'_, PyAny>, yielded: &Bound<'_, PyAny>) -> PyErr {
    let name = |object: &Bound<'_, PyAny>| object.get_type().name().map_or_else(|_| "?".to_owned(), |n| n.to_string());
    let body = coroutine.getattr("__name__").map_or_else(|_| "body".to_owned(), |n| n.to_string());
    let what = if yielded.is_none() { "something of another event loop".to_owned() } else { format!("a {}", name(yielded)) };
    PyTypeError::new_err(format!(
        "the task's body '{body}' awaits {what}: a task can await tasks, task ids, task spaces and tasks(...) only; \
         run other awaitables with asyncio.run() inside a task"
    ))
}

impl PyExecutor {
    pub(crate) fn new(trace: bool) -> Self {
        Self { trace, pid: std::process::id(), ..Self::default() }
    }

    /// Python's identifiers of all worker threads there ever were.
    pub(crate) fn running_threads(&self) -> Vec<std::ffi::c_ulong> {
        self.threads.lock().clone()
    }

    pub(crate) fn declared(&self, id: TaskId, space: Arc<str>, key: Key) {
        self.books.lock().declared.insert(id, (space, key));
    }

    pub(crate) fn spawned(&self, py: Python<'_>, id: TaskId, was_declared: bool, task: &Task) {
        if was_declared {
            self.books.lock().declared.remove(&id);
        }
        if self.trace {
            let names = (task.name(py), task.location(py));
            self.books.lock().names.insert(id, names);
        }
    }

    /// Name and place of spawn, for a trace.
    pub(crate) fn traced_name(&self, id: TaskId) -> (String, String) {
        self.books.lock().names.get(&id).cloned().unwrap_or_default()
    }

    /// The name of an id that nobody has spawned.
    pub(crate) fn declared_name(&self, id: TaskId) -> Option<String> {
        self.books.lock().declared.get(&id).map(|(space, key)| format!("{space}_{key}"))
    }

    pub(crate) fn begin_blocking(&self, task: Py<Task>, on: TaskId) {
        let id = task.get().id();
        let before = self.books.lock().blocked.insert(id, (task, on));
        drop(before);
    }

    pub(crate) fn end_blocking(&self, id: TaskId) {
        let before = self.books.lock().blocked.remove(&id);
        drop(before);
    }

    /// A task blocked in a wait of ours, and what it waits for.
    pub(crate) fn blocked(&self, py: Python<'_>, id: TaskId) -> Option<(Py<Task>, TaskId)> {
        self.books.lock().blocked.get(&id).map(|(task, on)| (task.clone_ref(py), *on))
    }

    /// Somebody has seen how this task failed.
    pub(crate) fn looked_at(&self, id: TaskId) {
        let seen = self.books.lock().failed.remove(&id);
        drop(seen);
    }

    /// The failures that nobody has looked at, in the order in which they happened.
    pub(crate) fn take_failed(&self) -> Vec<Py<Task>> {
        let mut failed: Vec<_> = std::mem::take(&mut self.books.lock().failed).into_values().collect();
        failed.sort_by_key(|(number, _)| *number);
        failed.into_iter().map(|(_, task)| task).collect()
    }

    /// Drops everything that keeps Python objects.
    pub(crate) fn close(&self) {
        let mut books = self.books.lock();
        let garbage = (std::mem::take(&mut books.failed), std::mem::take(&mut books.blocked), std::mem::take(&mut books.declared));
        drop(books);
        drop(garbage);
    }

    fn failed(&self, py: Python<'_>, task: &Py<Task>, id: TaskId, error: PyErr) {
        let note = format!("in task {}", task.get().describe(py));
        let error: Py<PyBaseException> = error.into_value(py);
        errors::add_note(error.bind(py), &note);
        task.get().end(Outcome::Failed(error));
        let number = self.n_failed.fetch_add(1, Ordering::Relaxed);
        let before = self.books.lock().failed.insert(id, (number, task.clone_ref(py)));
        drop(before);
    }

    fn retry(&self, py: Python<'_>, task: &Py<Task>, error: &PyErr) -> bool {
        let mut core = task.get().core.lock();
        if core.retries == 0 || !error.is_instance_of::<pyo3::exceptions::PyException>(py) {
            return false;
        }
        core.retries -= 1;
        core.work.is_some()
    }

    /// The task whose end cancelled `task`: a failure not looked at, or among what it depends on.
    fn find_cause(&self, py: Python<'_>, cause: TaskId, task: &Py<Task>) -> Option<Py<Task>> {
        let known = self.books.lock().failed.get(&cause).map(|(_, task)| task.clone_ref(py));
        if known.is_some() {
            return known;
        }
        let dependencies: Vec<_> = task.get().core.lock().dependencies.iter().map(|d| d.clone_ref(py)).collect();
        dependencies.into_iter().find_map(|dependency| {
            let dependency = dependency.bind(py);
            let dependency = match dependency.cast::<Task>() {
                Ok(task) => task.clone().unbind(),
                Err(_) => {
                    let id = dependency.cast::<crate::space::TaskID>().ok()?.get();
                    id.space.get().task(py, &id.key)?
                }
            };
            let root = match &dependency.get().core.lock().outcome {
                Outcome::Failed(_) | Outcome::Cancelled(None) => None,
                Outcome::Cancelled(Some(root)) => Some(root.clone_ref(py)),
                Outcome::Pending | Outcome::Value(_) => return None,
            };
            Some(root.unwrap_or(dependency))
        })
    }
}
