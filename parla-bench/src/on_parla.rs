//! The patterns on Parla.

use parla_core::TaskId;
use parla_sched::native::{self, Body, Native, Scope};
use parla_sched::{Options, Runtime, RuntimeError, Task, Waited};

use crate::{Kernel, Pattern, System, WIDTH};

/// Who spawns the tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spawner {
    /// A task: the workers are all there is.
    Task,
    /// The thread that waits for them, besides the workers.
    Outside,
}

/// Parla's native runtime.
pub struct Parla {
    runtime: Runtime<Native>,
    spawner: Spawner,
}

impl Parla {
    /// Starts the workers.
    ///
    /// # Errors
    /// As [`native::start`].
    pub fn start(workers: usize, spawner: Spawner) -> Result<Self, RuntimeError> {
        Ok(Self {
            runtime: native::start(Options {
                workers,
                ..Options::default()
            })?,
            spawner,
        })
    }

    /// The runtime itself.
    #[must_use]
    pub fn runtime(&self) -> &Runtime<Native> {
        &self.runtime
    }
}

fn body(kernel: Kernel) -> Body {
    if kernel == Kernel::default() {
        return native::body(|_| Ok(()));
    }
    native::body(move |_| {
        kernel.run();
        Ok(())
    })
}

/// Spawns a pattern's tasks in order through `spawn`.
fn spawn_all(pattern: Pattern, n: usize, mut spawn: impl FnMut(&[TaskId]) -> TaskId) {
    match pattern {
        Pattern::Independent => (0..n).for_each(|_| drop_id(spawn(&[]))),
        Pattern::Chain => {
            let mut last = spawn(&[]);
            (1..n).for_each(|_| last = spawn(&[last]));
        }
        Pattern::Stencil => {
            let mut row: Vec<_> = (0..WIDTH).map(|_| spawn(&[])).collect();
            for _ in 1..n / WIDTH {
                row = (0..WIDTH)
                    .map(|i| spawn(&[row[(i + WIDTH - 1) % WIDTH], row[i], row[(i + 1) % WIDTH]]))
                    .collect();
            }
        }
        Pattern::Tree => unreachable!("a tree spawns itself"),
    }
}

/// Nobody will name this task.
fn drop_id(_: TaskId) {}

/// A subtree of `n` tasks.
fn tree(cx: &Scope<'_>, n: usize, kernel: Kernel) {
    kernel.run();
    let rest = n - 1;
    for half in [rest / 2, rest - rest / 2] {
        if half > 0 {
            let spawned = cx.spawn(Task::default(), |_| {
                native::body(move |cx| {
                    tree(cx, half, kernel);
                    Ok(())
                })
            });
            spawned.expect("the runtime is open");
        }
    }
}

impl System for Parla {
    fn name(&self) -> &str {
        match self.spawner {
            Spawner::Task => "parla",
            Spawner::Outside => "parla, outside",
        }
    }

    fn run(&self, pattern: Pattern, n: usize, kernel: Kernel) {
        let rt = &self.runtime;
        if pattern == Pattern::Tree || self.spawner == Spawner::Task {
            let root = rt.spawn(Task::default(), |_| {
                native::body(move |cx| {
                    if pattern == Pattern::Tree {
                        tree(cx, n, kernel);
                    } else {
                        let open = "the runtime is open";
                        spawn_all(pattern, n, |on| {
                            cx.spawn(after(on), |_| body(kernel)).expect(open)
                        });
                    }
                    Ok(())
                })
            });
            root.expect("the runtime is open");
        } else {
            spawn_all(pattern, n, |on| {
                rt.spawn(after(on), |_| body(kernel))
                    .expect("the runtime is open")
            });
        }
        let waited = rt.wait_idle(None, None);
        assert!(matches!(waited, Waited::Ended), "{waited:?}");
    }
}

fn after(dependencies: &[TaskId]) -> Task<'_> {
    Task {
        dependencies,
        ..Task::default()
    }
}
