//! What a policy sees: the mapper's accounts, and the world's data and time.

use parla_core::{DeviceId, MachineModel, TaskId};

use super::World;
use super::state::State;
use crate::Placing;
use crate::policy::View;

pub(super) struct MapperView<'a> {
    state: &'a State,
    world: &'a dyn World,
}

impl<'a> MapperView<'a> {
    pub(super) fn new(state: &'a State, world: &'a dyn World) -> Self {
        Self { state, world }
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
        self.state.load(device)
    }

    fn fits(&self, task: TaskId, choice: usize) -> bool {
        self.state.fits(task, choice)
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
