//! `random`: any of the first ready tasks, on any of its choices that fits; what other policies are to be better than.
//!
//! Cost of a decision: as that of [`locality`](super::locality), without the questions about data.

use parla_core::{DeviceId, TaskId};

use super::ready::ReadyTasks;
use super::seeded::Seeded;
use super::{Assignment, Made, SchedCx, SchedulingPolicy, Settings};

/// Any task on any choice.
#[derive(Debug)]
pub(super) struct Random {
    name: String,
    window: usize,
    ready: ReadyTasks,
    numbers: Seeded,
}

pub(super) fn make(settings: &mut Settings, seed: u64) -> Made {
    let window = settings.number("window", 1..=1 << 20, 32)?;
    Ok(Box::new(Random {
        name: format!("random:window={window}"),
        window,
        ready: ReadyTasks::default(),
        numbers: Seeded::new(seed),
    }))
}

impl SchedulingPolicy for Random {
    fn name(&self) -> &str {
        &self.name
    }

    fn push(&mut self, cx: &SchedCx<'_>, task: TaskId) {
        self.ready.push(cx, task);
    }

    fn pop(&mut self, cx: &SchedCx<'_>, device: DeviceId) -> Option<Assignment> {
        let fitting = |task| super::fitting_on(cx, task, device);
        let in_turn = self
            .ready
            .in_turn(device, |task| fitting(task).next().is_some());
        let tasks: Vec<_> = in_turn.take(self.window).collect();
        // Priorities count here too: only tasks of the highest that there is.
        let first = tasks.first().map(|&task| cx.priority(task))?;
        let candidates: Vec<_> = (tasks.into_iter())
            .filter(|&task| cx.priority(task) == first)
            .flat_map(|task| fitting(task).map(move |choice| Assignment { task, choice }))
            .collect();
        let assignment = *candidates.get(self.numbers.below(candidates.len()))?;
        self.ready.remove(assignment.task);
        Some(assignment)
    }

    fn on_removed(&mut self, _cx: &SchedCx<'_>, task: TaskId) {
        self.ready.remove(task);
    }
}
