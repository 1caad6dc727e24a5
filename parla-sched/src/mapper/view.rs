//! What a policy sees: the mapper's accounts, and the world's data and time.

use std::cell::RefCell;

use parla_core::{DeviceId, MachineModel, TaskId};

use super::World;
use super::state::State;
use crate::cost::CostModel;
use crate::policy::seeded::Seeded;
use crate::policy::{Note, View};
use crate::{Choice, Placing};

/// What a policy may use and change without deciding anything.
#[derive(Debug)]
pub(super) struct Desk {
    pub(super) costs: CostModel,
    numbers: RefCell<Seeded>,
    /// Of the tasks that the last `pop` spoke of.
    notes: RefCell<Vec<(TaskId, Note)>>,
}

impl Desk {
    pub(super) fn new(machine: &MachineModel, seed: u64) -> Self {
        Self {
            costs: CostModel::new(machine),
            numbers: RefCell::new(Seeded::new(seed)),
            notes: RefCell::default(),
        }
    }

    /// It took nothing after all.
    pub(super) fn forget_notes(&mut self) {
        self.notes.get_mut().clear();
    }

    /// What the policy noted of a task last; forgets all others.
    pub(super) fn take_note(&mut self, task: TaskId) -> Option<Note> {
        let notes = self.notes.get_mut();
        let found = notes.iter().rposition(|(noted, _)| *noted == task);
        let note = found.map(|at| notes.swap_remove(at).1);
        notes.clear();
        note
    }
}

pub(super) struct MapperView<'a> {
    state: &'a State,
    desk: &'a Desk,
    world: &'a dyn World,
    /// What is likely to come on top of the devices' load, if this is about tasks to come.
    coming: Option<&'a [(DeviceId, usize)]>,
}

impl<'a> MapperView<'a> {
    pub(super) fn new(state: &'a State, desk: &'a Desk, world: &'a dyn World) -> Self {
        Self {
            state,
            desk,
            world,
            coming: None,
        }
    }

    /// Of a time when so many tasks more have come to the devices, and some have gone.
    pub(super) fn later(
        state: &'a State,
        desk: &'a Desk,
        world: &'a dyn World,
        coming: &'a [(DeviceId, usize)],
    ) -> Self {
        Self {
            state,
            desk,
            world,
            coming: Some(coming),
        }
    }

    fn choice(&self, task: TaskId, choice: usize) -> Option<(&Placing, &Choice)> {
        let placing = self.state.unplaced(task)?;
        Some((placing, placing.choices.get(choice)?))
    }

    /// Asks the world about a choice of a task that is not placed; `otherwise` where there is no such.
    fn ask(
        &self,
        task: TaskId,
        choice: usize,
        question: impl FnOnce(&dyn World, &Placing, &[DeviceId]) -> u64,
    ) -> u64 {
        self.choice(task, choice).map_or(0, |(placing, choice)| {
            question(self.world, placing, &choice.devices)
        })
    }
}

impl View for MapperView<'_> {
    fn now(&self) -> u64 {
        self.world.now()
    }

    fn machine(&self) -> &MachineModel {
        self.state.machine()
    }

    fn task(&self, task: TaskId) -> Option<&Placing> {
        self.state.unplaced(task)
    }

    fn priority(&self, task: TaskId) -> i32 {
        self.state.priority(task)
    }

    fn load(&self, device: DeviceId) -> usize {
        let coming = self.coming.unwrap_or_default().iter();
        let here = coming.filter(|(coming, _)| *coming == device);
        self.state.load(device) + here.map(|(_, n)| n).sum::<usize>()
    }

    fn fits(&self, task: TaskId, choice: usize) -> bool {
        match self.coming {
            None => self.state.fits(task, choice, self.world),
            Some(_) => self.state.could_fit(task, choice, self.world),
        }
    }

    fn fits_later(&self, task: TaskId, choice: usize) -> bool {
        self.state.fits_later(task, choice, self.world)
    }

    fn uses_data(&self, task: TaskId) -> bool {
        let placing = self.state.unplaced(task);
        placing.is_some_and(|placing| self.world.uses_data(placing))
    }

    fn missing_bytes(&self, task: TaskId, choice: usize) -> u64 {
        self.ask(task, choice, |world, placing, devices| {
            world.missing_bytes(placing, devices)
        })
    }

    fn transfer_ns(&self, task: TaskId, choice: usize) -> u64 {
        self.ask(task, choice, |world, placing, devices| {
            world.transfer_ns(placing, devices)
        })
    }

    fn exec_ns(&self, task: TaskId, choice: usize) -> Option<u64> {
        let (placing, choice) = self.choice(task, choice)?;
        let kind = placing.kind.as_deref()?;
        let bytes = self.world.bytes(placing);
        let costs = &self.desk.costs;
        let estimate = costs.estimate(kind, choice.variant, &choice.devices, bytes)?;
        Some(estimate.mean_ns)
    }

    fn random(&self, n: usize) -> usize {
        self.desk.numbers.borrow_mut().below(n)
    }

    fn note(&self, task: TaskId, note: Note) {
        self.desk.notes.borrow_mut().push((task, note));
    }
}
