//! Scheduling policies: which ready task goes to which device.
//!
//! A policy is one file: a type that implements [`SchedulingPolicy`] and a line in [`POLICIES`]. It reads no clock, takes no lock, starts
//! nothing; the same object runs in the runtime and over simulated time. Same events, same decisions.

use std::fmt;

use parla_core::{DeviceId, MachineModel, TaskId};
use smallvec::SmallVec;

use crate::Placing;

pub mod conformance;
mod eager;
mod locality;
mod random;
mod ready;
pub(crate) mod seeded;
mod spec;

pub use spec::{PolicyEntry, PolicyError, help, make};

use spec::{Made, Settings};

/// The policies that can be chosen by name.
pub const POLICIES: &[PolicyEntry] = &[
    PolicyEntry {
        name: "eager",
        about: "first come, first served by priority, on the first choice that fits; knows nothing of data",
        make: eager::make,
    },
    PolicyEntry {
        name: "locality",
        about: "each task where it can end soonest: time to move its data, load, and how long such bodies take there; window=32: ready tasks looked at per decision",
        make: locality::make,
    },
    PolicyEntry {
        name: "random",
        about: "any task on any choice that fits, by the seed: what others are to beat; window=32: ready tasks to choose from",
        make: random::make,
    },
];

/// The choices of a task that include a device and fit.
fn fitting_on<'a>(
    cx: &'a SchedCx<'_>,
    task: TaskId,
    device: DeviceId,
) -> impl Iterator<Item = usize> + use<'a> {
    let choices = cx.task(task).map(|placing| placing.choices.iter());
    let choices = choices.into_iter().flatten().enumerate();
    choices
        .filter(move |(number, choice)| choice.devices.contains(&device) && cx.fits(task, *number))
        .map(|(number, _)| number)
}

/// What a policy may know. Read-only, and cheap to ask.
pub trait View {
    /// Nanoseconds since the runtime started.
    fn now(&self) -> u64;

    /// The machine.
    fn machine(&self) -> &MachineModel;

    /// What a task asks for. `None` once it has been placed or removed.
    fn task(&self, task: TaskId) -> Option<&Placing>;

    /// A task's priority; higher goes first.
    fn priority(&self, task: TaskId) -> i32;

    /// Tasks placed on a device and not ended.
    fn load(&self, device: DeviceId) -> usize;

    /// Whether a choice of a task could start to be staged now: all its devices have a free place and the memory it claims.
    fn fits(&self, task: TaskId, choice: usize) -> bool;

    /// Whether a choice of a task that does not fit now may fit later without anybody's help: all its devices are at work for tasks that do not wait for
    /// others. Only then a policy may leave a task that fits elsewhere to wait for this choice: it will be asked again.
    fn fits_later(&self, task: TaskId, choice: usize) -> bool;

    /// Whether a task uses any data.
    fn uses_data(&self, task: TaskId) -> bool;

    /// Bytes to be copied for a choice of a task.
    fn missing_bytes(&self, task: TaskId, choice: usize) -> u64;

    /// Nanoseconds that those copies take on idle links.
    fn transfer_ns(&self, task: TaskId, choice: usize) -> u64;

    /// Nanoseconds that the body of a choice of a task takes: the mean of those of its [kind](Placing::kind), variant, class of devices and size
    /// that have ended well. `None`: there are none yet.
    fn exec_ns(&self, task: TaskId, choice: usize) -> Option<u64>;

    /// A random number below `n` (0 where there is none); the sequence is the same for the same seed of the runtime.
    fn random(&self, n: usize) -> usize;

    /// Says why a task is about to be assigned: the parts of its score. Kept if it is assigned by this [`pop`](SchedulingPolicy::pop); people
    /// find it in the trace and in `Parla.why`.
    fn note(&self, task: TaskId, note: Note);
}

/// Why a task was placed where it is: the parts of the score that decided, each with its name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Note {
    /// Name and nanoseconds.
    pub parts: SmallVec<[(&'static str, u64); 3]>,
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, (name, ns)) in self.parts.iter().enumerate() {
            let plus = if number > 0 { " + " } else { "" };
            write!(f, "{plus}{name} {}", Time(*ns))?;
        }
        Ok(())
    }
}

/// Nanoseconds for people.
struct Time(u64);

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ns = self.0 as f64;
        match self.0 {
            0..=9_999 => write!(f, "{} ns", self.0),
            10_000..=9_999_999 => write!(f, "{:.1} us", ns * 1e-3),
            _ => write!(f, "{:.1} ms", ns * 1e-6),
        }
    }
}

/// What a policy sees of the world.
pub type SchedCx<'a> = dyn View + 'a;

/// A decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Assignment {
    /// The task.
    pub task: TaskId,
    /// Which of its [choices](Placing::choices).
    pub choice: usize,
}

/// Decides where ready tasks run.
pub trait SchedulingPolicy: Send {
    /// Its name, with its options: as [`make`] takes it.
    fn name(&self) -> &str;

    /// A task became ready. It is to be returned by one [`pop`](Self::pop) later.
    fn push(&mut self, cx: &SchedCx<'_>, task: TaskId);

    /// `device` can take another task: one of those pushed, with a choice that includes the device and [fits](View::fits); or `None`.
    /// If every device is offered and nothing is taken though tasks are ready and nothing runs, the runtime reports a stall of this policy.
    fn pop(&mut self, cx: &SchedCx<'_>, device: DeviceId) -> Option<Assignment>;

    /// Which of its choices a task would get that is not ready yet, for its inputs to travel early; `None`: no idea. Decides nothing.
    ///
    /// Here [`load`](View::load) includes tasks that are likely to come before it, and [`fits`](View::fits) is true of what would fit on idle devices.
    fn foresee(&self, _cx: &SchedCx<'_>, _task: TaskId) -> Option<usize> {
        None
    }

    /// A task was spawned; it may not be ready yet.
    fn on_spawn(&mut self, _cx: &SchedCx<'_>, _task: TaskId) {}

    /// A task that was placed has ended; `exec_ns`: how long its body ran.
    fn on_done(&mut self, _cx: &SchedCx<'_>, _task: TaskId, _devices: &[DeviceId], _exec_ns: u64) {}

    /// A task will never run: it was cancelled after it was spawned, pushed or popped. It must not be popped any more.
    fn on_removed(&mut self, _cx: &SchedCx<'_>, _task: TaskId) {}
}

#[cfg(test)]
mod tests;
