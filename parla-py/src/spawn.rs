//! `spawn`: from a decorated function to a task in the graph.

use std::sync::Arc;

use parla_core::lock::Mutex;
use parla_core::{Attrs, Claim, TaskId, Vcus};
use parla_sched::SpawnError;
use pyo3::exceptions::{PyIndexError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyInt, PyList, PyMapping, PyString, PyTuple};
use smallvec::SmallVec;

use crate::body::Body;
use crate::executor::PyBody;
use crate::runtime::{self, Rt};
use crate::space::{Dependency, Resolved, Space, TaskID, not_a_task, resolve_any};
use crate::task::{Core, Outcome, Place, Task};
use crate::{errors, gil, python};

/// How deep iterables of dependencies may be nested.
const MAX_NESTING: u32 = 100;

/// What ``@spawn(...)`` makes: called with the body, it spawns the task.
#[pyclass(frozen, module = "parla._native")]
pub(crate) struct Spawner {
    taskid: Option<Py<PyAny>>,
    dependencies: Option<Py<PyAny>>,
    placement: Placed,
    priority: i32,
    name: Option<Py<PyString>>,
    retries: u32,
}

/// Run the decorated function as a task.
///
/// Args:
///     taskid: the id to spawn under (``T[i]``); None: the task has no id.
///     dependencies: tasks, ids, spaces and nested iterables of them that must have ended first. Ids may be spawned later.
///     placement: where it may run: an architecture, a device, a task (same device), an array (where it lives), or a list of alternatives.
///     input, output, inout: arrays it reads, writes, or both. PArrays come with a later version: anything but an empty sequence is an error.
///     memory: bytes to reserve on the device while it is placed there.
///     vcus: fraction of the device to reserve, from 0 to 1.
///     ndevices: number of different devices.
///     tags, data, runahead: accepted for programs of earlier versions; without GPUs there is nothing to choose.
///     priority: higher runs earlier (default 0).
///     name: the task's name in messages and traces; default: the function's.
///     retries: how often to run it again after an exception.
///     task: 0.3's name for `taskid`.
///
/// Returns:
///     A decorator that spawns the function (or coroutine) it is given and returns the `Task`. The body is called without arguments;
///     its closure is captured by value when it is spawned.
///
/// Raises:
///     TypeError, ValueError, SpawnError, PlacementError: an argument that cannot be used, named in the message.
///     InvalidSchedulerAccessException: no runtime is open.
#[pyfunction]
#[pyo3(signature = (taskid=None, dependencies=None, *, placement=None, input=None, output=None, inout=None, memory=None, vcus=None, ndevices=None, tags=None, data=None, runahead=None, priority=None, name=None, retries=None, task=None))]
#[allow(clippy::too_many_arguments, reason = "the public signature")]
pub(crate) fn spawn(
    py: Python<'_>,
    taskid: Option<Py<PyAny>>,
    dependencies: Option<Py<PyAny>>,
    placement: Option<&Bound<'_, PyAny>>,
    input: Option<&Bound<'_, PyAny>>,
    output: Option<&Bound<'_, PyAny>>,
    inout: Option<&Bound<'_, PyAny>>,
    memory: Option<&Bound<'_, PyAny>>,
    vcus: Option<&Bound<'_, PyAny>>,
    ndevices: Option<&Bound<'_, PyAny>>,
    tags: Option<&Bound<'_, PyAny>>,
    data: Option<&Bound<'_, PyAny>>,
    runahead: Option<&Bound<'_, PyAny>>,
    priority: Option<&Bound<'_, PyAny>>,
    name: Option<&Bound<'_, PyAny>>,
    retries: Option<&Bound<'_, PyAny>>,
    task: Option<Py<PyAny>>,
) -> PyResult<Spawner> {
    let taskid = match (taskid, task) {
        (Some(_), Some(_)) => {
            return Err(PyTypeError::new_err(
                "spawn got both 'taskid' and 'task', two names for the same argument",
            ));
        }
        (taskid, task) => taskid.or(task),
    };
    for (argument, operands) in [("input", input), ("output", output), ("inout", inout)] {
        if let Some(operands) = operands {
            refuse_operands(argument, operands)?;
        }
    }
    check_ignored(tags, data, runahead)?;
    let placement = Placed::resolve(py, placement, vcus, memory, ndevices)?;
    let priority = match priority {
        None => 0,
        Some(priority) => integer(priority, "priority", i32::MIN)?,
    };
    let retries = match retries {
        None => 0,
        Some(retries) => u32::try_from(integer(retries, "retries", 0)?).unwrap_or(0),
    };
    let name = match name {
        None => None,
        Some(name) => match name.cast::<PyString>() {
            Ok(name) => Some(name.clone().unbind()),
            Err(_) => {
                return Err(PyTypeError::new_err(format!(
                    "name: expected a string, not {}",
                    name.get_type().name()?
                )));
            }
        },
    };
    Ok(Spawner {
        taskid,
        dependencies,
        placement,
        priority,
        name,
        retries,
    })
}

#[pymethods]
impl Spawner {
    fn __call__(&self, body: &Bound<'_, PyAny>) -> PyResult<Py<Task>> {
        let py = body.py();
        let rt = runtime::current(py)?;
        let captured = Body::capture(body)?;
        if self.retries > 0 && matches!(captured.work, crate::body::Work::Coroutine(_)) {
            return Err(PyValueError::new_err(
                "retries: a coroutine object can run only once; spawn the `async def` function instead",
            ));
        }
        let mut edges = Edges::default();
        if let Some(dependencies) = &self.dependencies {
            edges.add_all(dependencies.bind(py), &rt)?;
        }
        let Some(taskid) = &self.taskid else {
            return self.launch(py, &rt, captured, edges, None, None);
        };
        let taskid = match taskid.bind(py).cast::<TaskID>() {
            Ok(taskid) => taskid.get(),
            Err(_) => return Err(not_an_id(taskid.bind(py))),
        };
        let space = taskid.space.bind(py);
        let place = Place {
            space_name: space.get().name_arc(),
            key: taskid.key.clone(),
            space: Space::weak(space)?.unbind(),
        };
        let declared = space.get().begin_spawn(py, &taskid.key, &rt)?;
        let launched = self.launch(py, &rt, captured, edges, declared, Some(place));
        let outcome = match &launched {
            Ok(task) => Ok(task.clone_ref(py)),
            Err(_) => Err(declared.map(|id| (Arc::clone(&rt), id))),
        };
        space.get().end_spawn(&taskid.key, outcome);
        gil::hand_over_if_wanted(py);
        launched
    }
}

impl Spawner {
    fn launch(
        &self,
        py: Python<'_>,
        rt: &Arc<Rt>,
        body: Body,
        edges: Edges,
        declared: Option<TaskId>,
        place: Option<Place>,
    ) -> PyResult<Py<Task>> {
        let core = Core {
            work: Some(body.work),
            is_coroutine: body.is_coroutine,
            outcome: Outcome::Pending,
            dependencies: edges.objects.into_vec().into(),
            retries: self.retries,
            again: None,
            context: None,
            name: self
                .name
                .as_ref()
                .map_or(body.name, |name| name.clone_ref(py)),
            origin: python::Origin::here(py),
            finish_scope: None,
            uses: None,
        };
        let task = Task::pending(
            py,
            Task::new(
                Arc::clone(rt),
                core,
                place,
                self.placement.object.clone_ref(py),
            ),
        )?;
        let attrs = Attrs {
            priority: self.priority,
            worker: self.placement.worker,
            claim: self.placement.claim,
            placed: false,
        };
        let request = parla_sched::Task {
            declared,
            dependencies: &edges.ids,
            attrs,
            placing: None,
        };
        let make_body = |id| {
            task.get().set_id(id);
            PyBody(task.clone_ref(py))
        };
        match runtime::spawn_in(rt, request, make_body) {
            Ok(id) => {
                rt.executor()
                    .spawned(py, id, declared.is_some(), task.get());
                runtime::note_spawned(py, &task)?;
                if task.get().place.is_none() {
                    gil::hand_over_if_wanted(py);
                }
                Ok(task)
            }
            Err(SpawnError::Taken(_)) => Err(errors::spawn_error(
                py,
                format!(
                    "spawn: {} was given up before it was spawned, because nothing seemed to be able to spawn it any more",
                    task.get().label(py)
                ),
            )),
            Err(SpawnError::Closed) => Err(errors::no_runtime(
                py,
                "spawn: the runtime takes no more tasks, its block has ended",
            )),
            Err(error) => Err(errors::spawn_error(py, format!("spawn: {error}"))),
        }
    }
}

/// Dependencies, flattened; each counts once.
#[derive(Default)]
struct Edges {
    ids: SmallVec<[TaskId; 4]>,
    objects: SmallVec<[Dependency; 4]>,
    /// For many: which are there already.
    seen: rustc_hash::FxHashSet<TaskId>,
}

impl Edges {
    fn add_all(&mut self, dependencies: &Bound<'_, PyAny>, rt: &Arc<Rt>) -> PyResult<()> {
        self.add(dependencies, rt, 0)
    }

    fn add(&mut self, object: &Bound<'_, PyAny>, rt: &Arc<Rt>, depth: u32) -> PyResult<()> {
        if let Ok(list) = object.cast_exact::<PyList>() {
            for item in list.iter() {
                self.add_item(&item, rt, depth)?;
            }
            return Ok(());
        }
        if let Ok(tuple) = object.cast_exact::<PyTuple>() {
            for item in tuple.iter_borrowed() {
                self.add_item(&item, rt, depth)?;
            }
            return Ok(());
        }
        self.add_item(object, rt, depth)
    }

    fn add_item(&mut self, object: &Bound<'_, PyAny>, rt: &Arc<Rt>, depth: u32) -> PyResult<()> {
        if let Some(resolved) = resolve_any(object, rt)? {
            if let Resolved::Edge(id) = resolved {
                self.push(id, object)?;
            }
            return Ok(());
        }
        if let Ok(space) = object.cast::<Space>() {
            let tasks = space.getattr("tasks")?;
            return self.add(&tasks, rt, depth + 1);
        }
        let is_text = object.is_instance_of::<PyString>() || object.is_instance_of::<PyBytes>();
        let is_container = object.is_instance_of::<PyList>() || object.is_instance_of::<PyTuple>();
        let iterable = is_container
            || (!is_text
                && object.cast::<PyMapping>().is_err()
                && object.is_instance(python::iterable(object.py())?)?);
        if !iterable {
            return Err(not_a_task(object, "dependencies"));
        }
        if depth >= MAX_NESTING {
            return Err(errors::spawn_error(
                object.py(),
                format!("dependencies: nested more than {MAX_NESTING} deep"),
            ));
        }
        if object.cast_exact::<PyList>().is_ok() || object.cast_exact::<PyTuple>().is_ok() {
            return self.add(object, rt, depth + 1);
        }
        for item in object.try_iter()? {
            self.add_item(&item?, rt, depth + 1)?;
        }
        Ok(())
    }

    fn push(&mut self, id: TaskId, object: &Bound<'_, PyAny>) -> PyResult<()> {
        const FEW: usize = 16;
        let known = if self.ids.len() < FEW {
            self.ids.contains(&id)
        } else {
            if self.seen.is_empty() {
                self.seen.extend(self.ids.iter().copied());
            }
            !self.seen.insert(id)
        };
        if !known {
            self.ids.push(id);
            self.objects.push(Dependency::of(object)?);
        }
        Ok(())
    }
}

/// A placement that was checked and found possible.
struct Placed {
    object: Py<PyAny>,
    claim: Claim,
    worker: Option<u16>,
}

/// The last placements given as one object with nothing else, by identity.
static KNOWN: Mutex<Vec<(Option<Py<PyAny>>, Placed)>> = Mutex::new(Vec::new());
const MAX_KNOWN: usize = 16;

/// Forgets resolved placements; called when a runtime ends, since the environment may change before the next.
pub(crate) fn forget_placements() {
    let known = std::mem::take(&mut *KNOWN.lock());
    drop(known);
}

impl Placed {
    fn clone_ref(&self, py: Python<'_>) -> Self {
        Self {
            object: self.object.clone_ref(py),
            claim: self.claim,
            worker: self.worker,
        }
    }

    fn resolve(
        py: Python<'_>,
        placement: Option<&Bound<'_, PyAny>>,
        vcus: Option<&Bound<'_, PyAny>>,
        memory: Option<&Bound<'_, PyAny>>,
        ndevices: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        let plain = vcus.is_none() && memory.is_none() && ndevices.is_none();
        if plain {
            let known = KNOWN.lock();
            for (key, placed) in &*known {
                let same = match (key, placement) {
                    (None, None) => true,
                    (Some(key), Some(placement)) => placement.is(key),
                    _ => false,
                };
                if same {
                    return Ok(placed.clone_ref(py));
                }
            }
        }
        let ndevices = match ndevices {
            Some(n) => n.clone(),
            None => PyInt::new(py, 1).into_any(),
        };
        let object = python::resolve_placement(py)?.call1((placement, vcus, memory, ndevices))?;
        let affinity: i64 = object.getattr("affinity")?.extract()?;
        let placed = Self {
            claim: Claim {
                vcus: Vcus(object.getattr("vcus")?.extract()?),
                memory: object.getattr("memory")?.extract()?,
            },
            worker: u16::try_from(affinity).ok(),
            object: object.unbind(),
        };
        let cachable = match placement {
            None => true,
            Some(placement) => {
                placement.is_instance(python::architecture(py)?)?
                    || placement.is_instance(python::device(py)?)?
            }
        };
        if plain && cachable {
            let mut known = KNOWN.lock();
            if known.len() < MAX_KNOWN {
                known.push((placement.map(|p| p.clone().unbind()), placed.clone_ref(py)));
            }
        }
        Ok(placed)
    }
}

fn refuse_operands(argument: &str, operands: &Bound<'_, PyAny>) -> PyResult<()> {
    let Ok(items) = operands.try_iter() else {
        return Err(PyTypeError::new_err(format!(
            "{argument}: expected a sequence of arrays, not {}",
            operands.get_type().name()?
        )));
    };
    match items.into_iter().next() {
        None => Ok(()),
        Some(item) => Err(errors::spawn_error(
            operands.py(),
            format!(
                "{argument}: this version moves no data; a NumPy array ({}) can be used in the body as it is",
                item?.get_type().name()?
            ),
        )),
    }
}

/// Arguments of earlier versions that have no effect on CPU tasks: their types are still checked.
fn check_ignored(
    tags: Option<&Bound<'_, PyAny>>,
    data: Option<&Bound<'_, PyAny>>,
    runahead: Option<&Bound<'_, PyAny>>,
) -> PyResult<()> {
    if let Some(tags) = tags
        && !(tags.is_instance_of::<PyString>() || tags.try_iter().is_ok())
    {
        return Err(PyTypeError::new_err(format!(
            "tags: expected a sequence, not {}",
            tags.get_type().name()?
        )));
    }
    if let Some(data) = data
        && data.try_iter().is_err()
    {
        return Err(PyTypeError::new_err(format!(
            "data: expected a sequence of arrays, not {}",
            data.get_type().name()?
        )));
    }
    if let Some(runahead) = runahead {
        if runahead.is_instance_of::<PyInt>()
            || runahead.is_instance_of::<PyString>()
            || runahead.hasattr("name")?
        {
            return Ok(());
        }
        return Err(PyTypeError::new_err(format!(
            "runahead: expected a behaviour, not {}",
            runahead.get_type().name()?
        )));
    }
    Ok(())
}

fn integer(value: &Bound<'_, PyAny>, argument: &str, least: i32) -> PyResult<i32> {
    let Ok(number) = value.extract::<i64>() else {
        let kind = value.get_type().name()?;
        return Err(if value.is_instance_of::<PyInt>() {
            PyValueError::new_err(format!("{argument}: {value} is out of range"))
        } else {
            PyTypeError::new_err(format!("{argument}: expected an integer, not {kind}"))
        });
    };
    match i32::try_from(number) {
        Ok(number) if number >= least => Ok(number),
        _ => Err(PyValueError::new_err(format!(
            "{argument}: {number} is out of range"
        ))),
    }
}

/// An error for a `taskid` that names no task or several.
fn not_an_id(taskid: &Bound<'_, PyAny>) -> PyErr {
    let describe = || {
        taskid
            .repr()
            .map_or_else(|_| "?".to_owned(), |r| r.to_string())
    };
    if taskid.hasattr("_selected").unwrap_or(false) {
        let what = taskid
            .getattr("_selected")
            .and_then(|s| s.extract::<String>())
            .unwrap_or_else(|_| describe());
        return match taskid.len() {
            Ok(0) => PyIndexError::new_err(format!(
                "taskid: {what} names no task: the index is out of range"
            )),
            _ => PyTypeError::new_err(format!(
                "taskid: {what} names several tasks; a task has one id"
            )),
        };
    }
    let kind = taskid
        .get_type()
        .name()
        .map_or_else(|_| "?".to_owned(), |name| name.to_string());
    PyTypeError::new_err(format!(
        "taskid: expected an index of a TaskSpace such as T[0], not {kind}"
    ))
}
