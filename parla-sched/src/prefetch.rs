//! Which inputs of tasks that still wait can be brought to their device already. Pure.
//!
//! A task with one choice is sure to run there, so an input can travel as soon as no task spawned before it has yet to write it.
//! Two tasks that conflict are ordered by the user's dependencies, so tasks spawned later change nothing that an earlier one reads before
//! that has run, if the earlier one depends on none that was spawned later: otherwise nothing is sent for it. For a task with several choices the policy is asked where it would go ([`foresee`](crate::policy::SchedulingPolicy::foresee)),
//! once, when the first of its inputs can travel; few tasks at a time, since the policy may decide otherwise in the end.
//!
//! A task that is ready may need a copy that nobody foresaw, and copies to a device go one after the other. So few inputs are under way to a device at
//! once: two, for the link not to be idle between them, and more only as long as all of them take less than [`SOON_NS`]. The next goes when one has arrived.
//!
//! This is a hint about time only: staging fetches again whatever was changed after all. Inputs are sent in the order in which the tasks that
//! need them were spawned, since copies on the same link go one after the other.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};

use parla_core::{DeviceId, Region, TaskId};
use parla_data::{Ahead, ArrayId, Operand};
use rustc_hash::FxHashMap;

use crate::Placing;
use std::sync::Arc;

/// How many waiting tasks of each device are looked at, and for how many at once a device is foreseen.
const WINDOW: usize = 4;

/// How many inputs may be under way to a device, however large.
const UNDER_WAY: usize = 2;

/// More may be while all together take less than this on idle links.
const SOON_NS: u64 = 1_000_000;

/// How many waiting tasks with several choices are looked at to find some with an input that can travel.
const LOOKED_AT: usize = 16;

/// The tasks that have not ended, in the order of their spawning.
#[derive(Default)]
pub(crate) struct Prefetch {
    next: u64,
    tasks: FxHashMap<TaskId, Entry>,
    /// By device and number: tasks that wait for others, and run there for sure or in all likelihood.
    waiting: BTreeMap<DeviceId, BTreeMap<u64, Waiting>>,
    /// By number: those that wait for others and might run on several devices.
    undecided: BTreeMap<u64, TaskId>,
    /// Those in `waiting` that are there in all likelihood only.
    foreseen: BTreeSet<u64>,
    /// What tasks that have not ended write, by array and the task's number.
    writes: Writes,
    /// What is under way to each device.
    under_way: BTreeMap<DeviceId, UnderWay>,
}

/// Inputs that have been sent and not arrived.
#[derive(Clone, Copy, Default)]
struct UnderWay {
    n: usize,
    ns: u64,
}

impl UnderWay {
    fn is_enough(self) -> bool {
        self.n >= UNDER_WAY && self.ns >= SOON_NS
    }
}

/// An input that is to be sent.
pub(crate) struct Sent {
    pub(crate) operand: Operand,
    pub(crate) device: DeviceId,
    /// For which task.
    pub(crate) ahead: Ahead,
    /// What it counts until it has [arrived](Prefetch::arrived).
    pub(crate) ns: u64,
}

type Writes = FxHashMap<ArrayId, BTreeMap<u64, Vec<Region>>>;

struct Entry {
    number: u64,
    placing: Arc<Placing>,
}

struct Waiting {
    placing: Arc<Placing>,
    /// Which operands have been asked for.
    asked: Vec<bool>,
    /// Until it is ready: what is sent later than that may come too late for it, and be of use to nobody.
    wanted: Arc<AtomicBool>,
}

impl Waiting {
    fn new(placing: &Arc<Placing>) -> Self {
        Self {
            asked: placing.operands.iter().map(|o| !o.fetches()).collect(),
            placing: Arc::clone(placing),
            wanted: Arc::new(AtomicBool::new(true)),
        }
    }

    /// The operands that can travel and have not been asked for.
    fn free(&self, writes: &Writes, number: u64) -> impl Iterator<Item = usize> {
        let operands = self.placing.operands.iter().zip(&self.asked).enumerate();
        operands
            .filter(move |(_, (o, asked))| !**asked && !is_written_before(writes, o, number))
            .map(|(k, _)| k)
    }
}

impl Prefetch {
    /// A task was spawned, after all that it depends on.
    pub(crate) fn spawned(&mut self, id: TaskId, placing: &Arc<Placing>) {
        let Some(number) = self.enter(id, placing) else {
            return;
        };
        match &placing.choices[..] {
            [choice] => {
                if let [device] = choice.devices[..] {
                    let of_device = self.waiting.entry(device).or_default();
                    of_device.insert(number, Waiting::new(placing));
                }
            }
            _ if placing.operands.iter().any(Operand::fetches) => {
                self.undecided.insert(number, id);
            }
            _ => {}
        }
    }

    /// A task was spawned before one that it may depend on, and that may yet write what it reads: nothing is sent ahead for it.
    pub(crate) fn spawned_early(&mut self, id: TaskId, placing: &Arc<Placing>) {
        self.enter(id, placing);
    }

    /// Writes down what a task is going to write; its number, if it uses anything.
    fn enter(&mut self, id: TaskId, placing: &Arc<Placing>) -> Option<u64> {
        if placing.operands.is_empty() {
            return None;
        }
        let number = self.next;
        self.next += 1;
        for operand in placing.operands.iter().filter(|o| o.access.writes()) {
            let of_array = self.writes.entry(operand.array.id()).or_default();
            of_array
                .entry(number)
                .or_default()
                .push(operand.region.clone());
        }
        let placing = Arc::clone(placing);
        self.tasks.insert(id, Entry { number, placing });
        Some(number)
    }

    /// Its inputs are fetched by its own staging from here on.
    pub(crate) fn ready(&mut self, id: TaskId) {
        if let Some(Entry { number, placing }) = self.tasks.get(&id) {
            self.undecided.remove(number);
            self.foreseen.remove(number);
            for device in placing.choices.iter().flat_map(|c| &c.devices) {
                let waiting = self.waiting.get_mut(device);
                if let Some(task) = waiting.and_then(|waiting| waiting.remove(number)) {
                    task.wanted.store(false, Ordering::Relaxed);
                }
            }
        }
    }

    /// It has ended, in whatever way.
    pub(crate) fn ended(&mut self, id: TaskId) {
        self.ready(id);
        let Some(Entry { number, placing }) = self.tasks.remove(&id) else {
            return;
        };
        for operand in placing.operands.iter().filter(|o| o.access.writes()) {
            if let Some(writes) = self.writes.get_mut(&operand.array.id()) {
                writes.remove(&number);
                if writes.is_empty() {
                    self.writes.remove(&operand.array.id());
                }
            }
        }
    }

    /// Whether [`take`](Self::take) may find something.
    pub(crate) fn has_any(&self) -> bool {
        let of_device = |(device, waiting): (&DeviceId, &BTreeMap<u64, Waiting>)| {
            let mut looked_at = waiting.iter().take(WINDOW);
            !self.under_way(*device).is_enough()
                && looked_at.any(|(&number, task)| task.free(&self.writes, number).next().is_some())
        };
        self.waiting.iter().any(of_device) || self.next_undecided().is_some()
    }

    fn under_way(&self, device: DeviceId) -> UnderWay {
        self.under_way.get(&device).copied().unwrap_or_default()
    }

    /// An input that was [taken](Self::take) is there, or will not come.
    pub(crate) fn arrived(&mut self, device: DeviceId, ns: u64) {
        if let Some(under_way) = self.under_way.get_mut(&device) {
            under_way.n -= 1;
            under_way.ns -= ns;
        }
    }

    /// What can travel now: each input once. `cost_ns` says how long one takes; `foresee` says where a task with several choices is likely to run, if so many waiting tasks as are
    /// listed come on top of what devices have.
    pub(crate) fn take(
        &mut self,
        mut foresee: impl FnMut(TaskId, &[(DeviceId, usize)]) -> Option<DeviceId>,
        cost_ns: impl Fn(&Operand, DeviceId) -> u64,
    ) -> Vec<Sent> {
        while let Some((number, id)) = self.next_undecided() {
            self.undecided.remove(&number);
            let before = |(&device, waiting): (&DeviceId, &BTreeMap<u64, Waiting>)| {
                (device, waiting.range(..number).take(WINDOW).count())
            };
            let coming: Vec<_> = self.waiting.iter().map(before).collect();
            if let (Some(device), Some(entry)) = (foresee(id, &coming), self.tasks.get(&id)) {
                let of_device = self.waiting.entry(device).or_default();
                of_device.insert(number, Waiting::new(&entry.placing));
                self.foreseen.insert(number);
            }
        }
        let mut found = Vec::new();
        for (&device, waiting) in &mut self.waiting {
            let under_way = self.under_way.entry(device).or_default();
            for (&number, task) in waiting.iter_mut().take(WINDOW) {
                let free: Vec<_> = task.free(&self.writes, number).collect();
                for k in free {
                    if under_way.is_enough() {
                        break;
                    }
                    task.asked[k] = true;
                    let operand = task.placing.operands[k].clone();
                    let ns = cost_ns(&operand, device);
                    under_way.n += 1;
                    under_way.ns += ns;
                    found.push((
                        number,
                        Sent {
                            operand,
                            device,
                            ahead: Ahead {
                                sure: !self.foreseen.contains(&number),
                                wanted: Arc::clone(&task.wanted),
                            },
                            ns,
                        },
                    ));
                }
            }
        }
        found.sort_by_key(|(number, _)| *number);
        found.into_iter().map(|(_, sent)| sent).collect()
    }

    /// A task with several choices and an input that can travel, if not too many have been foreseen.
    fn next_undecided(&self) -> Option<(u64, TaskId)> {
        if self.foreseen.len() >= WINDOW {
            return None;
        }
        let can_travel = |&(&number, id): &(&u64, &TaskId)| {
            let operands = self.tasks.get(id).map(|entry| &entry.placing.operands);
            operands.is_some_and(|operands| {
                let mut inputs = operands.iter().filter(|operand| operand.fetches());
                inputs.any(|operand| !is_written_before(&self.writes, operand, number))
            })
        };
        let mut looked_at = self.undecided.iter().take(LOOKED_AT);
        looked_at
            .find(can_travel)
            .map(|(&number, &id)| (number, id))
    }
}

/// Whether a task before `number` has yet to write some of it.
fn is_written_before(writes: &Writes, operand: &Operand, number: u64) -> bool {
    writes.get(&operand.array.id()).is_some_and(|writes| {
        writes
            .range(..number)
            .flat_map(|(_, regions)| regions)
            .any(|region| region.intersection(&operand.region).is_some())
    })
}

#[cfg(test)]
mod tests;
