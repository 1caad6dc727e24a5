//! `eager`: first come, first served, on the first choice that fits.
//!
//! A task goes to the first of its choices that fits when its turn comes; choices that differ only in which devices of the same
//! architectures they name are equal, and of those it takes the one whose device asks first (the one with the least load).
//! Knows nothing of data, and foresees nothing: where a task goes is a matter of which device is free first when it is ready. Data sent ahead would
//! not draw the task after it, so most of it would go to the wrong device. Inputs of tasks with one choice travel early all the same.
//! Cost of a decision: one look at every different request among the ready tasks of the device.

use parla_core::{DeviceId, TaskId};

use super::ready::ReadyTasks;
use super::{Assignment, Made, SchedCx, SchedulingPolicy, Settings};
use crate::Choice;

/// First come, first served.
#[derive(Debug, Default)]
pub(super) struct Eager {
    ready: ReadyTasks,
}

pub(super) fn make(_settings: &mut Settings, _seed: u64) -> Made {
    Ok(Box::new(Eager::default()))
}

impl SchedulingPolicy for Eager {
    fn name(&self) -> &str {
        "eager"
    }

    fn push(&mut self, cx: &SchedCx<'_>, task: TaskId) {
        self.ready.push(cx, task);
    }

    fn pop(&mut self, cx: &SchedCx<'_>, device: DeviceId) -> Option<Assignment> {
        let wanted = |task| choice_on(cx, task, device).is_some();
        let task = self.ready.in_turn(device, wanted).next()?;
        let choice = choice_on(cx, task, device)?;
        self.ready.remove(task);
        Some(Assignment { task, choice })
    }

    fn on_removed(&mut self, _cx: &SchedCx<'_>, task: TaskId) {
        self.ready.remove(task);
    }
}

/// The task's first choice that fits, or one equal to it, if that includes the device.
fn choice_on(cx: &SchedCx<'_>, task: TaskId, device: DeviceId) -> Option<usize> {
    let choices = &cx.task(task)?.choices;
    let mut fitting = (0..choices.len()).filter(|&choice| cx.fits(task, choice));
    let first = fitting.next()?;
    let mut candidates = std::iter::once(first).chain(fitting);
    candidates.find(|&choice| {
        choices[choice].devices.contains(&device)
            && are_equal(cx, &choices[first], &choices[choice])
    })
}

/// Whether two choices are the same but for which devices of an architecture they name.
fn are_equal(cx: &SchedCx<'_>, a: &Choice, b: &Choice) -> bool {
    let architecture = |device: &DeviceId| cx.machine().device(*device).architecture.as_str();
    let same_architectures = || {
        let of_a = a.devices.iter().map(architecture);
        of_a.eq(b.devices.iter().map(architecture))
    };
    a == b || (a.variant == b.variant && a.claims == b.claims && same_architectures())
}
