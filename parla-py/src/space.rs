//! Names for tasks: the native base of `TaskSpace`, and `TaskID`.

use std::hash::{BuildHasher, Hash};
use std::sync::Arc;

use indexmap::IndexMap;
use parla_core::TaskId;
use parla_core::lock::Mutex;
use pyo3::exceptions::{PyIndexError, PyRuntimeError, PyTypeError};
use pyo3::gc::PyVisit;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyTuple};
use pyo3::{PyTraverseError, intern};
use rustc_hash::FxBuildHasher;

use crate::awaiter::Awaiter;
use crate::key::{Interned, Key};
use crate::python;
use crate::runtime::Rt;
use crate::task::Task;

/// What a space knows of one of its keys.
enum Entry {
    /// Somebody depends on it, nobody spawned it yet.
    Declared(Arc<Rt>, TaskId),
    /// It is being spawned at this moment, by a call that has not returned.
    Spawning(std::thread::ThreadId),
    /// It was spawned.
    Spawned(Py<Task>),
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
    weak: Mutex<Option<Py<PyAny>>>,
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
        let known = slf
            .get()
            .weak
            .lock()
            .as_ref()
            .map(|weak| weak.clone_ref(py));
        if let Some(weak) = known {
            return Ok(weak.into_bound(py));
        }
        let weak = py
            .import(intern!(py, "weakref"))?
            .getattr(intern!(py, "ref"))?
            .call1((slf,))?;
        *slf.get().weak.lock() = Some(weak.clone().unbind());
        Ok(weak)
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

    /// What depending on (or awaiting) `key` in `rt` means; declares the task if nobody spawned it.
    pub(crate) fn resolve(&self, py: Python<'_>, key: &Key, rt: &Arc<Rt>) -> PyResult<Resolved> {
        if self.completed {
            return Ok(Resolved::Done);
        }
        self.wait_while_spawned_elsewhere(py, key);
        let mut stale = None;
        let task = {
            let mut entries = self.entries.lock();
            match entries.get_mut(key) {
                Some(Entry::Spawned(task)) => task.clone_ref(py),
                Some(Entry::Declared(of, id)) if Arc::ptr_eq(of, rt) => {
                    return Ok(Resolved::Edge(*id));
                }
                Some(Entry::Spawning(_)) => {
                    return Err(PyRuntimeError::new_err(format!(
                        "{} is being spawned",
                        self.label(key)
                    )));
                }
                entry => {
                    let id = rt.declare();
                    rt.executor().declared(id, self.name_arc(), key.clone());
                    let declared = Entry::Declared(Arc::clone(rt), id);
                    match entry {
                        Some(entry) => stale = Some(std::mem::replace(entry, declared)),
                        None => {
                            entries.insert(key.clone(), declared);
                        }
                    }
                    drop(entries);
                    drop(stale);
                    return Ok(Resolved::Edge(id));
                }
            }
        };
        drop(stale);
        task.get().resolve(py, rt)
    }

    /// A thread that spawns can lose the GIL in the middle of it (a collection of garbage runs what it likes): whoever asks for the task then waits for it.
    fn wait_while_spawned_elsewhere(&self, py: Python<'_>, key: &Key) {
        let me = std::thread::current().id();
        let elsewhere =
            || matches!(self.entries.lock().get(key), Some(Entry::Spawning(by)) if *by != me);
        while elsewhere() {
            py.detach(std::thread::yield_now);
        }
    }

    /// Takes `key` for a task about to be spawned; returns the id it was declared under.
    pub(crate) fn begin_spawn(
        &self,
        py: Python<'_>,
        key: &Key,
        rt: &Arc<Rt>,
    ) -> PyResult<Option<TaskId>> {
        if !self.in_range(key) || self.completed {
            return Err(PyIndexError::new_err(format!(
                "{} is out of the range of its space: no task can have this id",
                self.label(key)
            )));
        }
        let before = self
            .entries
            .lock()
            .insert(key.clone(), Entry::Spawning(std::thread::current().id()));
        let used = match before {
            None => return Ok(None),
            Some(Entry::Declared(of, id)) if Arc::ptr_eq(&of, rt) => return Ok(Some(id)),
            Some(Entry::Declared(..)) => return Ok(None),
            Some(used) => used,
        };
        let place = match &used {
            Entry::Spawned(task) => format!(" at {}", task.get().location(py)),
            _ => String::new(),
        };
        self.put(key, used);
        Err(PyRuntimeError::new_err(format!(
            "{} was spawned before{place}; a task id can be spawned once",
            self.label(key)
        )))
    }

    /// The spawn succeeded, or (`None`) came to nothing: then the key is as it was.
    pub(crate) fn end_spawn(
        &self,
        key: &Key,
        outcome: Result<Py<Task>, Option<(Arc<Rt>, TaskId)>>,
    ) {
        match outcome {
            Ok(task) => self.put(key, Entry::Spawned(task)),
            Err(Some((rt, id))) => self.put(key, Entry::Declared(rt, id)),
            Err(None) => {
                let removed = self.entries.lock().shift_remove(key);
                drop(removed);
            }
        }
    }

    fn put(&self, key: &Key, entry: Entry) {
        let before = self.entries.lock().insert(key.clone(), entry);
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
            let parts = parts
                .iter()
                .map(|part| self.intern(&part))
                .collect::<PyResult<Box<[_]>>>()?;
            return Ok(Key::Tuple(parts));
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
            weak: Mutex::new(None),
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
            return Ok(Bound::new(
                slf.py(),
                TaskID {
                    space: slf.clone().unbind(),
                    key,
                },
            )?
            .into_any());
        }
        python::select(slf.py())?.call1((slf, key))
    }

    /// The id of exactly this key, which is no slice or list; None if it is out of range.
    fn _id(slf: &Bound<'_, Self>, key: &Bound<'_, PyAny>) -> PyResult<Option<TaskID>> {
        let key = slf.get().intern(key)?;
        if !slf.get().in_range(&key) {
            return Ok(None);
        }
        Ok(Some(TaskID {
            space: slf.clone().unbind(),
            key,
        }))
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
        let ids = keys.into_iter().map(|key| {
            Bound::new(
                slf.py(),
                TaskID {
                    space: slf.clone().unbind(),
                    key,
                },
            )
        });
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
        // A lock that is taken is taken by a thread in the middle of a change; the collector comes again.
        if let Some(weak) = self.weak.try_lock() {
            visit.call(&*weak)?;
        }
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
        let weak = self.weak.lock().take();
        drop(weak);
    }
}

/// The name of one task: an index of a `TaskSpace`. Exists before and after the task does.
#[pyclass(frozen, module = "parla")]
pub(crate) struct TaskID {
    pub(crate) space: Py<Space>,
    pub(crate) key: Key,
}

#[pymethods]
impl TaskID {
    /// The task spawned under this id, or None.
    #[getter]
    fn task(&self, py: Python<'_>) -> Option<Py<Task>> {
        self.space.get().task(py, &self.key)
    }

    /// The index within the space: an integer, a string, another object, or a tuple of those.
    #[getter]
    fn id<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.space.get().key_object(py, &self.key)
    }

    /// The space this id belongs to.
    #[getter]
    fn space(&self, py: Python<'_>) -> Py<Space> {
        self.space.clone_ref(py)
    }

    /// The space's name and the index, joined by underscores: ``T_0``.
    #[getter]
    fn name(&self, py: Python<'_>) -> PyResult<String> {
        let object = self.space.get().key_object(py, &self.key)?;
        let parts = match object.cast_into::<PyTuple>() {
            Ok(parts) => parts
                .iter()
                .map(|part| part.str().map(|s| s.to_string()))
                .collect::<PyResult<Vec<_>>>()?
                .join("_"),
            Err(error) => error.into_inner().str()?.to_string(),
        };
        Ok(format!("{}_{parts}", self.space.get().name))
    }

    /// The name together with the function the task runs, once it is spawned: ``T_0 (tasks_A)``.
    #[getter]
    fn full_name(&self, py: Python<'_>) -> PyResult<String> {
        match self.task(py) {
            Some(task) => Ok(task.get().label(py)),
            None => self.name(py),
        }
    }

    fn __await__(slf: Bound<'_, Self>) -> PyResult<Bound<'_, PyAny>> {
        Awaiter::of_one(slf.into_any())
    }

    fn __eq__(&self, other: &Bound<'_, PyAny>) -> bool {
        other
            .cast::<Self>()
            .is_ok_and(|other| self.space.is(&other.get().space) && self.key == other.get().key)
    }

    fn __hash__(&self) -> isize {
        let hash = FxBuildHasher.hash_one((self.space.as_ptr().addr(), HashKey(&self.key)));
        isize::from_ne_bytes(hash.to_ne_bytes()).max(0)
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        Ok(format!("TaskID({})", self.name(py)?))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.space)
    }
}

struct HashKey<'a>(&'a Key);

impl Hash for HashKey<'_> {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

/// What a task depends on, as its user named it, in little room and without an object that the garbage collector must look at.
pub(crate) enum Dependency {
    Task(Py<Task>),
    Id(Py<Space>, Key),
}

impl Dependency {
    /// Of a `Task` or `TaskID`.
    pub(crate) fn of(object: &Bound<'_, PyAny>) -> PyResult<Self> {
        let py = object.py();
        if let Ok(id) = object.cast::<TaskID>() {
            let id = id.get();
            return Ok(Self::Id(id.space.clone_ref(py), id.key.clone()));
        }
        Ok(Self::Task(object.cast::<Task>()?.clone().unbind()))
    }

    /// The object that the user named.
    pub(crate) fn to_python(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        match self {
            Self::Task(task) => Ok(task.clone_ref(py).into_any()),
            Self::Id(space, key) => Ok(Py::new(
                py,
                TaskID {
                    space: space.clone_ref(py),
                    key: key.clone(),
                },
            )?
            .into_any()),
        }
    }

    /// The task, if it is spawned.
    pub(crate) fn task(&self, py: Python<'_>) -> Option<Py<Task>> {
        match self {
            Self::Task(task) => Some(task.clone_ref(py)),
            Self::Id(space, key) => space.get().task(py, key),
        }
    }

    pub(crate) fn clone_ref(&self, py: Python<'_>) -> Self {
        match self {
            Self::Task(task) => Self::Task(task.clone_ref(py)),
            Self::Id(space, key) => Self::Id(space.clone_ref(py), key.clone()),
        }
    }

    pub(crate) fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        match self {
            Self::Task(task) => visit.call(task),
            Self::Id(space, _) => visit.call(space),
        }
    }
}

/// What names a task in dependencies and awaits: `Task` or `TaskID`.
pub(crate) fn resolve_any(object: &Bound<'_, PyAny>, rt: &Arc<Rt>) -> PyResult<Option<Resolved>> {
    if let Ok(id) = object.cast::<TaskID>() {
        let id = id.get();
        return id.space.get().resolve(object.py(), &id.key, rt).map(Some);
    }
    if let Ok(task) = object.cast::<Task>() {
        return task.get().resolve(object.py(), rt).map(Some);
    }
    Ok(None)
}

/// A `TypeError` for something that should name a task.
pub(crate) fn not_a_task(object: &Bound<'_, PyAny>, argument: &str) -> PyErr {
    let kind = object
        .get_type()
        .name()
        .map_or_else(|_| "?".to_owned(), |name| name.to_string());
    PyTypeError::new_err(format!(
        "{argument}: expected a Task, TaskID, TaskSpace, tasks(...) or an iterable of those, not {kind}"
    ))
}
