//! Tasks that are Rust closures.
//!
//! ```
//! use parla_sched::{Options, Task, native};
//!
//! let rt = native::start(Options { workers: 2, ..Options::default() })?;
//! let first = rt.spawn(Task::default(), |_| native::body(|_| Ok(())))?;
//! rt.spawn(Task { dependencies: &[first], ..Task::default() }, |_| native::body(|_| Ok(())))?;
//! rt.wait_idle(None, None);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Failures, and what did not run because of them, are kept until somebody asks:
//!
//! ```
//! # use parla_sched::{Options, Task, native};
//! # let rt = native::start(Options { workers: 2, ..Options::default() })?;
//! let failed = rt.spawn(Task::default(), |_| native::body(|_| Err("no paper".into())))?;
//! let dependent = rt.spawn(Task { dependencies: &[failed], ..Task::default() }, |_| native::body(|_| Ok(())))?;
//! rt.wait_idle(None, None);
//! assert_eq!(rt.executor().take_failures()[&failed].to_string(), "no paper");
//! assert_eq!(rt.executor().take_cancelled(), [(dependent, failed)]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use parla_core::lock::Mutex;
use parla_core::{Cancelled, TaskId};

use crate::{Cx, Executor, Options, PlacingError, Runtime, RuntimeError, Step};

/// What a closure sees of the runtime that runs it.
pub type Scope<'a> = Cx<'a, Native>;

/// Why a task failed: whatever its closure said, or what it panicked with.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// A task's closure.
pub type Body = Box<dyn FnOnce(&Scope<'_>) -> Result<(), Failure> + Send>;

/// Runs closures; a panic is a failure. Keeps the failures until somebody takes them.
#[derive(Default)]
pub struct Native {
    failures: Mutex<BTreeMap<TaskId, Failure>>,
    cancelled: Mutex<Vec<(TaskId, TaskId)>>,
}

/// Starts a runtime for closures.
///
/// # Errors
/// As [`Runtime::new`].
pub fn start(options: Options) -> Result<Runtime<Native>, RuntimeError> {
    Runtime::new(Native::default(), options)
}

/// Boxes a closure as a task's body.
pub fn body(f: impl FnOnce(&Scope<'_>) -> Result<(), Failure> + Send + 'static) -> Body {
    Box::new(f)
}

impl Native {
    /// The failures since the last call, by task.
    pub fn take_failures(&self) -> BTreeMap<TaskId, Failure> {
        std::mem::take(&mut self.failures.lock())
    }

    /// The tasks cancelled since the last call, each with the task that was the cause.
    pub fn take_cancelled(&self) -> Vec<(TaskId, TaskId)> {
        std::mem::take(&mut self.cancelled.lock())
    }
}

impl Executor for Native {
    type Body = Body;
    type Thread = ();

    fn enter(&self) {}

    fn run(&self, (): &mut (), cx: &Scope<'_>, task: TaskId, body: Body) -> Step<Body> {
        let failure = match catch_unwind(AssertUnwindSafe(|| body(cx))) {
            Ok(Ok(())) => return Step::Done,
            Ok(Err(failure)) => failure,
            Err(panic) => format!("panicked: {}", panic_text(&*panic)).into(),
        };
        self.failures.lock().insert(task, failure);
        Step::Failed
    }

    fn refused(&self, (): &mut (), _: &Scope<'_>, task: TaskId, _: Body, error: &PlacingError) {
        self.failures.lock().insert(task, Box::new(error.clone()));
    }

    fn cancelled(&self, tasks: Vec<Cancelled<Body>>) {
        self.cancelled
            .lock()
            .extend(tasks.iter().map(|task| (task.id, task.cause)));
        // A captured value whose drop panics must not take a worker with it.
        for task in tasks {
            let _ = catch_unwind(AssertUnwindSafe(|| drop(task.body)));
        }
    }
}

/// What a panic was called with, if it is text.
pub fn panic_text(payload: &(dyn std::any::Any + Send)) -> &str {
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("(no message)")
}
