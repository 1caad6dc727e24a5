//! What a task waits for in the mapper's accounts, for people.

use parla_core::{DeviceId, TaskId, Vcus};

use super::{Entry, Stage, State};
use crate::Choice;
use crate::mapper::World;
use crate::whereabouts::{Resource, Shortage};

/// So many holders are named.
const MAX_HOLDERS: usize = 4;

impl State {
    /// What stands between a task and its next stage, as far as it is a matter of these accounts.
    pub(in crate::mapper) fn wants(&self, id: TaskId, world: &dyn World) -> Vec<Shortage> {
        let Some(entry) = self.tasks.get(&id) else {
            return Vec::new();
        };
        let choices = &entry.placing.choices;
        match entry.stage {
            Stage::Pushed { .. } => {
                let possible = |choice: &&Choice| self.is_possible(&entry.placing, choice, world);
                // None is, if the program has set memory aside since it was spawned.
                let any = choices.iter().any(|choice| possible(&choice));
                let choices = choices.iter().filter(|choice| !any || possible(choice));
                choices
                    .take(MAX_HOLDERS)
                    .flat_map(|choice| self.choice_wants(choice, world))
                    .collect()
            }
            Stage::Returning { choice, .. } => self.memory_wants(&choices[choice], world),
            Stage::Waiting { choice, .. } => self.unit_wants(id, choice),
            _ => Vec::new(),
        }
    }

    /// Whether one of the ready tasks can be served at all.
    pub(in crate::mapper) fn can_serve_any(&self, world: &dyn World) -> bool {
        self.tasks.values().any(|entry| {
            let mut choices = entry.placing.choices.iter();
            matches!(entry.stage, Stage::Pushed { .. })
                && choices.any(|choice| self.is_possible(&entry.placing, choice, world))
        })
    }

    fn choice_wants(&self, choice: &Choice, world: &dyn World) -> Vec<Shortage> {
        let mut wants = self.memory_wants(choice, world);
        for &device in &choice.devices {
            let account = &self.devices[device.0 as usize];
            if account.now.places >= account.n_places {
                let exclusive = self.machine.device(device).exclusive;
                wants.push(Shortage {
                    of: Resource::Place {
                        device: self.machine.device_text(device),
                    },
                    held_by: self.holders(device, |entry| {
                        entry.stage.has_place(exclusive).then_some(0)
                    }),
                });
            }
        }
        wants
    }

    fn memory_wants(&self, choice: &Choice, world: &dyn World) -> Vec<Shortage> {
        let claims = self.memory_of(choice).into_iter();
        let short = claims.filter(|(device, claim)| {
            let number = device.0 as usize;
            let fits = self.ledgers[number].fits_beside(claim, self.held(*device, world));
            claim.memory > 0 && (self.awaited[number] || !fits)
        });
        let shortage = |(device, claim): (DeviceId, parla_core::Claim)| {
            let ledger = &self.ledgers[device.0 as usize];
            let capacity = ledger.capacity().memory;
            Shortage {
                of: Resource::Memory {
                    device: self.machine.device_text(device),
                    requested: claim.memory,
                    free: (capacity - ledger.claimed().memory)
                        .saturating_sub(self.held(device, world)),
                    reserved: self.held(device, world),
                    capacity,
                },
                held_by: self.holders(device, |entry| {
                    let choice = &entry.placing.choices[entry.stage.choice()?];
                    let slot = choice.devices.iter().position(|other| *other == device)?;
                    let bytes = choice.claims[slot].memory;
                    (entry.stage.holds_memory() && bytes > 0).then_some(bytes)
                }),
            }
        };
        short.map(shortage).collect()
    }

    fn unit_wants(&self, id: TaskId, choice: usize) -> Vec<Shortage> {
        let mut wants = Vec::new();
        for (device, requested) in self.needs(id, choice) {
            let ledger = &self.ledgers[device.0 as usize];
            let free = Vcus(ledger.capacity().vcus.0 - ledger.claimed().vcus.0);
            if requested > free {
                wants.push(Shortage {
                    of: Resource::Units {
                        device: self.machine.device_text(device),
                        requested,
                        free,
                    },
                    held_by: self.holders(device, |entry| {
                        matches!(entry.stage, Stage::Running { .. }).then_some(0)
                    }),
                });
            }
        }
        wants
    }

    /// The first of the tasks on a device that hold something of it.
    fn holders(
        &self,
        device: DeviceId,
        holds: impl Fn(&Entry) -> Option<u64>,
    ) -> Vec<(TaskId, u64)> {
        let mut holders: Vec<_> = (self.tasks.iter())
            .filter(|(_, entry)| {
                let choice = entry.stage.choice();
                choice.is_some_and(|c| entry.placing.choices[c].devices.contains(&device))
            })
            .filter_map(|(id, entry)| Some((*id, holds(entry)?)))
            .collect();
        holders.sort_unstable();
        holders.truncate(MAX_HOLDERS);
        holders
    }
}
