//! What a policy sees: the mapper's accounts, and the world's data and time.

use parla_core::{DeviceId, MachineModel, TaskId};

use super::World;
use super::state::State;
use crate::Placing;
use crate::policy::View;

pub(super) struct MapperView<'a> {
    state: &'a State,
    world: &'a dyn World,
    /// What is likely to come on top of the devices' load, if this is about tasks to come.
    coming: Option<&'a [(DeviceId, usize)]>,
}

impl<'a> MapperView<'a> {
    pub(super) fn new(state: &'a State, world: &'a dyn World) -> Self {
        Self {
            state,
            world,
            coming: None,
        }
    }

    /// Of a time when so many tasks more have come to the devices, and some have gone.
    pub(super) fn later(
        state: &'a State,
        world: &'a dyn World,
        coming: &'a [(DeviceId, usize)],
    ) -> Self {
        Self {
            state,
            world,
            coming: Some(coming),
        }
    }

    /// Asks the world about a choice of a task that is not placed; `otherwise` where there is no such.
    fn ask(
        &self,
        task: TaskId,
        choice: usize,
        question: impl FnOnce(&dyn World, &Placing, &[DeviceId]) -> u64,
    ) -> u64 {
        let placing = self.state.unplaced(task);
        placing
            .and_then(|placing| Some((placing, placing.choices.get(choice)?)))
            .map_or(0, |(placing, choice)| {
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
            None => self.state.fits(task, choice),
            Some(_) => self.state.could_fit(task, choice),
        }
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
}
