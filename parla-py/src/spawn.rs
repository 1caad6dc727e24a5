//! `spawn`: from a decorated function to a task in the graph.

mod arguments;
mod call;

use std::sync::Arc;

use parla_core::{Access, Attrs, Claim, TaskId};
use parla_data::Operand;
use parla_sched::{Choice, Placing, Runahead, SpawnError};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList, PyMapping, PyString, PyTuple};
use smallvec::SmallVec;

use crate::assignment::Uses;
use crate::body::Body;
use crate::executor::PyBody;
use crate::operands::{self, Argument};
use crate::placed::{Choices, Placed};
use crate::runtime::{self, Rt};
use crate::space::{Edge, Resolved, Space, TaskID, edge_of, not_a_task};
use crate::task::{Core, Dependencies, Outcome, Place, Task};
use crate::{errors, gil, object, python};
pub(crate) use arguments::parse_runahead;
use arguments::{check_called, check_ignored, check_repeatable, check_slots, integer, not_an_id};
pub(crate) use call::{Spawner, function};

/// How deep iterables of dependencies may be nested.
const MAX_NESTING: u32 = 100;

/// What `spawn` was called with.
struct Request {
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
///     retries: how often to run it again after an exception; only for tasks that change no array, except outputs written as a whole. Tasks that
///         depend on it go on when its devices are done ("blocking").
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
pub(crate) fn spawn<'py>(
    py: Python<'py>,
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
) -> PyResult<Bound<'py, PyAny>> {
    let taskid = match (taskid, task) {
        (Some(_), Some(_)) => {
            return Err(PyTypeError::new_err(
                "spawn got both 'taskid' and 'task', two names for the same argument",
            ));
        }
        (taskid, task) => taskid.or(task),
    };
    check_called(py, taskid.as_ref())?;
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
                    python::type_name(name)
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
    let request = Request {
        priority,
        name,
        retries,
        operands,
        runahead,
        tags: tags.map(|tags| tags.clone().unbind()),
        ..Request::plain(placement, taskid, dependencies)
    };
    Spawner::object(py, request)
}

impl Request {
    fn plain(
        placement: Placed,
        taskid: Option<Py<PyAny>>,
        dependencies: Option<Py<PyAny>>,
    ) -> Self {
        Self {
            taskid,
            dependencies,
            placement,
            priority: 0,
            name: None,
            retries: 0,
            operands: None,
            runahead: None,
            tags: None,
        }
    }

    /// Gives up what it holds (see [`crate::object::Value::release`]).
    fn release(self, py: Python<'_>) {
        let objects = [
            self.taskid,
            self.dependencies,
            self.tags,
            self.name.map(Py::into_any),
            Some(self.placement.object),
        ];
        objects
            .into_iter()
            .flatten()
            .for_each(|object| object.drop_ref(py));
        if self.operands.is_some() {
            // SAFETY: attached, as `py` says; arrays may be freed.
            unsafe { Python::attach_unchecked(|_| drop(self.operands)) };
        }
    }

    /// Spawns the task.
    fn spawn(&self, body: &Bound<'_, PyAny>) -> PyResult<Py<Task>> {
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
        let Some(taskid) = object::of::<TaskID>(taskid.bind(py)) else {
            return Err(not_an_id(taskid.bind(py)));
        };
        let space = taskid.space.bind(py);
        let place = Place {
            space_name: space.get().name_arc(),
            key: taskid.key.clone(),
            space: Space::weak(space)?.unbind(),
        };
        let begun = space.get().begin_spawn(py, &taskid.key, &rt)?;
        let declared = begun.declared;
        let launched = self.launch(py, &rt, placed, captured, edges, declared, Some(place));
        let task = launched.as_ref().ok().map(|task| task.clone_ref(py));
        space.get().end_spawn(&begun, &taskid.key, &rt, task);
        gil::hand_over_if_wanted(py);
        launched
    }

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
        mut edges: Edges,
        declared: Option<TaskId>,
        place: Option<Place>,
    ) -> PyResult<Py<Task>> {
        let runahead = match self.runahead.unwrap_or(rt.executor().runahead) {
            // What others have gone on with cannot be run again.
            Runahead::NonBlocking if self.retries > 0 => Runahead::Blocking,
            runahead => runahead,
        };
        if edges.objects.spilled() {
            edges.objects.shrink_to_fit();
        }
        let core = Core {
            work: Some(body.work),
            is_coroutine: body.is_coroutine,
            outcome: Outcome::Pending,
            dependencies: edges.objects,
            retries: self.retries,
            again: None,
            context: None,
            name: self
                .name
                .as_ref()
                .map_or(body.name, |name| name.clone_ref(py)),
            origin: python::Origin::here(py),
            finish_scope: None,
            uses: self.uses(placed, runahead),
        };
        let task = Task::pending(
            py,
            Task::new(Arc::clone(rt), core, place, placed.object.clone_ref(py)),
        )?;
        let placing = self.placing(placed, runahead, body.kind);
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
    fn uses(&self, placed: &Placed, runahead: Runahead) -> Option<Box<Uses>> {
        let operands = match (&self.operands, &placed.choices) {
            (Some(operands), _) => Arc::clone(operands),
            (None, Choices::Devices(_)) => Arc::default(),
            (None, _) => return None,
        };
        Some(Box::new(Uses::new(operands, runahead)))
    }

    /// What a policy needs to place the task; `None`: there is nothing to choose and nothing to move.
    fn placing(
        &self,
        placed: &Placed,
        runahead: Runahead,
        kind: Option<Arc<str>>,
    ) -> Option<Arc<Placing>> {
        let choices: &Arc<[Choice]> = match (&self.operands, &placed.choices) {
            (_, Choices::HostOnly) | (None, Choices::Cpu(_)) => return None,
            (_, Choices::Cpu(choices) | Choices::Devices(choices)) => choices,
        };
        Some(Arc::new(Placing {
            choices: choices.to_vec(),
            operands: self.operands.clone().unwrap_or_default(),
            runahead,
            kind,
        }))
    }
}

/// Dependencies, flattened; each counts once.
#[derive(Default)]
struct Edges {
    ids: SmallVec<[TaskId; 4]>,
    objects: Dependencies,
    /// For many: which are there already.
    seen: rustc_hash::FxHashSet<TaskId>,
}

impl Edges {
    fn add_all(&mut self, dependencies: &Bound<'_, PyAny>, rt: &Arc<Rt>) -> PyResult<()> {
        self.add(dependencies, rt, 0)
    }

    fn add(&mut self, object: &Bound<'_, PyAny>, rt: &Arc<Rt>, depth: u32) -> PyResult<()> {
        if let Ok(list) = object.cast_exact::<PyList>() {
            self.objects.reserve_exact(list.len());
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
        if let Some(edge) = edge_of(object, rt)? {
            self.push(&edge, object.py());
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

    fn push(&mut self, edge: &Edge<'_, '_>, py: Python<'_>) {
        const FEW: usize = 16;
        let &Resolved::Edge(id) = edge.resolved() else {
            return;
        };
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
            self.objects.push(edge.dependency(py));
        }
    }
}
