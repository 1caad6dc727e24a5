//! Policies that do what none may, and how the check says so.

use super::*;

/// What is wrong with a policy.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Wrong {
    Nothing,
    /// Forgets every tenth task.
    Forgets,
    /// Returns every tenth task twice.
    Repeats,
    /// Pops what was cancelled.
    IgnoresRemoval,
    /// Takes the first choice, whether it fits or not.
    IgnoresFit,
    /// Takes a choice that fits, on whichever device.
    IgnoresDevice,
    /// Takes nothing for GPUs.
    ShunsGpus,
    /// Takes the newest first, and of what claims half of a device nothing before all else is done.
    Starves,
    /// Decides by how many policies were made before it.
    Remembers,
}

/// First come, first served, with a fault.
struct Faulty {
    wrong: Wrong,
    queue: Vec<TaskId>,
    n_popped: u64,
    salt: u64,
    last: Option<Assignment>,
}

impl Faulty {
    fn choice(&self, cx: &SchedCx<'_>, task: TaskId, device: DeviceId) -> Option<usize> {
        let placing = cx.task(task)?;
        (0..placing.choices.len()).find(|&choice| {
            let here = placing.choices[choice].devices.contains(&device);
            match self.wrong {
                Wrong::IgnoresFit => here,
                Wrong::IgnoresDevice => cx.fits(task, choice),
                Wrong::ShunsGpus => {
                    here && cx.fits(task, choice) && !cx.machine().device(device).exclusive
                }
                _ => here && cx.fits(task, choice),
            }
        })
    }
}

impl SchedulingPolicy for Faulty {
    fn name(&self) -> &str {
        "faulty"
    }

    fn push(&mut self, _: &SchedCx<'_>, task: TaskId) {
        self.queue.push(task);
    }

    fn pop(&mut self, cx: &SchedCx<'_>, device: DeviceId) -> Option<Assignment> {
        if self.wrong == Wrong::Repeats && self.n_popped % 10 == 9 {
            self.n_popped += 1;
            return self.last;
        }
        let is_big = |task: TaskId| {
            let placing = cx.task(task).map(|placing| &placing.choices[0]);
            placing.is_some_and(|choice| {
                choice.devices.len() > 1 || choice.claims[0].memory >= 500_000
            })
        };
        let find = |at: usize| Some((at, self.choice(cx, self.queue[at], device)?));
        let mut order = 0..self.queue.len().min(64);
        let small = |&at: &usize| self.wrong != Wrong::Starves || !is_big(self.queue[at]);
        let found = if self.wrong == Wrong::Remembers && self.salt % 2 == 1 {
            order.rev().find_map(find)
        } else {
            order
                .clone()
                .filter(small)
                .find_map(find)
                .or_else(|| order.find_map(find))
        };
        let (at, choice) = found?;
        let task = self.queue[at];
        if self.wrong == Wrong::Starves && is_big(task) && self.queue.iter().any(|&t| !is_big(t)) {
            return None;
        }
        self.n_popped += 1;
        let tenth = self.n_popped.is_multiple_of(10);
        self.queue.remove(at);
        if tenth && self.wrong == Wrong::Forgets {
            return None;
        }
        self.last = Some(Assignment { task, choice });
        self.last
    }

    fn on_removed(&mut self, _: &SchedCx<'_>, task: TaskId) {
        if self.wrong != Wrong::IgnoresRemoval {
            self.queue.retain(|&other| other != task);
        }
    }
}

/// What the check says of it.
fn verdict(wrong: Wrong) -> String {
    let mut salt = 0;
    let made = |_seed| {
        salt += 1;
        Box::new(Faulty {
            wrong,
            queue: Vec::new(),
            n_popped: 0,
            last: None,
            // The check makes a policy for its name, then one for each of two runs.
            salt: salt / 3 + salt % 3,
        }) as Box<dyn SchedulingPolicy>
    };
    let mut made = made;
    match check(&mut made, 40) {
        Ok(_) => "conforms".to_owned(),
        Err(Violation { what, .. }) => what,
    }
}

#[test]
fn a_plain_queue_conforms() {
    assert_eq!(verdict(Wrong::Nothing), "conforms");
}

#[test]
fn every_fault_is_found_and_named() {
    for (wrong, says) in [
        (
            Wrong::Forgets,
            "stalled: every device is free, and it takes none",
        ),
        (Wrong::Repeats, "twice"),
        (Wrong::IgnoresFit, "which does not fit now"),
        (Wrong::IgnoresDevice, "which is without"),
        (Wrong::ShunsGpus, "stalled"),
        (Wrong::Starves, "starved"),
        (Wrong::Remembers, "not deterministic"),
    ] {
        let what = verdict(wrong);
        assert!(what.contains(says), "{wrong:?}: {what}");
    }
}

/// A cancelled task is not in the view any more: this queue never gets at it, so it conforms; one that keeps its own copy of the
/// choices is told that the task is not there.
#[test]
fn a_queue_that_asks_the_view_is_safe_from_cancelled_tasks() {
    assert_eq!(verdict(Wrong::IgnoresRemoval), "conforms");
}
