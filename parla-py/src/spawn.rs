//! `spawn`: from a decorated function to a task in the graph.

use std::sync::Arc;

use parla_core::{Access, Attrs, Claim, TaskId};
use parla_data::Operand;
use parla_sched::{Choice, Placing, Runahead, SpawnError};
use pyo3::exceptions::{PyIndexError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyInt, PyList, PyMapping, PyString, PyTuple};
use smallvec::SmallVec;

use crate::assignment::Uses;
use crate::body::Body;
use crate::executor::PyBody;
use crate::operands::{self, Argument};
use crate::placed::{Choices, Placed};
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
    operands: Option<Arc<[Operand]>>,
    runahead: Option<Runahead>,
    tags: Option<Py<PyAny>>,
}

/// Run the decorated function as a task.
///
/// Args:
///     taskid: the id to spawn under (``T[i]``); None: the task has no id.
///     dependencies: tasks, ids, spaces and nested iterables of them that must have ended first. Ids may be spawned later.
///     placement: where it may run: an architecture, a device, a task (same device), an array (where it lives), or a list of alternatives.
///     input, output, inout: what it reads, writes without reading, or both: a PArray, or a sequence of PArrays, slices of them, and (array, k) for
///         device k of a placement on several. They are in the memory of its devices when it starts.
///     memory: bytes to reserve on the device while it is placed there.
///     vcus: fraction of the device to reserve, from 0 to 1.
///     ndevices: number of different devices.
///     tags: what the task environment that it runs in must have, of those that the runtime was given.
///     data: accepted for programs of earlier versions.
///     runahead: when tasks that depend on it go on: "nonblocking" (as soon as its devices keep the order; the default), "blocking" or "none" (when its
///         devices are done), "user" (at once: whoever uses the results synchronises).
///     priority: higher runs earlier (default 0).
///     name: the task's name in messages and traces; default: the function's.
///     retries: how often to run it again after an exception; only for tasks that change no array, except outputs written as a whole.
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
    let argument = |name, access, value| Argument {
        name,
        access,
        value,
    };
    let operands = operands::collect(
        py,
        &[
            argument("input", Access::Input, input),
            argument("output", Access::Output, output),
            argument("inout", Access::InOut, inout),
        ],
    )?;
    check_ignored(tags, data)?;
    let runahead = runahead.map(parse_runahead).transpose()?;
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
    if let Some(operands) = &operands {
        check_slots(py, operands, &placement)?;
        if retries > 0 {
            check_repeatable(operands)?;
        }
    }
    Ok(Spawner {
        taskid,
        dependencies,
        placement,
        priority,
        name,
        retries,
        operands,
        runahead,
        tags: tags.map(|tags| tags.clone().unbind()),
    })
}

#[pymethods]
impl Spawner {
    fn __call__(&self, body: &Bound<'_, PyAny>) -> PyResult<Py<Task>> {
        let py = body.py();
        let rt = runtime::current(py)?;
        let in_environment = self.in_environment(py, &rt)?;
        let placed = in_environment.as_ref().unwrap_or(&self.placement);
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
            return self.launch(py, &rt, placed, captured, edges, None, None);
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
        let launched = self.launch(py, &rt, placed, captured, edges, declared, Some(place));
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
    #[allow(
        clippy::too_many_arguments,
        reason = "each is another part of the task"
    )]
    fn launch(
        &self,
        py: Python<'_>,
        rt: &Arc<Rt>,
        placed: &Placed,
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
            uses: self.uses(placed),
        };
        let task = Task::pending(
            py,
            Task::new(Arc::clone(rt), core, place, placed.object.clone_ref(py)),
        )?;
        let placing = self.placing(placed);
        let attrs = match &placing {
            None => Attrs {
                priority: self.priority,
                worker: placed.worker,
                claim: placed.claim,
                placed: false,
            },
            Some(_) => Attrs {
                priority: self.priority,
                worker: None,
                claim: Claim::default(),
                placed: true,
            },
        };
        let request = parla_sched::Task {
            declared,
            dependencies: &edges.ids,
            attrs,
            placing,
        };
        let body = PyBody(task.clone_ref(py));
        let make_body = |id| {
            body.0.get().set_id(id);
            body
        };
        let spawned = if request.attrs.placed {
            // Deciding where it goes may begin copies, and devices take their time.
            runtime::detached(py, || runtime::spawn_in(rt, request, make_body))
        } else {
            runtime::spawn_in(rt, request, make_body)
        };
        match spawned {
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
            Err(SpawnError::Placing(error)) => Err(errors::placing(py, &error)),
            Err(error) => Err(errors::spawn_error(py, format!("spawn: {error}"))),
        }
    }

    /// The placement inside the environments of a runtime that has some; None: the placement as it is.
    fn in_environment(&self, py: Python<'_>, rt: &Arc<Rt>) -> PyResult<Option<Placed>> {
        let environments = rt.executor().environments.as_ref();
        if environments.is_none() && self.tags.is_none() {
            return Ok(None);
        }
        let chosen = python::choose_environment(py)?.call1((
            environments,
            &self.placement.object,
            &self.tags,
        ))?;
        if chosen.is_none() {
            return Ok(None);
        }
        Placed::of(&chosen).map(Some)
    }

    /// What the task keeps at hand while it runs; nothing for one that is neither placed nor uses arrays.
    fn uses(&self, placed: &Placed) -> Option<Box<Uses>> {
        let operands = match (&self.operands, &placed.choices) {
            (Some(operands), _) => Arc::clone(operands),
            (None, Choices::Devices(_)) => Arc::default(),
            (None, _) => return None,
        };
        Some(Box::new(Uses::new(
            operands,
            self.runahead.unwrap_or_default(),
        )))
    }

    /// What a policy needs to place the task; `None`: there is nothing to choose and nothing to move.
    fn placing(&self, placed: &Placed) -> Option<Arc<Placing>> {
        let choices: &Arc<[Choice]> = match (&self.operands, &placed.choices) {
            (_, Choices::HostOnly) | (None, Choices::Cpu(_)) => return None,
            (_, Choices::Cpu(choices) | Choices::Devices(choices)) => choices,
        };
        Some(Arc::new(Placing {
            choices: choices.to_vec(),
            operands: self.operands.clone().unwrap_or_default(),
            runahead: self.runahead.unwrap_or_default(),
        }))
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

/// Arguments of earlier versions that have no effect on CPU tasks: their types are still checked.
fn check_ignored(tags: Option<&Bound<'_, PyAny>>, data: Option<&Bound<'_, PyAny>>) -> PyResult<()> {
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
    Ok(())
}

/// When the dependents of the task go on: a name, 0.3's number, or an object with a name.
fn parse_runahead(runahead: &Bound<'_, PyAny>) -> PyResult<Runahead> {
    let wrong = || -> PyResult<PyErr> {
        Ok(PyTypeError::new_err(format!(
            "runahead: expected \"blocking\", \"nonblocking\", \"user\" or \"none\", not {}",
            runahead.get_type().name()?
        )))
    };
    let name = if let Ok(name) = runahead.cast::<PyString>() {
        name.to_string()
    } else if runahead.hasattr("name")? {
        runahead
            .getattr("name")?
            .extract()
            .map_err(|_| wrong().unwrap_or_else(|error| error))?
    } else if runahead.is_instance_of::<PyInt>() {
        runahead.to_string()
    } else {
        return Err(wrong()?);
    };
    let plain: String = name
        .chars()
        .filter(|c| !matches!(c, '_' | '-' | ' '))
        .flat_map(char::to_lowercase)
        .collect();
    match plain.as_str() {
        "none" | "0" | "blocking" | "1" => Ok(Runahead::Blocking),
        "nonblocking" | "2" => Ok(Runahead::NonBlocking),
        "user" | "3" => Ok(Runahead::User),
        _ => Err(PyValueError::new_err(format!(
            "runahead: expected \"blocking\", \"nonblocking\", \"user\" or \"none\", not {name:?}"
        ))),
    }
}

/// `(array, k)` needs a device k in every option.
fn check_slots(py: Python<'_>, operands: &[Operand], placement: &Placed) -> PyResult<()> {
    let Some(last) = operands.iter().max_by_key(|operand| operand.slot) else {
        return Ok(());
    };
    if last.slot == 0 {
        return Ok(());
    }
    for option in placement.object.bind(py).getattr("options")?.try_iter()? {
        let n = option?.len()?;
        if last.slot >= n {
            return Err(errors::spawn_error(
                py,
                format!(
                    "({}, {}): the task has no device {}: a placement has {n} device(s), counted from 0",
                    last.array.name(),
                    last.slot,
                    last.slot
                ),
            ));
        }
    }
    Ok(())
}

/// A body may be run again only if that does not count twice: not on data that it may have changed.
fn check_repeatable(operands: &[Operand]) -> PyResult<()> {
    let changes = |operand: &&Operand| match operand.access {
        Access::Input => false,
        Access::Output => !operand.exact,
        Access::InOut => true,
    };
    match operands.iter().find(changes) {
        Some(operand) => Err(PyValueError::new_err(format!(
            "retries: the task changes {}{}, so it cannot be run again from where it began; \
             only tasks with inputs, and outputs that are written as a whole, can",
            operand.array.name(),
            operand.region
        ))),
        None => Ok(()),
    }
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
