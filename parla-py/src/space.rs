//! Names for tasks: the native base of `TaskSpace`, and `TaskID`.

mod dependency;
mod id;

use std::sync::{Arc, OnceLock};

use indexmap::IndexMap;
use indexmap::map::Entry as Slot;
use parla_core::TaskId;
use parla_core::lock::Mutex;
use pyo3::exceptions::{PyIndexError, PyRuntimeError};
use pyo3::gc::PyVisit;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyTuple};
use pyo3::{PyTraverseError, intern};
use rustc_hash::FxBuildHasher;

use crate::key::{Interned, Key};
use crate::python;
use crate::runtime::Rt;
use crate::task::Task;
pub(crate) use dependency::{Dependency, Edge, edge_of, not_a_task};
pub(crate) use id::TaskID;

/// What a space knows of one of its keys.
enum Entry {
    /// Somebody depends on it, nobody spawned it yet.
    Declared(Arc<Rt>, TaskId),
    /// It is being spawned at this moment, by a call on this thread that has not returned.
    Spawning(Thread),
    /// It was spawned.
    Spawned(Py<Task>),
}

/// A thread that has not ended: the address of something of its own.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Thread(usize);

impl Thread {
    fn this() -> Self {
        thread_local! {
            static MARK: u8 = const { 0 };
        }
        MARK.with(|mark| Self(std::ptr::from_ref(mark).addr()))
    }
}

/// What a spawn that has begun must know at its end.
pub(crate) struct Begun {
    /// Where its key was in the space; others may have moved it since.
    at: usize,
    /// The id it was declared under.
    pub(crate) declared: Option<TaskId>,
}

/// A family of task names (the base of `parla.TaskSpace`, which has the docstring).
#[pyclass(frozen, subclass, weakref, module = "parla._native")]
pub(crate) struct Space {
    name: Arc<str>,
    /// One past the last index, per dimension; none: unbounded.
    shape: Option<Box<[i64]>>,
    start: Box<[i64]>,
    /// Every task in it counts as done.
    completed: bool,
    /// Guarded by the lock only for moments, and never across a call into Python.
    entries: Mutex<IndexMap<Key, Entry, FxBuildHasher>>,
    /// Keys that are neither integers nor strings: object to number, and the objects by number.
    objects: Py<PyDict>,
    numbered: Py<PyList>,
    /// A weak reference to this space, shared by its tasks; made when first needed.
    weak: OnceLock<Py<PyAny>>,
}

/// What a dependency on a task comes to.
pub(crate) enum Resolved {
    /// An edge to this task of the runtime.
    Edge(TaskId),
    /// Nothing to wait for.
    Done,
}

impl Space {
    pub(crate) fn label(&self, key: &Key) -> String {
        format!("{}_{key}", self.name)
    }

    pub(crate) fn is_completed(&self) -> bool {
        self.completed
    }

    pub(crate) fn name_arc(&self) -> Arc<str> {
        Arc::clone(&self.name)
    }

    /// The weak reference that tasks keep to their space.
    pub(crate) fn weak<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        if let Some(weak) = slf.get().weak.get() {
            return Ok(weak.bind(py).clone());
        }
        let weak = py
            .import(intern!(py, "weakref"))?
            .getattr(intern!(py, "ref"))?
            .call1((slf,))?;
        // Whoever comes second has the same object: there is one reference of this kind to a space.
        Ok(slf
            .get()
            .weak
            .get_or_init(|| weak.unbind())
            .bind(py)
            .clone())
    }

    fn in_range(&self, key: &Key) -> bool {
        if self.completed {
            return true;
        }
        let mut dimension = 0;
        for part in key.parts() {
            let Key::Int(index) = part else { continue };
            let start = self
                .start
                .get(dimension)
                .or(self.start.first())
                .copied()
                .unwrap_or(0);
            let stop = self
                .shape
                .as_ref()
                .and_then(|shape| shape.get(dimension))
                .copied();
            if *index < start || stop.is_some_and(|stop| *index >= stop) || *index < 0 {
                return false;
            }
            dimension += 1;
        }
        true
    }

    fn key_object<'py>(&self, py: Python<'py>, key: &Key) -> PyResult<Bound<'py, PyAny>> {
        let numbered = self.numbered.bind(py);
        key.to_python(py, &|Interned(number)| {
            numbered
                .get_item(number as usize)
                .unwrap_or_else(|_| py.None().into_bound(py))
        })
    }

    /// The task spawned under `key`, if it is.
    pub(crate) fn task(&self, py: Python<'_>, key: &Key) -> Option<Py<Task>> {
        match self.entries.lock().get(key) {
            Some(Entry::Spawned(task)) => Some(task.clone_ref(py)),
            _ => None,
        }
    }

    /// As [`Self::task`], for the user's code: a task that another thread is spawning at this moment may run already, so this waits for
    /// the end of that call. Detaches, so no lock may be held.
    pub(crate) fn task_once_spawned(&self, py: Python<'_>, key: &Key) -> Option<Py<Task>> {
        loop {
            match self.entries.lock().get(key) {
                Some(Entry::Spawned(task)) => return Some(task.clone_ref(py)),
                Some(Entry::Spawning(by)) if *by != Thread::this() => {}
                _ => return None,
            }
            py.detach(std::thread::yield_now);
        }
    }

    /// What depending on (or awaiting) `key` in `rt` means; declares the task if nobody spawned it.
    pub(crate) fn resolve(&self, py: Python<'_>, key: &Key, rt: &Arc<Rt>) -> PyResult<Resolved> {
        if self.completed {
            return Ok(Resolved::Done);
        }
        let mut entries = self.entries.lock();
        loop {
            match entries.get_mut(key) {
                Some(Entry::Spawned(task)) if Arc::ptr_eq(&task.get().rt, rt) => {
                    return Ok(Resolved::Edge(task.get().id()));
                }
                Some(Entry::Spawned(task)) => {
                    let task = task.clone_ref(py);
                    drop(entries);
                    return task.get().resolve(py, rt);
                }
                Some(Entry::Declared(of, id)) if Arc::ptr_eq(of, rt) => {
                    return Ok(Resolved::Edge(*id));
                }
                Some(Entry::Spawning(by)) if *by == Thread::this() => {
                    drop(entries);
                    return Err(PyRuntimeError::new_err(format!(
                        "{} is being spawned",
                        self.label(key)
                    )));
                }
                Some(Entry::Spawning(_)) => {
                    // A thread that spawns can lose the GIL in the middle of it (a collection of garbage runs what it likes): whoever asks for
                    // the task then waits for it.
                    drop(entries);
                    py.detach(std::thread::yield_now);
                    entries = self.entries.lock();
                }
                entry => {
                    let id = rt.declare();
                    rt.executor().declared(id, self.name_arc(), key.clone());
                    let declared = Entry::Declared(Arc::clone(rt), id);
                    let stale = match entry {
                        Some(entry) => Some(std::mem::replace(entry, declared)),
                        None => entries.insert(key.clone(), declared),
                    };
                    drop(entries);
                    drop(stale);
                    return Ok(Resolved::Edge(id));
                }
            }
        }
    }

    /// Takes `key` for a task about to be spawned.
    pub(crate) fn begin_spawn(&self, py: Python<'_>, key: &Key, rt: &Arc<Rt>) -> PyResult<Begun> {
        if !self.in_range(key) || self.completed {
            return Err(PyIndexError::new_err(format!(
                "{} is out of the range of its space: no task can have this id",
                self.label(key)
            )));
        }
        let spawning = Entry::Spawning(Thread::this());
        let mut entries = self.entries.lock();
        let (at, before) = match entries.entry(key.clone()) {
            Slot::Vacant(slot) => {
                let at = slot.index();
                slot.insert(spawning);
                (at, None)
            }
            Slot::Occupied(mut slot) => {
                let used = match slot.get() {
                    Entry::Declared(..) => None,
                    Entry::Spawning(_) => Some(None),
                    Entry::Spawned(task) => Some(Some(task.clone_ref(py))),
                };
                if let Some(task) = used {
                    drop(entries);
                    let place = task.map_or_else(String::new, |task| {
                        format!(" at {}", task.get().location(py))
                    });
                    return Err(PyRuntimeError::new_err(format!(
                        "{} was spawned before{place}; a task id can be spawned once",
                        self.label(key)
                    )));
                }
                (slot.index(), Some(slot.insert(spawning)))
            }
        };
        drop(entries);
        let declared = match before {
            Some(Entry::Declared(of, id)) if Arc::ptr_eq(&of, rt) => Some(id),
            _ => None,
        };
        Ok(Begun { at, declared })
    }

    /// The spawn succeeded, or (`None`) came to nothing: then the key is as it was.
    pub(crate) fn end_spawn(&self, begun: &Begun, key: &Key, rt: &Arc<Rt>, task: Option<Py<Task>>) {
        let entry = match (task, begun.declared) {
            (Some(task), _) => Entry::Spawned(task),
            (None, Some(id)) => Entry::Declared(Arc::clone(rt), id),
            (None, None) => {
                let removed = self.entries.lock().shift_remove(key);
                drop(removed);
                return;
            }
        };
        let mut entries = self.entries.lock();
        let before = match entries.get_index_mut(begun.at) {
            Some((at, before)) if at == key => Some(std::mem::replace(before, entry)),
            _ => entries.insert(key.clone(), entry),
        };
        drop(entries);
        drop(before); // outside the lock
    }

    fn intern(&self, object: &Bound<'_, PyAny>) -> PyResult<Key> {
        if let Some(key) = Key::simple(object)? {
            return Ok(key);
        }
        let py = object.py();
        // SAFETY: attached, a valid object.
        if unsafe { pyo3::ffi::PyIndex_Check(object.as_ptr()) } != 0 {
            let index = py
                .import(intern!(py, "operator"))?
                .call_method1(intern!(py, "index"), (object,))?;
            if let Ok(index) = index.extract() {
                return Ok(Key::Int(index));
            }
            if index.lt(0)? {
                return Ok(Key::Int(-1)); // as far below the range as any
            }
        } else if object.is_instance(python::number(py)?)? {
            // Equal keys are one key, as in a dict: 1.0 is 1.
            let whole = py
                .import(intern!(py, "builtins"))?
                .call_method1(intern!(py, "int"), (object,));
            if let Ok(whole) = whole
                && whole.eq(object)?
            {
                return self.intern(&whole);
            }
        }
        if let Ok(text) = object.extract::<String>() {
            return Ok(Key::Str(text.into()));
        }
        if let Ok(parts) = object.cast::<PyTuple>() {
            let mut parts = parts
                .iter()
                .map(|part| self.intern(&part))
                .collect::<PyResult<Vec<_>>>()?;
            return Ok(match parts.len() {
                1 => parts.swap_remove(0), // as `Key::simple` has it
                _ => Key::Tuple(parts.into()),
            });
        }
        object.hash()?; // unhashable: TypeError, as a Python user expects
        let objects = self.objects.bind(py);
        if let Some(number) = objects.get_item(object)? {
            return Ok(Key::Object(number.extract()?));
        }
        let numbered = self.numbered.bind(py);
        numbered.append(object)?;
        // Another thread or a re-entrant comparison may have been faster: then its number counts.
        let number: u32 = objects
            .call_method1(intern!(py, "setdefault"), (object, numbered.len() - 1))?
            .extract()?;
        Ok(Key::Object(number))
    }
}

#[pymethods]
impl Space {
    #[new]
    #[pyo3(signature = (name = "", shape = None, start = None, completed = false))]
    fn new(
        py: Python<'_>,
        name: &str,
        shape: Option<Vec<i64>>,
        start: Option<Vec<i64>>,
        completed: bool,
    ) -> Self {
        Self {
            name: name.into(),
            shape: shape.map(Vec::into_boxed_slice),
            start: start.unwrap_or_default().into(),
            completed,
            entries: Mutex::new(IndexMap::default()),
            objects: PyDict::new(py).unbind(),
            numbered: PyList::empty(py).unbind(),
            weak: OnceLock::new(),
        }
    }

    #[getter]
    fn name(&self) -> &str {
        &self.name
    }

    #[getter]
    fn _completed(&self) -> bool {
        self.completed
    }

    #[getter]
    fn _shape(&self) -> Option<Vec<i64>> {
        self.shape.as_ref().map(|shape| shape.to_vec())
    }

    #[getter]
    fn _start(&self) -> Vec<i64> {
        self.start.to_vec()
    }

    fn __getitem__<'py>(
        slf: &Bound<'py, Self>,
        key: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        if let Some(key) = Key::simple(key)?
            && slf.get().in_range(&key)
        {
            return TaskID::object(slf, key);
        }
        python::select(slf.py())?.call1((slf, key))
    }

    /// The id of exactly this key, which is no slice or list; None if it is out of range.
    fn _id<'py>(
        slf: &Bound<'py, Self>,
        key: &Bound<'py, PyAny>,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        let key = slf.get().intern(key)?;
        if !slf.get().in_range(&key) {
            return Ok(None);
        }
        TaskID::object(slf, key).map(Some)
    }

    /// The ids of all spawned tasks, in the order in which their ids were first named.
    fn _ids<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyList>> {
        let keys: Vec<Key> = {
            let entries = slf.get().entries.lock();
            entries
                .iter()
                .filter(|(_, entry)| matches!(entry, Entry::Spawned(_)))
                .map(|(key, _)| key.clone())
                .collect()
        };
        let ids = keys.into_iter().map(|key| TaskID::object(slf, key));
        PyList::new(slf.py(), ids.collect::<PyResult<Vec<_>>>()?)
    }

    /// All spawned tasks, in the order in which their ids were first named.
    #[getter]
    fn tasks<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let tasks: Vec<Py<Task>> = {
            let entries = self.entries.lock();
            let spawned = entries.values().filter_map(|entry| match entry {
                Entry::Spawned(task) => Some(task.clone_ref(py)),
                _ => None,
            });
            spawned.collect()
        };
        PyList::new(py, tasks)
    }

    fn __len__(&self) -> usize {
        self.entries
            .lock()
            .values()
            .filter(|entry| matches!(entry, Entry::Spawned(_)))
            .count()
    }

    fn __bool__(&self) -> bool {
        true
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.objects)?;
        visit.call(&self.numbered)?;
        // It refers to nothing, so it is in no cycle that would have to be cleared.
        visit.call(self.weak.get())?;
        // A lock that is taken is taken by a thread in the middle of a change; the collector comes again.
        let Some(entries) = self.entries.try_lock() else {
            return Ok(());
        };
        entries.values().try_for_each(|entry| match entry {
            Entry::Spawned(task) => visit.call(task),
            _ => Ok(()),
        })
    }

    fn __clear__(&self) {
        let entries = std::mem::take(&mut *self.entries.lock());
        drop(entries); // outside the lock: tasks have destructors
    }
}
