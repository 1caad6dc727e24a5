//! `locality`: each task where it can end soonest, its data being where it is.
//!
//! The score of a choice is the estimated time until the task would have ended there, in nanoseconds, so that data, load and the speed of devices
//! weigh against each other in one unit and no factor has to be tuned:
//!
//! ```text
//! score = max over its devices (expected time of the bodies placed there and not ended / n_workers) + transfer_ns + exec_ns
//! ```
//!
//! `transfer_ns`: the missing bytes over idle links. `exec_ns`: the mean over bodies of the same kind, variant, class of devices and size
//! ([`View::exec_ns`](super::View::exec_ns)). Where none of these has ended yet it counts as half of the least that is known for any of the
//! task's choices, so that what is unknown is tried, not avoided.
//!
//! The expected time of a body that has been placed is its `exec_ns` then, on a GPU its share of it if it claims a share of the device.
//! Where that was unknown, it is the running mean over the bodies that have ended on the architecture (each new one counts an eighth); as long as
//! none has ended there, that of all architectures, and in the beginning that of the transfers looked at, so that one task of load weighs
//! as much as a typical transfer.
//!
//! A choice whose devices have no place now counts too if its time is known and they are at work ([`View::fits_later`](super::View::fits_later)): a
//! task waits for the device where it would end first rather than run where it takes longer than that.
//!
//! A device that asks gets, of the first `window` ready tasks in order of service (priority, then first come) that fit there, one of the highest
//! priority that can *start* soonest (the score without `exec_ns`: short tasks have no precedence); but only a task whose best choice includes the
//! device: another waits for its own best device, which is asked as well, at once or when it has a place. Equal scores: the user's order of choices,
//! then the order of service.
//!
//! A task that is not ready is foreseen where all its data is, since the load of now will be another one then; if that is nowhere, where its score
//! is least, with the tasks foreseen before it as load.
//!
//! Cost of a decision: one look at each different request among the ready tasks of the device (`c`), and `window` tasks times their choices (`k`)
//! questions about data, `O(c + w (log c + k))`, whatever the number of ready tasks. It ends at the first task that has nothing to be moved,
//! which no other can beat. Of tasks without data that ask for the same and run the same kind of body only the first is looked at.

use parla_core::{Claim, DeviceId, TaskId, Vcus};
use rustc_hash::FxHashMap;
use smallvec::SmallVec;

use super::ready::ReadyTasks;
use super::{Assignment, Made, Note, SchedCx, SchedulingPolicy, Settings};
use crate::Choice;

/// The devices of a task and how much of their time it is expected to take.
type Shares = SmallVec<[(DeviceId, u64); 1]>;

/// Each task where it can end soonest.
#[derive(Debug)]
pub(super) struct Locality {
    name: String,
    window: usize,
    ready: ReadyTasks,
    loads: Loads,
}

/// What the devices have to do, and how long it takes.
#[derive(Debug, Default)]
struct Loads {
    /// By device, the expected times of the bodies placed there and not ended: those that are known, added up, ...
    known: Vec<u64>,
    /// ... and by task.
    expected: FxHashMap<TaskId, Shares>,
    /// By device, how many of the bodies placed there are in `known`.
    n_known: Vec<usize>,
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
        loads: Loads::default(),
    }))
}

/// What is known of a task on its best choice.
#[derive(Clone, Copy)]
struct Best {
    choice: usize,
    wait_ns: u64,
    transfer_ns: u64,
    /// `None`: unknown.
    exec_ns: Option<u64>,
    score: u64,
    fits: bool,
}

impl Best {
    /// When it can start.
    fn start_ns(&self) -> u64 {
        self.wait_ns.saturating_add(self.transfer_ns)
    }
}

impl Loads {
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
            let number = device.0 as usize;
            let n_known = self.n_known.get(number).copied().unwrap_or(0);
            let others = cx.load(device).saturating_sub(n_known) as u64;
            let known = self.known.get(number).copied().unwrap_or(0);
            let total = others.saturating_mul(mean).saturating_add(known);
            total / u64::from(model.n_workers.max(1))
        });
        waits.max().unwrap_or(0)
    }

    /// The choice with the least score of those that fit. `None`: there is none, or a device that has no place now is worth waiting for.
    fn best(&mut self, cx: &SchedCx<'_>, task: TaskId) -> Option<Best> {
        let choices = &cx.task(task)?.choices;
        let times = (0..choices.len()).map(|number| cx.exec_ns(task, number));
        let times: SmallVec<[Option<u64>; 4]> = times.collect();
        let least = times.iter().flatten().min().copied().unwrap_or(0);
        let mut best: Option<Best> = None;
        for (number, choice) in choices.iter().enumerate() {
            let fits = cx.fits(task, number);
            if !fits && (times[number].is_none() || !cx.fits_later(task, number)) {
                continue;
            }
            let transfer_ns = cx.transfer_ns(task, number);
            if self.body.is_none() && transfer_ns > 0 {
                advance(&mut self.transfer, transfer_ns);
            }
            let mut it = Best {
                choice: number,
                wait_ns: self.wait_ns(cx, choice),
                transfer_ns,
                exec_ns: times[number],
                score: 0,
                fits,
            };
            it.score = it
                .start_ns()
                .saturating_add(times[number].unwrap_or(least / 2));
            if best.is_none_or(|best| it.score < best.score) {
                best = Some(it);
            }
        }
        best.filter(|best| best.fits)
    }

    /// A task has been given to devices.
    fn given(&mut self, cx: &SchedCx<'_>, task: TaskId, best: &Best) {
        let mut parts = SmallVec::new();
        parts.push(("wait", best.wait_ns));
        parts.push(("transfer", best.transfer_ns));
        parts.extend(best.exec_ns.map(|exec_ns| ("run", exec_ns)));
        cx.note(task, Note { parts });
        let (Some(placing), Some(exec_ns)) = (cx.task(task), best.exec_ns) else {
            return;
        };
        let choice = &placing.choices[best.choice];
        let share = |(&device, claim): (&DeviceId, &Claim)| {
            let exclusive = cx.machine().device(device).exclusive;
            let stated = exclusive && claim.vcus > Vcus(0);
            let vcus = if stated { claim.vcus } else { Vcus::WHOLE };
            let time = u128::from(exec_ns) * u128::from(vcus.0) / u128::from(Vcus::WHOLE.0);
            (device, u64::try_from(time).unwrap_or(u64::MAX))
        };
        let shares: Shares = (choice.devices.iter().zip(&choice.claims))
            .map(share)
            .collect();
        for &(device, share) in &shares {
            let number = device.0 as usize;
            if self.known.len() <= number {
                self.known.resize(number + 1, 0);
                self.n_known.resize(number + 1, 0);
            }
            self.known[number] = self.known[number].saturating_add(share);
            self.n_known[number] += 1;
        }
        self.expected.insert(task, shares);
    }

    /// It is not there any more.
    fn gone(&mut self, task: TaskId) {
        let Some(shares) = self.expected.remove(&task) else {
            return;
        };
        for (device, share) in shares {
            let number = device.0 as usize;
            self.known[number] = self.known[number].saturating_sub(share);
            self.n_known[number] -= 1;
        }
    }

    /// A body has ended on a device of an architecture.
    fn learn(&mut self, architecture: &str, exec_ns: u64) {
        advance(&mut self.body, exec_ns);
        let known = self.bodies.iter_mut();
        let known = known
            .filter(|(name, _)| name == architecture)
            .map(|(_, mean)| mean);
        match known.last() {
            Some(mean) => *mean = mixed(*mean, exec_ns),
            None => self.bodies.push((architecture.to_owned(), exec_ns)),
        }
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
        let mut in_turn = self.ready.in_turn(device, fits_here);
        let mut chosen: Option<(Best, i32, TaskId)> = None;
        for _ in 0..self.window {
            let Some(task) = in_turn.next() else {
                break;
            };
            let priority = cx.priority(task);
            if chosen.is_some_and(|(_, highest, _)| priority < highest) {
                break;
            }
            let placing = cx.task(task)?;
            let best = self.loads.best(cx, task);
            let best = best.filter(|best| placing.choices[best.choice].devices.contains(&device));
            // Tasks like this one start no sooner, and go where it goes.
            in_turn.skip_alike();
            let Some(best) = best else {
                continue;
            };
            if chosen.is_none_or(|(first, ..)| best.start_ns() < first.start_ns()) {
                chosen = Some((best, priority, task));
            }
            if best.transfer_ns == 0 && placing.choices[best.choice].devices.len() == 1 {
                break;
            }
        }
        let (best, _, task) = chosen?;
        self.ready.remove(task);
        self.loads.given(cx, task, &best);
        let choice = best.choice;
        Some(Assignment { task, choice })
    }

    fn foresee(&self, cx: &SchedCx<'_>, task: TaskId) -> Option<usize> {
        let choices = &cx.task(task)?.choices;
        let times = (0..choices.len()).filter_map(|number| cx.exec_ns(task, number));
        let least = times.min().unwrap_or(0);
        let choices = choices.iter().enumerate();
        let score = |(number, choice): (usize, &Choice)| {
            let transfer_ns = cx.transfer_ns(task, number);
            let exec_ns = cx.exec_ns(task, number).unwrap_or(least / 2);
            let start = self.loads.wait_ns(cx, choice).saturating_add(transfer_ns);
            (transfer_ns > 0, start.saturating_add(exec_ns), number)
        };
        let fitting = choices.filter(|(number, _)| cx.fits(task, *number));
        fitting.map(score).min().map(|(.., number)| number)
    }

    fn on_done(&mut self, cx: &SchedCx<'_>, task: TaskId, devices: &[DeviceId], exec_ns: u64) {
        self.loads.gone(task);
        if let Some(&device) = devices.first() {
            let architecture = &cx.machine().device(device).architecture;
            self.loads.learn(architecture, exec_ns);
        }
    }

    fn on_removed(&mut self, _cx: &SchedCx<'_>, task: TaskId) {
        self.ready.remove(task);
        self.loads.gone(task);
    }
}

fn advance(mean: &mut Option<u64>, new: u64) {
    *mean = Some(mean.map_or(new, |mean| mixed(mean, new)));
}

/// The running mean with one more value.
fn mixed(mean: u64, new: u64) -> u64 {
    mean - mean / 8 + new / 8
}
