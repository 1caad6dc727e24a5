//! A task as Python sees it: a future with a name.

mod outcome;
mod state;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use parla_core::TaskId;
use parla_core::lock::Mutex;
use pyo3::PyTraverseError;
use pyo3::exceptions::PyBaseException;
use pyo3::ffi;
use pyo3::gc::PyVisit;
use pyo3::prelude::*;
use pyo3::types::{PyString, PyTuple};
use smallvec::SmallVec;

use crate::assignment::Uses;
use crate::awaiter::Awaiter;
use crate::body::Work;
use crate::errors;
use crate::key::Key;
use crate::python::Origin;
use crate::runtime::{self, Rt};
use crate::space::{Dependency, Resolved, Space, TaskID};
pub(crate) use outcome::{Outcome, parse_timeout};
pub(crate) use state::TaskState;

/// In place of an option's number: nobody had to choose, or has yet.
pub(crate) const UNDECIDED: u32 = u32::MAX;

/// A spawned task.
///
/// ``spawn`` returns it; so does ``T[0].task``. Await it in a task, or ask for its ``result()`` anywhere.
#[pyclass(frozen, weakref, module = "parla")]
pub(crate) struct Task {
    pub(crate) rt: Arc<Rt>,
    /// The graph's id as a number; set before anybody else can see the task.
    id: AtomicU64,
    /// Held only for moments and never across a call into Python.
    pub(crate) core: Mutex<Core>,
    pub(crate) place: Option<Place>,
    /// It was spawned with [`Core::uses`].
    pub(crate) has_uses: bool,
    /// Which option of its placement was chosen, or [`UNDECIDED`]; a record that nothing is ordered by.
    pub(crate) choice: AtomicU32,
    /// Placement: where the task may run, shared with other tasks.
    placement: Py<PyAny>,
}

/// One needs no memory of its own.
pub(crate) type Dependencies = SmallVec<[Dependency; 1]>;

/// The name given through a task space.
pub(crate) struct Place {
    pub(crate) space_name: Arc<str>,
    pub(crate) key: Key,
    /// A weak reference: a task does not keep its space (and so its siblings) alive.
    pub(crate) space: Py<PyAny>,
}

pub(crate) struct Core {
    /// What to run next; `None` while it runs and afterwards.
    pub(crate) work: Option<Work>,
    pub(crate) is_coroutine: bool,
    pub(crate) outcome: Outcome,
    /// The user's handles on what it depends on; dropped when it ends.
    pub(crate) dependencies: Dependencies,
    pub(crate) retries: u32,
    /// The body as it was spawned, for the next try.
    pub(crate) again: Option<Work>,
    /// The values of context variables, of a body that has begun and not ended.
    pub(crate) context: Option<Py<PyAny>>,
    pub(crate) name: Py<PyString>,
    pub(crate) origin: Origin,
    /// Collects what this task spawns inside `async with finish():`.
    pub(crate) finish_scope: Option<Py<PyAny>>,
    /// Operands and devices, of a task that has any.
    pub(crate) uses: Option<Box<Uses>>,
}

impl Task {
    pub(crate) fn new(rt: Arc<Rt>, core: Core, place: Option<Place>, placement: Py<PyAny>) -> Self {
        Self {
            rt,
            id: AtomicU64::new(u64::MAX),
            has_uses: core.uses.is_some(),
            choice: AtomicU32::new(UNDECIDED),
            core: Mutex::new(core),
            place,
            placement,
        }
    }

    pub(crate) fn id(&self) -> TaskId {
        TaskId::from_u64(self.id.load(Ordering::Relaxed))
    }

    pub(crate) fn set_id(&self, id: TaskId) {
        self.id.store(id.as_u64(), Ordering::Relaxed);
    }

    /// The task's name and its place in a space, for messages: `T_0 (potrf)`.
    pub(crate) fn label(&self, py: Python<'_>) -> String {
        let name = self.name(py);
        let name = name.bind(py).to_string_lossy();
        match &self.place {
            Some(place) => format!("{}_{} ({name})", place.space_name, place.key),
            None => name.into_owned(),
        }
    }

    /// `file:line` of the spawn.
    pub(crate) fn location(&self, py: Python<'_>) -> String {
        let origin = self.core.lock().origin.clone_ref(py);
        origin.location(py)
    }

    /// Name and place of spawn, for messages.
    pub(crate) fn describe(&self, py: Python<'_>) -> String {
        format!("{} spawned at {}", self.label(py), self.location(py))
    }

    /// What depending on this task in `rt` means.
    pub(crate) fn resolve(&self, py: Python<'_>, rt: &Arc<Rt>) -> PyResult<Resolved> {
        if Arc::ptr_eq(&self.rt, rt) {
            return Ok(Resolved::Edge(self.id()));
        }
        if matches!(self.core.lock().outcome, Outcome::Value(_)) {
            return Ok(Resolved::Done);
        }
        let state = if self.rt.is_closed() {
            "did not end well in a runtime that has ended"
        } else {
            "belongs to another runtime"
        };
        Err(errors::spawn_error(
            py,
            format!("dependencies: {} {state}", self.describe(py)),
        ))
    }

    /// Its body has returned and its devices are still at work.
    fn is_draining(&self) -> bool {
        let core = self.core.lock();
        core.uses.as_ref().is_some_and(|uses| uses.value.is_some())
    }

    pub(crate) fn is_done(&self) -> bool {
        !self.core.lock().outcome.is_pending()
    }

    /// Makes a new task, unknown to the garbage collector while it is pending: the runtime holds it until it ends, so it is no
    /// garbage, and a million pending tasks would make every full collection long.
    pub(crate) fn pending(py: Python<'_>, task: Self) -> PyResult<Py<Self>> {
        let task = Py::new(py, task)?;
        // SAFETY: attached; a live object of a type that takes part in garbage collection. Untracking twice (here and when it is freed) is allowed.
        unsafe { ffi::PyObject_GC_UnTrack(task.as_ptr().cast()) };
        Ok(task)
    }
}

#[pymethods]
impl Task {
    /// The function's name, unless ``name=`` was given to ``spawn``.
    #[getter]
    pub(crate) fn name(&self, py: Python<'_>) -> Py<PyString> {
        self.core.lock().name.clone_ref(py)
    }

    /// The id it was spawned under, or None for a task without one.
    #[getter]
    fn taskid<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let Some(place) = &self.place else {
            return Ok(None);
        };
        let space = place.space.bind(py).call0()?;
        match space.cast::<Space>() {
            Ok(space) => TaskID::object(space, place.key.clone()).map(Some),
            Err(_) => Ok(None),
        }
    }

    /// Where it is in its life; ``task.state.is_terminal`` says whether it has ended.
    #[getter]
    fn state(&self) -> TaskState {
        let name = match &self.core.lock().outcome {
            Outcome::Value(_) => Some("done"),
            Outcome::Failed(_) => Some("failed"),
            Outcome::Cancelled { .. } => Some("cancelled"),
            Outcome::Pending => None,
        };
        use parla_core::TaskState as S;
        use parla_sched::PlacedState as P;
        let placed = || match self.has_uses {
            true => self.rt.placed_state(self.id()),
            false => None,
        };
        let name = name.unwrap_or_else(|| match self.rt.state(self.id()) {
            S::Declared | S::Waiting => "waiting",
            S::Ready => match placed() {
                Some(P::Staging) => "staging",
                Some(P::Placed) => "placed",
                Some(P::Draining) => "draining",
                Some(P::Paused) | None => "ready",
            },
            // To the graph a task that runs ahead of its devices has ended.
            S::Suspended | S::Running | S::Done if self.is_draining() => "draining",
            S::Suspended => "suspended",
            S::Running if placed() == Some(P::Paused) => "suspended",
            S::Running if placed() == Some(P::Staging) => "staging",
            S::Running | S::Done | S::Failed => "running",
            S::Cancelled => "cancelled",
        });
        if matches!(name, "done" | "failed" | "cancelled") {
            runtime::trace_waited(self, false);
        }
        TaskState { name }
    }

    /// What it still depends on, as the user named it (`Task` or `TaskID`); empty once it has ended.
    #[getter]
    fn dependencies<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        let dependencies: Vec<_> = self
            .core
            .lock()
            .dependencies
            .iter()
            .map(|d| d.clone_ref(py))
            .collect();
        PyTuple::new(
            py,
            dependencies
                .iter()
                .map(|d| d.to_python(py))
                .collect::<PyResult<Vec<_>>>()?,
        )
    }

    /// Where it may run (internal).
    #[getter]
    fn placement(&self, py: Python<'_>) -> Py<PyAny> {
        self.placement.clone_ref(py)
    }

    /// Which option of its placement was chosen; None if nobody had to choose, or has yet (internal).
    #[getter]
    fn _choice(&self) -> Option<u32> {
        Some(self.choice.load(Ordering::Relaxed)).filter(|&choice| choice != UNDECIDED)
    }

    /// Chooses an option of its placement unless one is chosen; gives the one that is (internal).
    fn _choose(&self, choice: u32) -> u32 {
        let chosen =
            self.choice
                .compare_exchange(UNDECIDED, choice, Ordering::Relaxed, Ordering::Relaxed);
        chosen.err().unwrap_or(choice)
    }

    /// The task's number in traces (internal).
    #[getter]
    fn _number(&self) -> u64 {
        self.id().as_u64()
    }

    /// Name and place of spawn, for messages (internal).
    #[getter]
    fn _description(&self, py: Python<'_>) -> String {
        self.describe(py)
    }

    /// Wait until the task has ended, well or not, without looking at the outcome.
    ///
    /// Raises ``TimeoutError`` after ``timeout`` seconds and ``DeadlockError`` when it can never end.
    #[pyo3(signature = (timeout = None))]
    fn wait(slf: &Bound<'_, Self>, timeout: Option<&Bound<'_, PyAny>>) -> PyResult<()> {
        Self::wait_end(slf, parse_timeout(timeout)?)
    }

    /// Wait for the task and return its value, or raise its exception.
    ///
    /// Raises ``TimeoutError`` after ``timeout`` seconds and ``DeadlockError`` when it can never end.
    #[pyo3(signature = (timeout = None))]
    fn result<'py>(
        slf: &Bound<'py, Self>,
        timeout: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        Self::wait_end(slf, parse_timeout(timeout)?)?;
        Self::value(slf)
    }

    /// Wait for the task and return its exception, or None if it ended well.
    #[pyo3(signature = (timeout = None))]
    fn exception<'py>(
        slf: &Bound<'py, Self>,
        timeout: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Option<Bound<'py, PyBaseException>>> {
        Self::wait_end(slf, parse_timeout(timeout)?)?;
        Self::error(slf)
    }

    /// Cancel the task, and what depends on it, if it has not started. Returns whether it did.
    fn cancel(&self, py: Python<'_>) -> bool {
        if self.is_done() {
            return false;
        }
        let (rt, id) = (&self.rt, self.id());
        py.detach(|| rt.cancel(id))
    }

    /// Whether the task has ended, well or not.
    fn done(&self) -> bool {
        let done = self.is_done();
        if done {
            runtime::trace_waited(self, false);
        }
        done
    }

    fn __await__(slf: Bound<'_, Self>) -> PyResult<Bound<'_, PyAny>> {
        Awaiter::of_one(slf.into_any())
    }

    fn __repr__(&self, py: Python<'_>) -> String {
        format!("<Task {}: {}>", self.label(py), self.state().name)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.placement)?;
        if let Some(place) = &self.place {
            visit.call(&place.space)?;
        }
        let Some(core) = self.core.try_lock() else {
            return Ok(());
        };
        if let Some(work) = &core.work {
            work.traverse(&visit)?;
        }
        if let Some(again) = &core.again {
            again.traverse(&visit)?;
        }
        visit.call(&core.context)?;
        visit.call(&core.origin.code)?;
        visit.call(&core.finish_scope)?;
        core.dependencies
            .iter()
            .try_for_each(|d| d.traverse(&visit))?;
        match &core.outcome {
            Outcome::Pending => Ok(()),
            Outcome::Value(value) => visit.call(value),
            Outcome::Failed(error) => visit.call(error),
            Outcome::Cancelled { cause, error } => {
                visit.call(cause)?;
                visit.call(error)
            }
        }
    }

    fn __clear__(&self) {
        let mut core = self.core.lock();
        let garbage = (
            core.work.take(),
            std::mem::take(&mut core.outcome),
            std::mem::take(&mut core.dependencies),
        );
        drop(core);
        drop(garbage);
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        let id = self.id.load(Ordering::Relaxed);
        let ended_badly = matches!(
            self.core.get_mut().outcome,
            Outcome::Failed(_) | Outcome::Cancelled { .. }
        );
        if id != u64::MAX && ended_badly {
            self.rt.forget(TaskId::from_u64(id));
        }
    }
}
