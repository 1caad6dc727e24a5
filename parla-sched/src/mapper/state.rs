//! The mapper's accounts: where each task is, and what is left of each device.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use parla_core::{Claim, DeviceId, Ledger, MachineModel, TaskId, Vcus};
use rustc_hash::FxHashMap;
use smallvec::SmallVec;

use super::World;
use super::units::{Needs, Units, UnitsTurn, units};
use crate::policy::Note;
use crate::{Choice, Placing};

mod choose;
mod grants;
mod validate;
mod wants;

use choose::Reservation;

/// So many tasks of a device drain without units: one keeps it busy while the next body puts its work behind.
const DRAINING: usize = 1;

/// Order of service of ready tasks: higher priority first, then first come.
type Turn = (Reverse<i32>, u64);

/// Where a task is.
#[derive(Clone, Copy, Debug)]
enum Stage {
    /// Not ready.
    Spawned,
    /// The policy has it; it has been passed over so often while it was the first in turn.
    Pushed { turn: Turn, passed_over: u32 },
    /// Its data is on the way; for the first time, or again after it waited for others.
    Placed { choice: usize, resumed: bool },
    /// It wants its compute units.
    Waiting {
        choice: usize,
        turn: UnitsTurn,
        resumed: bool,
    },
    /// It has them.
    Running { choice: usize },
    /// Its body is over and its devices are still at work: they may be computing, but not for long, and in its memory.
    Draining { choice: usize },
    /// It gave back all that it held and waits for others.
    Suspended { choice: usize },
    /// It no longer waits for others, and wants its memory again.
    Returning { choice: usize, turn: Turn },
}

impl Stage {
    fn choice(self) -> Option<usize> {
        match self {
            Self::Spawned | Self::Pushed { .. } => None,
            Self::Placed { choice, .. }
            | Self::Waiting { choice, .. }
            | Self::Running { choice }
            | Self::Draining { choice }
            | Self::Suspended { choice }
            | Self::Returning { choice, .. } => Some(choice),
        }
    }

    /// Whether a task at this stage holds the memory that it claims.
    fn holds_memory(self) -> bool {
        match self {
            Self::Placed { .. } | Self::Waiting { .. } => true,
            Self::Running { .. } | Self::Draining { .. } => true,
            Self::Spawned | Self::Pushed { .. } => false,
            Self::Suspended { .. } | Self::Returning { .. } => false,
        }
    }

    /// Whether a task at this stage takes one of the places of its devices.
    fn has_place(self, exclusive: bool) -> bool {
        match self {
            Self::Placed { resumed: false, .. } | Self::Waiting { resumed: false, .. } => true,
            Self::Placed { .. } | Self::Waiting { .. } | Self::Running { .. } => !exclusive,
            Self::Spawned | Self::Pushed { .. } | Self::Draining { .. } => false,
            Self::Suspended { .. } | Self::Returning { .. } => false,
        }
    }

    /// Whether a task at this stage is placed and goes on without help.
    fn is_active(self) -> bool {
        self.choice().is_some() && !matches!(self, Self::Suspended { .. })
    }
}

#[derive(Debug)]
struct Entry {
    placing: Arc<Placing>,
    priority: i32,
    stage: Stage,
    /// It has waited for others in the middle of its body, so how long it took says nothing.
    waited: bool,
    /// Why the policy placed it where it is.
    note: Option<Arc<Note>>,
}

/// What is taken of one device, but for memory and units, which are in its ledger.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Occupancy {
    /// Tasks with a place.
    places: usize,
    /// Tasks placed and not ended.
    load: usize,
    /// Those of them that are not suspended.
    active: usize,
    /// Those that drain without units.
    draining: usize,
}

#[derive(Debug)]
struct DeviceAccount {
    /// More are not placed here; those that resume may go beyond on shared devices.
    n_places: usize,
    now: Occupancy,
    /// Tasks that have begun to run here.
    n_tasks: u64,
    /// When it was last given a task, in decisions.
    last_given: u64,
}

#[derive(Debug)]
pub(super) struct State {
    machine: Arc<MachineModel>,
    tasks: FxHashMap<TaskId, Entry>,
    /// Tasks that the policy has, in order of service.
    pushed: BTreeMap<Turn, TaskId>,
    devices: Vec<DeviceAccount>,
    /// Memory and compute units of each device; nothing is ever taken from those of shared devices.
    ledgers: Vec<Ledger>,
    units: Units,
    /// Running tasks whose bodies have returned, in that order: they drain as soon as their devices let them.
    returned: Vec<TaskId>,
    /// Tasks that want their memory again, in order of service.
    returning: BTreeMap<Turn, TaskId>,
    /// By device: its memory is for one of them that does not fit yet.
    awaited: Vec<bool>,
    reservation: Option<Reservation>,
    arrivals: u64,
    decisions: u64,
}

impl State {
    pub(super) fn new(machine: Arc<MachineModel>, depth: usize) -> Self {
        let depth = depth.max(1);
        let account = |device: &parla_core::DeviceModel| DeviceAccount {
            n_places: if device.exclusive {
                depth
            } else {
                depth.saturating_add(device.n_workers as usize)
            },
            now: Occupancy::default(),
            n_tasks: 0,
            last_given: 0,
        };
        let ledger = |device: &parla_core::DeviceModel| {
            Ledger::new(Claim {
                vcus: Vcus::WHOLE,
                memory: machine.memories[device.memory.0 as usize].capacity,
            })
        };
        Self {
            devices: machine.devices.iter().map(account).collect(),
            ledgers: machine.devices.iter().map(ledger).collect(),
            tasks: FxHashMap::default(),
            pushed: BTreeMap::new(),
            units: Units::default(),
            returned: Vec::new(),
            returning: BTreeMap::new(),
            awaited: vec![false; machine.devices.len()],
            reservation: None,
            arrivals: 0,
            decisions: 0,
            machine,
        }
    }

    pub(super) fn machine(&self) -> &MachineModel {
        &self.machine
    }

    pub(super) fn n_tasks(&self) -> usize {
        self.tasks.len()
    }

    pub(super) fn n_pushed(&self) -> usize {
        self.pushed.len()
    }

    /// Number of placed tasks that go on without help; one on two devices counts twice.
    pub(super) fn n_active(&self) -> usize {
        self.devices.iter().map(|device| device.now.active).sum()
    }

    pub(super) fn load(&self, device: DeviceId) -> usize {
        self.devices
            .get(device.0 as usize)
            .map_or(0, |device| device.now.load)
    }

    pub(super) fn loads(&self) -> Vec<usize> {
        self.devices.iter().map(|device| device.now.load).collect()
    }

    pub(super) fn stats(&self) -> Vec<u64> {
        self.devices.iter().map(|device| device.n_tasks).collect()
    }

    pub(super) fn is_spawned(&self, id: TaskId) -> bool {
        self.tasks.contains_key(&id)
    }

    /// What a task that has no devices yet asks for.
    pub(super) fn unplaced(&self, id: TaskId) -> Option<&Placing> {
        let entry = self.tasks.get(&id)?;
        entry
            .stage
            .choice()
            .is_none()
            .then_some(entry.placing.as_ref())
    }

    pub(super) fn priority(&self, id: TaskId) -> i32 {
        self.tasks.get(&id).map_or(0, |entry| entry.priority)
    }

    pub(super) fn spawn(&mut self, id: TaskId, placing: Arc<Placing>, priority: i32) {
        let entry = Entry {
            placing,
            priority,
            stage: Stage::Spawned,
            waited: false,
            note: None,
        };
        let before = self.tasks.insert(id, entry);
        debug_assert!(before.is_none(), "{id} was spawned before");
    }

    /// Whether it was not ready before, and is now.
    pub(super) fn push(&mut self, id: TaskId) -> bool {
        let Some(entry) = self.tasks.get_mut(&id) else {
            return false;
        };
        if !matches!(entry.stage, Stage::Spawned) {
            return false;
        }
        let turn = (Reverse(entry.priority), self.arrivals);
        self.arrivals += 1;
        entry.stage = Stage::Pushed {
            turn,
            passed_over: 0,
        };
        self.pushed.insert(turn, id);
        true
    }

    /// A placed task whose body never waited for others, and by which of its choices it was placed.
    pub(super) fn ran_through(&self, id: TaskId) -> Option<(Arc<Placing>, usize)> {
        let entry = self.tasks.get(&id).filter(|entry| !entry.waited)?;
        Some((Arc::clone(&entry.placing), entry.stage.choice()?))
    }

    pub(super) fn placement(&self, id: TaskId) -> Option<(&[DeviceId], Option<&Note>)> {
        let entry = self.tasks.get(&id)?;
        let choice = &entry.placing.choices[entry.stage.choice()?];
        Some((&choice.devices, entry.note.as_deref()))
    }

    /// Forgets a task and gives back all it holds. Returns the devices where it was placed, and whether the policy has it.
    pub(super) fn remove(&mut self, id: TaskId) -> Option<(SmallVec<[DeviceId; 1]>, bool)> {
        let stage = self.tasks.get(&id)?.stage;
        match stage {
            Stage::Pushed { turn, .. } => {
                self.pushed.remove(&turn);
            }
            Stage::Waiting { choice, turn, .. } => {
                let needs = self.needs(id, choice);
                self.units.remove(turn, &needs);
            }
            Stage::Returning { turn, .. } => {
                self.returning.remove(&turn);
            }
            Stage::Running { choice } => self.release_units(id, choice),
            Stage::Spawned | Stage::Placed { .. } => {}
            Stage::Draining { .. } | Stage::Suspended { .. } => {}
        }
        if let Some(choice) = stage.choice()
            && stage.holds_memory()
        {
            self.release_memory(id, choice);
        }
        self.returned.retain(|returned| *returned != id);
        if self.reservation.as_ref().is_some_and(|r| r.task == id) {
            self.reservation = None;
        }
        self.set_stage(id, Stage::Spawned);
        let entry = self.tasks.remove(&id)?;
        let Some(choice) = stage.choice() else {
            return Some((SmallVec::new(), true));
        };
        Some((entry.placing.choices[choice].devices.clone(), false))
    }

    fn release_memory(&mut self, id: TaskId, choice: usize) {
        let Some(entry) = self.tasks.get(&id) else {
            return;
        };
        for (device, claim) in self.memory_of(&entry.placing.choices[choice]) {
            self.ledgers[device.0 as usize].release(&claim);
        }
    }

    /// What a choice claims of the memories that are accounted for here.
    fn memory_of(&self, choice: &Choice) -> SmallVec<[(DeviceId, Claim); 1]> {
        let pairs = choice.devices.iter().zip(&choice.claims);
        pairs
            .map(|(&device, claim)| (device, self.memory(device, claim)))
            .collect()
    }

    fn release_units(&mut self, id: TaskId, choice: usize) {
        for (device, vcus) in self.needs(id, choice) {
            self.ledgers[device.0 as usize].release(&units(vcus));
        }
    }

    /// Moves a task to another stage, and its places with it; memory and units are the caller's.
    fn set_stage(&mut self, id: TaskId, to: Stage) {
        let Some(entry) = self.tasks.get_mut(&id) else {
            return;
        };
        let from = std::mem::replace(&mut entry.stage, to);
        for (stage, is_new) in [(from, false), (to, true)] {
            let Some(choice) = stage.choice() else {
                continue;
            };
            for &device in &entry.placing.choices[choice].devices {
                let exclusive = self.machine.device(device).exclusive;
                let now = &mut self.devices[device.0 as usize].now;
                now.count(stage, exclusive, is_new);
            }
        }
    }

    fn needs(&self, id: TaskId, choice: usize) -> Needs {
        let Some(entry) = self.tasks.get(&id) else {
            return Needs::new();
        };
        let choice = &entry.placing.choices[choice];
        (choice.devices.iter().zip(&choice.claims))
            .filter(|(device, _)| self.machine.device(**device).exclusive)
            .map(|(&device, claim)| (device, self.effective(device, claim).vcus))
            .collect()
    }

    /// What a claim comes to: on an exclusive device no stated units are all of them.
    fn effective(&self, device: DeviceId, claim: &Claim) -> Claim {
        let whole = self.machine.device(device).exclusive && claim.vcus == Vcus(0);
        Claim {
            vcus: if whole { Vcus::WHOLE } else { claim.vcus },
            memory: claim.memory,
        }
    }

    /// The memory of a claim that is accounted for here.
    fn memory(&self, device: DeviceId, claim: &Claim) -> Claim {
        let exclusive = self.machine.device(device).exclusive;
        Claim {
            vcus: Vcus(0),
            memory: if exclusive { claim.memory } else { 0 },
        }
    }
}

impl Occupancy {
    /// Adds a task at that stage, or takes it out.
    fn count(&mut self, stage: Stage, exclusive: bool, is_new: bool) {
        let step = |count: &mut usize, counts: bool| match (counts, is_new) {
            (false, _) => {}
            (true, true) => *count += 1,
            (true, false) => *count -= 1,
        };
        step(&mut self.places, stage.has_place(exclusive));
        step(&mut self.load, stage.choice().is_some());
        step(&mut self.active, stage.is_active());
        step(
            &mut self.draining,
            exclusive && matches!(stage, Stage::Draining { .. }),
        );
    }
}
