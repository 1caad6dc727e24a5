//! The accounts, worked out a second time from nothing but where each task is.

use parla_core::{Claim, Vcus};

use super::{Occupancy, Stage, State};

impl State {
    /// Whether the running accounts agree with the tasks.
    ///
    /// # Errors
    /// The first disagreement.
    pub(in crate::mapper) fn validate(&self) -> Result<(), String> {
        let n_devices = self.devices.len();
        let mut occupancies = vec![Occupancy::default(); n_devices];
        let mut claimed = vec![Claim::default(); n_devices];
        let (mut n_pushed, mut n_waiting, mut n_returning) = (0, 0, 0);
        for (&id, entry) in &self.tasks {
            match entry.stage {
                Stage::Pushed { turn, .. } => {
                    n_pushed += 1;
                    if self.pushed.get(&turn) != Some(&id) {
                        return Err(format!("{id} is ready and has no turn"));
                    }
                }
                Stage::Waiting { .. } => n_waiting += 1,
                Stage::Returning { turn, .. } => {
                    n_returning += 1;
                    if self.returning.get(&turn) != Some(&id) {
                        return Err(format!("{id} returns and has no turn"));
                    }
                }
                _ => {}
            }
            let Some(number) = entry.stage.choice() else {
                continue;
            };
            let choice = &entry.placing.choices[number];
            for (&device, claim) in choice.devices.iter().zip(&choice.claims) {
                let exclusive = self.machine.device(device).exclusive;
                occupancies[device.0 as usize].count(entry.stage, exclusive, true);
                if entry.stage.holds_memory() {
                    claimed[device.0 as usize].memory += self.memory(device, claim).memory;
                }
            }
            if matches!(entry.stage, Stage::Running { .. }) {
                for (device, Vcus(vcus)) in self.needs(id, number) {
                    claimed[device.0 as usize].vcus.0 += vcus;
                }
            }
        }
        for id in &self.returned {
            let stage = self.tasks.get(id).map(|entry| entry.stage);
            if !matches!(stage, Some(Stage::Running { .. })) {
                return Err(format!("{id} has returned and is {stage:?}"));
            }
        }
        if n_pushed != self.pushed.len() || n_waiting != self.units.len() {
            return Err(format!(
                "{n_pushed} tasks are ready, {} have a turn; {n_waiting} want units, {} are queued for them",
                self.pushed.len(),
                self.units.len()
            ));
        }
        if n_returning != self.returning.len() {
            return Err(format!(
                "{n_returning} tasks return, {} are queued for their memory",
                self.returning.len()
            ));
        }
        for (number, account) in self.devices.iter().enumerate() {
            let name = &self.machine.devices[number].name;
            if account.now != occupancies[number] {
                return Err(format!(
                    "{name} counts {:?}, its tasks are {:?}",
                    account.now, occupancies[number]
                ));
            }
            let ledger = &self.ledgers[number];
            if ledger.claimed() != claimed[number] {
                return Err(format!(
                    "{name} has {:?} claimed, its tasks hold {:?}",
                    ledger.claimed(),
                    claimed[number]
                ));
            }
            let exclusive = self.machine.devices[number].exclusive;
            if exclusive && account.now.places > account.n_places {
                return Err(format!(
                    "{name} has {} places and {} tasks there",
                    account.n_places, account.now.places
                ));
            }
        }
        if let Some(reservation) = &self.reservation
            && self.pushed.get(&reservation.turn) != Some(&reservation.task)
        {
            return Err(format!(
                "devices wait for {}, which is not ready",
                reservation.task
            ));
        }
        Ok(())
    }
}
