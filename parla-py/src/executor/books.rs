//! The books of the executor: what only Python needs to know of its tasks.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use parla_core::{Diagnosis, TaskId};
use parla_data::Store;
use parla_device::Machine;
use pyo3::exceptions::PyBaseException;
use pyo3::prelude::*;

use super::PyExecutor;
use parla_sched::Runahead;

use crate::key::Key;
use crate::task::{Outcome, Task};
use crate::{errors, machine};

impl PyExecutor {
    pub(crate) fn new(
        trace: bool,
        store: Option<Arc<Store>>,
        environments: Option<Py<PyAny>>,
        runahead: Runahead,
        check: bool,
    ) -> Self {
        Self {
            trace,
            store,
            environments,
            runahead,
            check,
            pid: std::process::id(),
            ..Self::default()
        }
    }

    /// What arrays have in the memories of the machine, if this runtime moves any.
    pub(crate) fn store(&self) -> Option<&Arc<Store>> {
        self.store.as_ref()
    }

    /// The same, or one that holds nothing.
    pub(super) fn store_or_bare(&self, py: Python<'_>) -> PyResult<Arc<Store>> {
        match &self.store {
            Some(store) => Ok(Arc::clone(store)),
            None => machine::bare_store(py),
        }
    }

    /// The machine, if this runtime moves data.
    pub(crate) fn machine(&self) -> Option<&Arc<Machine>> {
        self.store().map(|store| store.machine())
    }

    /// The threads that run bodies at this moment.
    pub(crate) fn running_threads(&self) -> Vec<std::ffi::c_ulong> {
        self.threads
            .lock()
            .iter()
            .filter(|book| book.running.lock().is_some())
            .map(|book| book.ident)
            .collect()
    }

    /// The running task of this id.
    pub(crate) fn running(&self, py: Python<'_>, id: TaskId) -> Option<Py<Task>> {
        let is_it = |task: &&Py<Task>| task.get().id() == id;
        self.threads.lock().iter().find_map(|book| {
            book.running
                .lock()
                .as_ref()
                .filter(is_it)
                .map(|task| task.clone_ref(py))
        })
    }

    pub(crate) fn declared(&self, id: TaskId, space: Arc<str>, key: Key) {
        self.books.lock().declared.insert(id, (space, key));
    }

    pub(crate) fn spawned(&self, py: Python<'_>, id: TaskId, was_declared: bool, task: &Task) {
        if was_declared {
            self.books.lock().declared.remove(&id);
        }
        if self.trace {
            let names = (
                task.name(py).bind(py).to_string_lossy().into_owned(),
                task.location(py),
            );
            self.books.lock().names.insert(id, names);
        }
    }

    /// Name and place of spawn, for a trace.
    pub(crate) fn traced_name(&self, id: TaskId) -> (String, String) {
        self.books
            .lock()
            .names
            .get(&id)
            .cloned()
            .unwrap_or_default()
    }

    /// The name of an id that nobody has spawned.
    pub(crate) fn declared_name(&self, id: TaskId) -> Option<String> {
        self.books
            .lock()
            .declared
            .get(&id)
            .map(|(space, key)| format!("{space}_{key}"))
    }

    pub(crate) fn begin_blocking(&self, task: Py<Task>, on: &[TaskId]) {
        let id = task.get().id();
        let before = self.books.lock().blocked.insert(id, (task, on.into()));
        drop(before);
    }

    pub(crate) fn end_blocking(&self, id: TaskId) {
        let before = self.books.lock().blocked.remove(&id);
        drop(before);
    }

    /// A task blocked in a wait of ours, and what it waits for.
    pub(crate) fn blocked(&self, py: Python<'_>, id: TaskId) -> Option<(Py<Task>, Arc<[TaskId]>)> {
        self.books
            .lock()
            .blocked
            .get(&id)
            .map(|(task, on)| (task.clone_ref(py), Arc::clone(on)))
    }

    /// In which words a deadlock was told, if it was.
    pub(crate) fn told(&self, deadlock: &Arc<Diagnosis>) -> Option<String> {
        let books = self.books.lock();
        let (last, text) = books.deadlock.as_ref()?;
        Arc::ptr_eq(last, deadlock).then(|| text.clone())
    }

    /// A deadlock is told in these words, or those in which another thread has told it meanwhile.
    pub(crate) fn tell(&self, deadlock: &Arc<Diagnosis>, text: String) -> String {
        self.told(deadlock).unwrap_or_else(|| {
            self.books.lock().deadlock = Some((Arc::clone(deadlock), text.clone()));
            text
        })
    }

    /// Somebody has seen how this task failed.
    pub(crate) fn looked_at(&self, id: TaskId) {
        let seen = self.books.lock().failed.remove(&id);
        drop(seen);
    }

    /// The failures that nobody has looked at, in the order in which they happened.
    pub(crate) fn take_failed(&self) -> Vec<Py<Task>> {
        let mut failed: Vec<_> = std::mem::take(&mut self.books.lock().failed)
            .into_values()
            .collect();
        failed.sort_by_key(|(number, _)| *number);
        failed.into_iter().map(|(_, task)| task).collect()
    }

    /// Drops everything that keeps Python objects.
    pub(crate) fn close(&self) {
        let mut books = self.books.lock();
        let garbage = (
            self.threads_before.lock().take(),
            std::mem::take(&mut books.failed),
            std::mem::take(&mut books.blocked),
            std::mem::take(&mut books.declared),
        );
        drop(books);
        drop(garbage);
    }

    pub(super) fn failed(&self, py: Python<'_>, task: &Py<Task>, id: TaskId, error: PyErr) {
        let note = format!("in task {}", task.get().describe(py));
        let error: Py<PyBaseException> = error.into_value(py);
        errors::add_note(error.bind(py), &note);
        let operands = {
            let core = task.get().core.lock();
            core.uses.as_ref().map(|uses| Arc::clone(&uses.operands))
        };
        if let Some(advice) = errors::advice(error.bind(py), &operands.unwrap_or_default()) {
            errors::add_note(error.bind(py), &advice);
        }
        Task::end(task.bind(py), Outcome::Failed(error));
        let number = self.n_failed.fetch_add(1, Ordering::Relaxed);
        let before = self
            .books
            .lock()
            .failed
            .insert(id, (number, task.clone_ref(py)));
        drop(before);
    }

    pub(super) fn retry(&self, py: Python<'_>, task: &Py<Task>, error: &PyErr) -> bool {
        let mut core = task.get().core.lock();
        if core.retries == 0 || !error.is_instance_of::<pyo3::exceptions::PyException>(py) {
            return false;
        }
        // Run again, it would find what it has spoilt.
        if errors::is_input_error(error, py) {
            return false;
        }
        core.retries -= 1;
        core.work = core.again.as_ref().and_then(|again| again.again(py));
        if let Some(uses) = &mut core.uses {
            (uses.slot, uses.begun) = (0, false);
        }
        core.work.is_some()
    }

    /// The task whose end cancelled `task`: a failure not looked at, or among what it depends on.
    pub(super) fn find_cause(
        &self,
        py: Python<'_>,
        cause: TaskId,
        task: &Py<Task>,
    ) -> Option<Py<Task>> {
        let known = self
            .books
            .lock()
            .failed
            .get(&cause)
            .map(|(_, task)| task.clone_ref(py));
        if known.is_some() {
            return known;
        }
        let dependencies: Vec<_> = task
            .get()
            .core
            .lock()
            .dependencies
            .iter()
            .map(|d| d.clone_ref(py))
            .collect();
        dependencies.into_iter().find_map(|dependency| {
            let dependency = dependency.task(py)?;
            let root = match &dependency.get().core.lock().outcome {
                Outcome::Failed(_) => None,
                Outcome::Cancelled { cause, .. } => cause.as_ref().map(|root| root.clone_ref(py)),
                Outcome::Pending | Outcome::Value(_) => return None,
            };
            Some(root.unwrap_or(dependency))
        })
    }
}
