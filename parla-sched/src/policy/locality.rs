//! `locality`: each task where it can start soonest, its data being where it is.
//!
//! The score of a choice is the estimated time until the task could begin there, in nanoseconds, so that data and load weigh against
//! each other in one unit and no factor has to be tuned:
//!
//! ```text
//! score = transfer_ns + max over its devices (load / n_workers * mean body time of the device's architecture)
//! ```
//!
//! `transfer_ns`: the missing bytes over idle links. The mean is a running one over the bodies that have ended (each new one counts an
//! eighth); as long as none has ended on an architecture, that of all architectures, and in the beginning that of the transfers looked at,
//! so that one task of load weighs as much as a typical transfer.
//!
//! A device that asks gets, of the first `window` ready tasks in order of service (priority, then first come) that fit there, one of the highest
//! priority with the least score; but only a task whose best choice includes the device: another waits for its own best device, which
//! has a free place and is asked as well. Equal scores: the user's order of choices, then the order of service.
//!
//! A task that is not ready is foreseen where its score is least, with the tasks foreseen before it as load.
//!
//! Cost of a decision: one look at each different request among the ready tasks of the device (`c`), and `window` tasks times their choices (`k`)
//! questions about data, `O(c + w (log c + k))`, whatever the number of ready tasks. It ends at the first task that has nothing to be moved,
//! which no other can beat.

use parla_core::{DeviceId, TaskId};

use super::ready::ReadyTasks;
use super::{Assignment, Made, SchedCx, SchedulingPolicy, Settings};
use crate::Choice;

/// Each task where it can start soonest.
#[derive(Debug)]
pub(super) struct Locality {
    name: String,
    window: usize,
    ready: ReadyTasks,
    /// Running means of body times, in nanoseconds, by architecture.
    bodies: Vec<(String, u64)>,
    /// Running mean over all bodies.
    body: Option<u64>,
    /// Running mean of the transfers looked at before the first body has ended.
    transfer: Option<u64>,
}

pub(super) fn make(settings: &mut Settings, _seed: u64) -> Made {
    let window = settings.number("window", 1..=1 << 20, 32)?;
    Ok(Box::new(Locality {
        name: format!("locality:window={window}"),
        window,
        ready: ReadyTasks::default(),
        bodies: Vec::new(),
        body: None,
        transfer: None,
    }))
}

/// What is known of a task on its best choice.
#[derive(Clone, Copy)]
struct Best {
    choice: usize,
    score: u64,
    transfer_ns: u64,
}

impl Locality {
    /// Estimated nanoseconds until all devices of a choice are free.
    fn wait_ns(&self, cx: &SchedCx<'_>, choice: &Choice) -> u64 {
        let waits = choice.devices.iter().map(|&device| {
            let model = cx.machine().device(device);
            let known = self.bodies.iter();
            let mean = known
                .filter(|(architecture, _)| *architecture == model.architecture)
                .map(|&(_, mean)| mean)
                .next()
                .or(self.body)
                .or(self.transfer)
                .unwrap_or(0)
                .max(1);
            let load = cx.load(device) as u64;
            load.saturating_mul(mean) / u64::from(model.n_workers.max(1))
        });
        waits.max().unwrap_or(0)
    }

    /// The choice with the least score of those that fit.
    fn best(&mut self, cx: &SchedCx<'_>, task: TaskId) -> Option<Best> {
        let choices = &cx.task(task)?.choices;
        let mut best: Option<Best> = None;
        for (number, choice) in choices.iter().enumerate() {
            if !cx.fits(task, number) {
                continue;
            }
            let transfer_ns = cx.transfer_ns(task, number);
            if self.body.is_none() && transfer_ns > 0 {
                advance(&mut self.transfer, transfer_ns);
            }
            let score = self.wait_ns(cx, choice).saturating_add(transfer_ns);
            if best.is_none_or(|best| score < best.score) {
                best = Some(Best {
                    choice: number,
                    score,
                    transfer_ns,
                });
            }
        }
        best
    }
}

impl SchedulingPolicy for Locality {
    fn name(&self) -> &str {
        &self.name
    }

    fn push(&mut self, cx: &SchedCx<'_>, task: TaskId) {
        self.ready.push(cx, task);
    }

    fn pop(&mut self, cx: &SchedCx<'_>, device: DeviceId) -> Option<Assignment> {
        let fits_here = |task| super::fitting_on(cx, task, device).next().is_some();
        let in_turn = self.ready.in_turn(device, fits_here);
        let tasks: Vec<_> = in_turn.take(self.window).collect();
        let mut chosen: Option<(u64, i32, Assignment)> = None;
        for task in tasks {
            let priority = cx.priority(task);
            if chosen.is_some_and(|(_, highest, _)| priority < highest) {
                break;
            }
            let Some(best) = self.best(cx, task) else {
                continue;
            };
            let placing = cx.task(task)?;
            if !placing.choices[best.choice].devices.contains(&device) {
                continue;
            }
            if chosen.is_none_or(|(score, ..)| best.score < score) {
                let choice = best.choice;
                chosen = Some((best.score, priority, Assignment { task, choice }));
            }
            if best.transfer_ns == 0 && placing.choices[best.choice].devices.len() == 1 {
                break;
            }
        }
        let (.., assignment) = chosen?;
        self.ready.remove(assignment.task);
        Some(assignment)
    }

    fn foresee(&self, cx: &SchedCx<'_>, task: TaskId) -> Option<usize> {
        let choices = cx.task(task)?.choices.iter().enumerate();
        let score = |(number, choice): (usize, &Choice)| {
            let transfer_ns = cx.transfer_ns(task, number);
            (self.wait_ns(cx, choice).saturating_add(transfer_ns), number)
        };
        let fitting = choices.filter(|(number, _)| cx.fits(task, *number));
        fitting.map(score).min().map(|(_, number)| number)
    }

    fn on_done(&mut self, cx: &SchedCx<'_>, _task: TaskId, devices: &[DeviceId], exec_ns: u64) {
        let Some(&device) = devices.first() else {
            return;
        };
        advance(&mut self.body, exec_ns);
        let architecture = &cx.machine().device(device).architecture;
        let known = self
            .bodies
            .iter_mut()
            .find(|(name, _)| name == architecture);
        if let Some((_, mean)) = known {
            *mean = mixed(*mean, exec_ns);
        } else {
            self.bodies.push((architecture.clone(), exec_ns));
        }
    }

    fn on_removed(&mut self, _cx: &SchedCx<'_>, task: TaskId) {
        self.ready.remove(task);
    }
}

fn advance(mean: &mut Option<u64>, new: u64) {
    *mean = Some(mean.map_or(new, |mean| mixed(mean, new)));
}

/// The running mean with one more value.
fn mixed(mean: u64, new: u64) -> u64 {
    mean - mean / 8 + new / 8
}
