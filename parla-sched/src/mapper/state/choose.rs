//! What fits, whom devices wait for, and decisions carried out.

use std::sync::Arc;

use parla_core::{Claim, DeviceId, TaskId, Vcus};
use smallvec::SmallVec;

use super::{Entry, Stage, State, Turn};
use crate::mapper::{PATIENCE, Placed, World};
use crate::policy::{Assignment, Note};
use crate::{Choice, Placing, PlacingError};

/// Devices that wait for one task.
#[derive(Debug)]
pub(super) struct Reservation {
    pub(super) task: TaskId,
    pub(super) turn: Turn,
    choice: usize,
}

impl State {
    pub(in crate::mapper) fn check(
        &self,
        placing: &Placing,
        world: &dyn World,
    ) -> Result<(), PlacingError> {
        let mut first = None;
        for choice in &placing.choices {
            match self.check_choice(choice, world) {
                Ok(()) => return Ok(()),
                Err(error) => first = first.or(Some(error)),
            }
        }
        Err(first.unwrap_or_else(|| PlacingError::Choice("there is none to choose from".into())))
    }

    pub(super) fn check_choice(
        &self,
        choice: &Choice,
        world: &dyn World,
    ) -> Result<(), PlacingError> {
        if choice.devices.is_empty() {
            return Err(PlacingError::Choice("it names no device".into()));
        }
        if choice.devices.len() != choice.claims.len() {
            return Err(PlacingError::Choice(format!(
                "it has {} devices and {} claims",
                choice.devices.len(),
                choice.claims.len()
            )));
        }
        for (k, (&device, claim)) in choice.devices.iter().zip(&choice.claims).enumerate() {
            let Some(model) = self.machine.devices.get(device.0 as usize) else {
                return Err(PlacingError::Choice(format!(
                    "there is no device {}, the machine has {}",
                    device.0,
                    self.machine.devices.len()
                )));
            };
            if choice.devices[..k].contains(&device) {
                return Err(PlacingError::Choice(format!(
                    "it names {} twice",
                    model.name
                )));
            }
            self.ledgers[device.0 as usize]
                .check_beside(claim, self.held(device, world))
                .map_err(|error| PlacingError::Claim {
                    device: model.name.clone(),
                    error,
                })?;
        }
        Ok(())
    }

    /// Bytes that nobody can claim. Those of the CPUs are not in these accounts.
    pub(super) fn held(&self, device: DeviceId, world: &dyn World) -> u64 {
        if self.machine.device(device).exclusive {
            world.held(device)
        } else {
            0
        }
    }

    /// Whether a choice of a pushed task could be placed now.
    pub(in crate::mapper) fn fits(&self, id: TaskId, choice: usize, world: &dyn World) -> bool {
        let Some(Entry { placing, stage, .. }) = self.tasks.get(&id) else {
            return false;
        };
        let (Stage::Pushed { turn, .. }, Some(choice)) = (stage, placing.choices.get(choice))
        else {
            return false;
        };
        self.choice_fits(placing, choice, world) && !self.is_barred(*turn, choice)
    }

    /// Whether a choice of a task that is not placed can ever be served.
    pub(in crate::mapper) fn could_fit(
        &self,
        id: TaskId,
        choice: usize,
        world: &dyn World,
    ) -> bool {
        let Some(placing) = self.unplaced(id) else {
            return false;
        };
        let choice = placing.choices.get(choice);
        choice.is_some_and(|choice| self.is_possible(placing, choice, world))
    }

    /// Whether a choice of a pushed task is possible, does not fit now, and its devices all have something to do.
    pub(in crate::mapper) fn fits_later(
        &self,
        id: TaskId,
        choice: usize,
        world: &dyn World,
    ) -> bool {
        let entry = self.tasks.get(&id);
        let Some(placing) = entry.map(|entry| &entry.placing) else {
            return false;
        };
        let Some(choice) = placing.choices.get(choice) else {
            return false;
        };
        let is_busy = |device: &DeviceId| self.devices[device.0 as usize].now.active > 0;
        choice.devices.iter().all(is_busy)
            && self.is_possible(placing, choice, world)
            && !self.choice_fits(placing, choice, world)
    }

    /// Whether a choice can ever be served.
    pub(super) fn is_possible(
        &self,
        placing: &Placing,
        choice: &Choice,
        world: &dyn World,
    ) -> bool {
        self.check_choice(choice, world).is_ok() && self.has_room(placing, choice, world)
    }

    /// Whether a task's arrays can ever be where this choice would have them. If no choice has room for them, any will do: staging says what is missing.
    fn has_room(&self, placing: &Placing, choice: &Choice, world: &dyn World) -> bool {
        let [_, _, ..] = placing.choices[..] else {
            return true;
        };
        let possible = |choice: &Choice| {
            self.check_choice(choice, world).is_ok() && world.has_room(placing, choice)
        };
        world.has_room(placing, choice) || !placing.choices.iter().any(possible)
    }

    fn choice_fits(&self, placing: &Placing, choice: &Choice, world: &dyn World) -> bool {
        // A choice that can never be served never fits: it may have fewer claims than devices, or devices that are not there.
        let is_free = |(&device, claim): (&DeviceId, &Claim)| {
            let number = device.0 as usize;
            self.devices.get(number).is_some_and(|account| {
                account.now.places < account.n_places
                    && self.has_memory(device, claim, world)
                    && claim.vcus <= Vcus::WHOLE
            })
        };
        choice.devices.len() == choice.claims.len()
            && choice.devices.iter().zip(&choice.claims).all(is_free)
            && self.is_possible(placing, choice, world)
    }

    /// Memory that a task waits for which was placed before goes to that one.
    fn has_memory(&self, device: DeviceId, claim: &Claim, world: &dyn World) -> bool {
        let (memory, number) = (self.memory(device, claim), device.0 as usize);
        let held = self.held(device, world);
        memory.memory == 0
            || !self.awaited[number] && self.ledgers[number].fits_beside(&memory, held)
    }

    fn is_barred(&self, turn: Turn, choice: &Choice) -> bool {
        self.reservation.as_ref().is_some_and(|reservation| {
            reservation.turn < turn
                && self
                    .reserved_choice(reservation)
                    .is_some_and(|(_, reserved)| share_device(reserved, &choice.devices))
        })
    }

    fn reserved_choice(&self, reservation: &Reservation) -> Option<(&Placing, &Choice)> {
        let entry = self.tasks.get(&reservation.task)?;
        let choice = entry.placing.choices.get(reservation.choice)?;
        Some((&entry.placing, choice))
    }

    /// The device with a free place that has least to do for its size; of equal ones that which waited longest for a task.
    pub(in crate::mapper) fn neediest(&self, refused: &[bool]) -> Option<DeviceId> {
        let workers = |number: usize| u64::from(self.machine.devices[number].n_workers.max(1));
        let load = |number: usize| self.devices[number].now.load as u64;
        (0..self.devices.len())
            .filter(|&number| {
                let account = &self.devices[number];
                !refused[number] && account.now.places < account.n_places
            })
            .min_by(|&a, &b| {
                let (load_a, load_b) = (load(a) * workers(b), load(b) * workers(a));
                let last = |number: usize| self.devices[number].last_given;
                load_a.cmp(&load_b).then(last(a).cmp(&last(b)))
            })
            .and_then(|number| u32::try_from(number).ok())
            .map(DeviceId)
    }

    /// Carries a decision out, if it can be.
    ///
    /// # Errors
    /// What the policy did wrong, and the task to which it did so.
    pub(in crate::mapper) fn place(
        &mut self,
        assignment: Assignment,
        offered: DeviceId,
        note: Option<Arc<Note>>,
        world: &dyn World,
    ) -> Result<Placed, (Option<TaskId>, String)> {
        let Assignment { task: id, choice } = assignment;
        let Some(entry) = self.tasks.get(&id) else {
            return Err((
                None,
                format!("assigned {id}, which is not there (any more)"),
            ));
        };
        let turn = match entry.stage {
            Stage::Pushed { turn, .. } => turn,
            Stage::Spawned => {
                return Err((None, format!("assigned {id}, which is not ready yet")));
            }
            _ => return Err((None, format!("assigned {id} twice"))),
        };
        let Some(chosen) = entry.placing.choices.get(choice) else {
            let n_choices = entry.placing.choices.len();
            return Err((
                Some(id),
                format!("assigned {id} by its choice {choice}, of which it has {n_choices}"),
            ));
        };
        if !chosen.devices.contains(&offered) {
            let offered = &self.machine.device(offered).name;
            return Err((
                Some(id),
                format!("assigned {id} by its choice {choice}, which is without {offered}"),
            ));
        }
        if !self.fits(id, choice, world) {
            return Err((
                Some(id),
                format!("assigned {id} by its choice {choice}, which does not fit now"),
            ));
        }
        let placing = Arc::clone(&entry.placing);
        let chosen = &placing.choices[choice];
        self.pushed.remove(&turn);
        if self.reservation.as_ref().is_some_and(|r| r.task == id) {
            self.reservation = None;
        }
        let claims: SmallVec<[Claim; 1]> = (chosen.devices.iter().zip(&chosen.claims))
            .map(|(&device, claim)| self.effective(device, claim))
            .collect();
        self.decisions += 1;
        for (&device, claim) in chosen.devices.iter().zip(&claims) {
            let memory = self.memory(device, claim);
            let granted = self.ledgers[device.0 as usize].try_claim(&memory);
            debug_assert!(granted, "it fitted a moment ago");
            self.devices[device.0 as usize].last_given = self.decisions;
        }
        let resumed = false;
        self.set_stage(id, Stage::Placed { choice, resumed });
        if let Some(entry) = self.tasks.get_mut(&id) {
            entry.note.clone_from(&note);
        }
        self.passed_over(turn, &chosen.devices, world);
        Ok(Placed {
            task: id,
            choice,
            devices: chosen.devices.clone(),
            claims,
            variant: chosen.variant,
            placing,
            note,
        })
    }

    /// A task of that turn got those devices; whoever is first in turn has been passed over, if it could have used one of them.
    fn passed_over(&mut self, turn: Turn, devices: &[DeviceId], world: &dyn World) {
        let Some((&first_turn, &first)) = self.pushed.first_key_value() else {
            return;
        };
        let Some(entry) = self.tasks.get_mut(&first) else {
            return;
        };
        let Stage::Pushed { passed_over, .. } = &mut entry.stage else {
            return;
        };
        let choices = &entry.placing.choices;
        if first_turn > turn || !choices.iter().any(|choice| share_device(choice, devices)) {
            return;
        }
        *passed_over += 1;
        if *passed_over < PATIENCE || self.reservation.is_some() {
            return;
        }
        let placing = Arc::clone(&entry.placing);
        let choices = || placing.choices.iter().enumerate();
        let choice = choices()
            .find(|(_, choice)| self.choice_fits(&placing, choice, world))
            .or_else(|| choices().find(|(_, choice)| self.is_possible(&placing, choice, world)));
        self.reservation = choice.map(|(choice, _)| Reservation {
            task: first,
            turn: first_turn,
            choice,
        });
    }

    /// After all devices were offered in vain: ends a reservation that the policy does not use though it could. Returns whether it did, so that the devices may be offered again.
    pub(in crate::mapper) fn end_idle_reservation(&mut self, world: &dyn World) -> bool {
        let Some(reservation) = &self.reservation else {
            return false;
        };
        // Who holds what it needs goes on and gives it back; those that wait for others hold nothing, the program gives nothing back.
        let waits = self
            .reserved_choice(reservation)
            .is_some_and(|(placing, choice)| {
                let is_busy = |device: &DeviceId| self.devices[device.0 as usize].now.active > 0;
                !self.choice_fits(placing, choice, world) && choice.devices.iter().any(is_busy)
            });
        if !waits {
            self.end_reservation();
        }
        !waits
    }

    fn end_reservation(&mut self) {
        let Some(Reservation { task, .. }) = self.reservation.take() else {
            return;
        };
        if let Some(entry) = self.tasks.get_mut(&task)
            && let Stage::Pushed { passed_over, .. } = &mut entry.stage
        {
            *passed_over = 0;
        }
    }
}

fn share_device(choice: &Choice, devices: &[DeviceId]) -> bool {
    choice.devices.iter().any(|device| devices.contains(device))
}
