//! Which inputs of tasks that still wait can be brought to their device already. Pure.
//!
//! A task with one choice is sure to run there, so an input can travel as soon as no task spawned before it has yet to write it.
//! Two tasks that conflict are ordered by the user's dependencies, so tasks spawned later change nothing that an earlier one reads before
//! that has run. This is a hint about time only: staging fetches again whatever was changed after all.

use std::collections::BTreeMap;

use parla_core::{DeviceId, Region, TaskId};
use parla_data::{ArrayId, Operand};
use rustc_hash::FxHashMap;

use crate::Placing;
use std::sync::Arc;

/// How many waiting tasks of each device are looked at.
const WINDOW: usize = 4;

/// The tasks that have not ended, in the order of their spawning.
#[derive(Default)]
pub(crate) struct Prefetch {
    next: u64,
    tasks: FxHashMap<TaskId, Entry>,
    /// By device and number: tasks that wait for others and have inputs that were not asked for.
    waiting: FxHashMap<DeviceId, BTreeMap<u64, Waiting>>,
    /// What tasks that have not ended write, by array and the task's number.
    writes: FxHashMap<ArrayId, BTreeMap<u64, Vec<Region>>>,
}

struct Entry {
    number: u64,
    placing: Arc<Placing>,
}

struct Waiting {
    placing: Arc<Placing>,
    /// Which operands have been asked for.
    asked: Vec<bool>,
}

impl Prefetch {
    /// A task was spawned.
    pub(crate) fn spawned(&mut self, id: TaskId, placing: &Arc<Placing>) {
        if placing.operands.is_empty() {
            return;
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
        if let [choice] = &placing.choices[..]
            && let [device] = choice.devices[..]
        {
            let waiting = Waiting {
                placing: Arc::clone(placing),
                asked: placing.operands.iter().map(|o| !o.fetches()).collect(),
            };
            let of_device = self.waiting.entry(device).or_default();
            of_device.insert(number, waiting);
        }
        let placing = Arc::clone(placing);
        self.tasks.insert(id, Entry { number, placing });
    }

    /// Its inputs are fetched by its own staging from here on.
    pub(crate) fn ready(&mut self, id: TaskId) {
        if let Some(Entry { number, placing }) = self.tasks.get(&id) {
            for device in placing.choices.iter().flat_map(|c| &c.devices) {
                if let Some(waiting) = self.waiting.get_mut(device) {
                    waiting.remove(number);
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

    /// What can travel now: each input once.
    pub(crate) fn take(&mut self) -> Vec<(Operand, DeviceId)> {
        let mut found = Vec::new();
        for (&device, waiting) in &mut self.waiting {
            for (&number, task) in waiting.iter_mut().take(WINDOW) {
                for (operand, asked) in task.placing.operands.iter().zip(&mut task.asked) {
                    if !*asked && !is_written_before(&self.writes, operand, number) {
                        *asked = true;
                        found.push((operand.clone(), device));
                    }
                }
            }
        }
        found
    }
}

/// Whether a task before `number` has yet to write some of it.
fn is_written_before(
    writes: &FxHashMap<ArrayId, BTreeMap<u64, Vec<Region>>>,
    operand: &Operand,
    number: u64,
) -> bool {
    writes.get(&operand.array.id()).is_some_and(|writes| {
        writes
            .range(..number)
            .flat_map(|(_, regions)| regions)
            .any(|region| region.intersection(&operand.region).is_some())
    })
}
