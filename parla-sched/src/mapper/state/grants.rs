//! From data to compute units and back: what placed tasks are granted, and what they give back while they wait.

use std::cmp::Reverse;

use parla_core::{Claim, DeviceId, TaskId};

use super::{DRAINING, Entry, Stage, State, World};

impl State {
    /// A placed task's data is there.
    pub(in crate::mapper) fn stage(&mut self, id: TaskId) {
        if let Some(entry) = self.tasks.get(&id)
            && let Stage::Placed { choice, resumed } = entry.stage
        {
            self.want_units(id, choice, resumed);
        }
    }

    /// A suspended task goes on.
    pub(in crate::mapper) fn resume(&mut self, id: TaskId) {
        if let Some(entry) = self.tasks.get_mut(&id)
            && let Stage::Suspended { choice } = entry.stage
        {
            entry.waited = true;
            let entry = &self.tasks[&id];
            let memory = self.memory_of(&entry.placing.choices[choice]);
            if entry.placing.operands.is_empty() && memory.iter().all(|(_, c)| c.memory == 0) {
                return self.want_units(id, choice, true); // there is nothing to be brought
            }
            let turn = (Reverse(entry.priority), self.arrivals);
            self.arrivals += 1;
            self.returning.insert(turn, id);
            self.set_stage(id, Stage::Returning { choice, turn });
        }
    }

    /// Gives those that return the memory they claim, on all their devices or on none. Who does not fit keeps the devices it wants from
    /// those behind it. What the program has set aside since for itself makes no difference here: who claims more than is left is refused when its data
    /// is brought.
    pub(in crate::mapper) fn grant_memory(&mut self, world: &dyn World) -> Vec<TaskId> {
        let mut granted = Vec::new();
        let waiting: Vec<_> = self.returning.iter().map(|(t, id)| (*t, *id)).collect();
        self.awaited.fill(false);
        for (turn, id) in waiting {
            let Some(entry) = self.tasks.get(&id) else {
                continue;
            };
            let Stage::Returning { choice, .. } = entry.stage else {
                continue;
            };
            let memory = self.memory_of(&entry.placing.choices[choice]);
            let is_free = |(device, claim): &(DeviceId, Claim)| {
                let number = device.0 as usize;
                let ledger = &self.ledgers[number];
                let held = self.held(*device, world);
                let fits = match ledger.check_beside(claim, held) {
                    Ok(()) => ledger.fits_beside(claim, held),
                    Err(_) => ledger.fits(claim),
                };
                claim.memory == 0 || !self.awaited[number] && fits
            };
            if !memory.iter().all(is_free) {
                for (device, claim) in &memory {
                    self.awaited[device.0 as usize] |= claim.memory > 0;
                }
                continue;
            }
            self.returning.remove(&turn);
            for (device, claim) in &memory {
                let granted = self.ledgers[device.0 as usize].try_claim(claim);
                debug_assert!(granted, "it fitted a moment ago");
            }
            let resumed = true;
            self.set_stage(id, Stage::Placed { choice, resumed });
            granted.push(id);
        }
        granted
    }

    fn want_units(&mut self, id: TaskId, choice: usize, resumed: bool) {
        let priority = self.priority(id);
        let needs = self.needs(id, choice);
        let turn = self.units.push(id, priority, resumed, needs);
        self.set_stage(
            id,
            Stage::Waiting {
                choice,
                turn,
                resumed,
            },
        );
    }

    /// Gives compute units to those whose turn it is; in order of service.
    pub(in crate::mapper) fn grant_units(&mut self) -> Vec<(TaskId, i32)> {
        self.drain_returned();
        let mut granted = Vec::new();
        while let Some((turn, id)) = self.units.grant(&mut self.ledgers) {
            granted.push((turn, id));
        }
        granted.sort_unstable();
        let mut runnable = Vec::with_capacity(granted.len());
        for (_, id) in granted {
            let Some(Entry {
                stage: Stage::Waiting {
                    choice, resumed, ..
                },
                priority,
                placing,
                ..
            }) = self.tasks.get(&id)
            else {
                debug_assert!(false, "{id} does not wait for units");
                continue;
            };
            let (choice, resumed) = (*choice, *resumed);
            runnable.push((id, *priority));
            if !resumed {
                for device in &placing.choices[choice].devices {
                    self.devices[device.0 as usize].n_tasks += 1;
                }
            }
            self.set_stage(id, Stage::Running { choice });
        }
        runnable
    }

    /// A task that runs waits for others: it gives back all that it holds.
    pub(in crate::mapper) fn suspend(&mut self, id: TaskId) {
        let Some(entry) = self.tasks.get(&id) else {
            return;
        };
        let choice = match entry.stage {
            Stage::Running { choice } => {
                self.release_units(id, choice);
                choice
            }
            // It failed after its body, and is going to be run once more.
            Stage::Draining { choice } => choice,
            _ => return,
        };
        self.returned.retain(|returned| *returned != id);
        self.release_memory(id, choice);
        self.set_stage(id, Stage::Suspended { choice });
    }

    /// The body of a task is over and it runs ahead of its devices: others may have its compute units at once.
    pub(in crate::mapper) fn drain(&mut self, id: TaskId) {
        if let Some(entry) = self.tasks.get(&id)
            && let Stage::Running { choice } = entry.stage
        {
            self.release_units(id, choice);
            self.set_stage(id, Stage::Draining { choice });
        }
    }

    /// The body of a running task has returned, its devices are at work.
    pub(in crate::mapper) fn returned(&mut self, id: TaskId) {
        if let Some(entry) = self.tasks.get(&id)
            && let Stage::Running { .. } = entry.stage
        {
            self.returned.push(id);
        }
    }

    /// Lets tasks whose bodies have returned drain, `DRAINING` on each of their devices.
    fn drain_returned(&mut self) {
        for id in std::mem::take(&mut self.returned) {
            let Some(Entry {
                stage: Stage::Running { choice },
                placing,
                ..
            }) = self.tasks.get(&id)
            else {
                continue;
            };
            let choice = *choice;
            let full = |d: &DeviceId| self.devices[d.0 as usize].now.draining >= DRAINING;
            if placing.choices[choice].devices.iter().any(full) {
                self.returned.push(id);
            } else {
                self.release_units(id, choice);
                self.set_stage(id, Stage::Draining { choice });
            }
        }
    }
}
