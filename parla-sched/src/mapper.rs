//! The mapper: ready tasks in, decisions out.
//!
//! Pure: no lock, no clock. The runtime tells it what happens to tasks that have a [`Placing`]; it keeps the accounts (places, memory, compute
//! units of every device), asks the [policy](SchedulingPolicy) and checks what that answers. A task goes through
//!
//! ```text
//! spawned --ready--> pushed --assign--> placed --staged--> waiting --take_runnable--> running --drains--> draining --ended--> (gone)
//!                                         ^                                              |
//!                                         +--take_returning-- returning <--ready-- suspended
//! ```
//!
//! A running task whose body has returned while its devices are still at work *drains*: it gives its units back, so that the next body can put its
//! work behind and the device need not wait for a thread between the two. One task of each device does so at a time.
//!
//! | | holds |
//! |---|---|
//! | placed to draining | the memory it claims, on all its devices or on none |
//! | placed, waiting | a place on each exclusive device (a GPU): `depth` of them stage data ahead of those that run |
//! | placed to running | a place on each shared device (a CPU): `n_workers + depth` of them |
//! | running | the compute units it claims of exclusive devices, of all at once or of none |
//! | suspended, returning | nothing: what it held, those may need that it waits for |
//!
//! Claims on shared devices are not in these accounts: the runtime's admission has them. A task that comes back after it was suspended has
//! no place: otherwise parents that wait for their children could fill the places that these need. It comes back as it came the first time: memory, then
//! its data, then compute units. What it claims of a device's memory goes to it before anybody else is placed there.
//!
//! **Nobody starves.** A ready task that is first in order of service (priority, then first come) and was passed over [`PATIENCE`] times gets
//! a reservation: the devices of one of its choices take nobody behind it any more, [`View::fits`](crate::policy::View::fits) is false for
//! those. So every policy that returns tasks that fit is free of starvation, big claims and tasks on several devices included. The reservation
//! ends when the task is placed, or when the policy does not take it though it fits. Compute units are granted by the same rule.
//!
//! **No deadlock.** What a task gets it gets on all its devices at once, so nobody holds a part while it waits for another. And everybody asks in
//! the same order: memory, room for data, compute units, a claim on the CPUs. Those who have all of them run; they end, or wait for others and hold nothing.
//!
//! **Cost.** An event costs `O(log n)` in the ready tasks and `O(1)` in all others, units are granted in the number of different wants among
//! the staged tasks (at most `depth` a device, and those that resume). A decision asks the policy at most once per device with a free
//! place; in a program with more ready tasks than places that is once, for the place that has just become free. What an answer costs
//! is the policy's: it is bounded by the window of [`locality`](crate::policy), not by the number of ready tasks.
//!
//! **Priorities.** They order the policy's choice and then again who gets compute units. A task of low priority can be in the way
//! of a higher one that became ready later only by what it was given already: its memory, and at most `depth` places a device.

use std::sync::Arc;

use parla_core::{Claim, DeviceId, MachineModel, TaskId};
use smallvec::SmallVec;

use crate::policy::{Note, SchedulingPolicy};
use crate::{Choice, Placing, PlacingError, Shortage};

mod state;
mod units;
mod view;

use state::State;
use view::{Desk, MapperView};

/// How many later tasks may be served before one that is first in turn.
pub(crate) const PATIENCE: u32 = 64;

/// What the mapper asks about data and time.
pub(crate) trait World {
    /// Nanoseconds since the runtime started.
    fn now(&self) -> u64;

    /// Whether a task uses any data.
    fn uses_data(&self, placing: &Placing) -> bool {
        !placing.operands.is_empty()
    }

    /// Bytes to be copied before a task could run on those devices.
    fn missing_bytes(&self, placing: &Placing, devices: &[DeviceId]) -> u64;

    /// Nanoseconds that those copies take on idle links.
    fn transfer_ns(&self, placing: &Placing, devices: &[DeviceId]) -> u64;

    /// Bytes of all that a task uses.
    fn bytes(&self, placing: &Placing) -> u64 {
        let bytes = |operand: &parla_data::Operand| {
            let elements = operand.region.n_elements() as u64;
            elements.saturating_mul(operand.array.item() as u64)
        };
        let all = placing.operands.iter().map(bytes);
        all.fold(0, u64::saturating_add)
    }

    /// Bytes of the memory of a device that are set aside for the program's own use: nobody can claim them.
    fn held(&self, _device: DeviceId) -> u64 {
        0
    }

    /// Whether the arrays of a task, with what it claims beside them, can ever be in the memories of one of its choices.
    fn has_room(&self, _placing: &Placing, _choice: &Choice) -> bool {
        true
    }
}

/// A decision that has been accounted for.
#[derive(Clone, Debug)]
pub(crate) struct Placed {
    /// The task.
    pub(crate) task: TaskId,
    /// Which of its choices.
    pub(crate) choice: usize,
    /// The devices of that choice.
    pub(crate) devices: SmallVec<[DeviceId; 1]>,
    /// Its claims; on exclusive devices those that state no `vcus` have become the whole device.
    pub(crate) claims: SmallVec<[Claim; 1]>,
    /// Which of the body's variants runs.
    pub(crate) variant: u32,
    /// What it asked for.
    pub(crate) placing: Arc<Placing>,
    /// Why, if the policy says.
    pub(crate) note: Option<Arc<Note>>,
}

/// A decision that cannot be carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PolicyFault {
    /// The policy's name.
    pub(crate) policy: String,
    /// The task that cannot be placed because of it: the mapper has forgotten it, the runtime is to fail it. `None` where no task
    /// is harmed: there is no such task, or it was placed before.
    pub(crate) task: Option<TaskId>,
    /// What the policy did: a verb and the rest.
    pub(crate) fault: String,
}

/// Ready tasks in, decisions out.
pub(crate) struct Mapper {
    policy: Box<dyn SchedulingPolicy>,
    state: State,
    /// What the policy sees beside the accounts.
    desk: Desk,
    /// Spawned, and the policy has not been told yet.
    fresh: Vec<TaskId>,
    /// Decisions that have not been handed out, because a fault came after them.
    decided: Vec<Placed>,
    /// Tasks that have their compute units and have not been handed out.
    runnable: Vec<(TaskId, i32)>,
    /// Tasks that have their memory again and have not been handed out.
    returning: Vec<TaskId>,
    /// Devices for which the policy returned something that is no task's fault; not asked again before something else happens.
    distrusted: Vec<bool>,
    /// The last [`assign`](Self::assign) had tasks to place and placed none, and nothing has happened since.
    took_nothing: bool,
    /// The last fault of the policy, for the message of a stall.
    last_fault: Option<PolicyFault>,
    /// Steps since the accounts were checked.
    unchecked: usize,
}

impl Mapper {
    /// A mapper without tasks. `depth`: see [`Placement::depth`](crate::Placement::depth).
    pub(crate) fn new(
        model: Arc<MachineModel>,
        policy: Box<dyn SchedulingPolicy>,
        depth: usize,
    ) -> Self {
        Self::seeded(model, policy, depth, 0)
    }

    /// The same with another sequence of random numbers for the policy.
    pub(crate) fn seeded(
        model: Arc<MachineModel>,
        policy: Box<dyn SchedulingPolicy>,
        depth: usize,
        seed: u64,
    ) -> Self {
        let n_devices = model.devices.len();
        Self {
            policy,
            desk: Desk::new(&model, seed),
            state: State::new(model, depth),
            fresh: Vec::new(),
            decided: Vec::new(),
            runnable: Vec::new(),
            returning: Vec::new(),
            distrusted: vec![false; n_devices],
            took_nothing: false,
            last_fault: None,
            unchecked: 0,
        }
    }

    /// Whether at least one choice can ever be served.
    ///
    /// # Errors
    /// What is wrong with the first choice, if all are impossible.
    pub(crate) fn check(&self, placing: &Placing, world: &dyn World) -> Result<(), PlacingError> {
        self.state.check(placing, world)
    }

    /// A task was spawned that passed [`check`](Self::check).
    pub(crate) fn spawned(&mut self, id: TaskId, placing: Arc<Placing>, priority: i32) {
        self.state.spawn(id, placing, priority);
        self.fresh.push(id);
        self.step();
    }

    /// A task is ready: for the first time, or again after it was [suspended](Self::suspended).
    pub(crate) fn ready(&mut self, id: TaskId, world: &dyn World) {
        self.happened(world);
        if self.state.push(id) {
            let view = MapperView::new(&self.state, &self.desk, world);
            self.policy.push(&view, id);
        } else {
            self.state.resume(id);
        }
        self.step();
    }

    /// The device where a task that is not ready yet is likely to go, if it is one; `coming`: tasks that come on top of the devices' load before.
    pub(crate) fn foresee(
        &self,
        id: TaskId,
        coming: &[(DeviceId, usize)],
        world: &dyn World,
    ) -> Option<DeviceId> {
        let view = MapperView::later(&self.state, &self.desk, world, coming);
        let choice = self.policy.foresee(&view, id)?;
        let placing = self.state.unplaced(id)?;
        match placing.choices.get(choice)?.devices[..] {
            [device] => Some(device),
            _ => None,
        }
    }

    /// Offers the free places of every device to the policy until nobody takes any; the device with the least load goes first.
    ///
    /// # Errors
    /// When the policy returns what cannot be done. Nothing is lost: decisions made before are returned by the next call, so call again.
    pub(crate) fn assign(&mut self, world: &dyn World) -> Result<Vec<Placed>, PolicyFault> {
        self.announce(world);
        // Those that begin to run make place for others to be staged.
        self.grant(world);
        let mut refused = self.distrusted.clone();
        while self.state.n_pushed() > 0 {
            let Some(device) = self.state.neediest(&refused) else {
                if self.state.end_idle_reservation(world) {
                    refused.clone_from(&self.distrusted);
                    continue;
                }
                break;
            };
            let view = MapperView::new(&self.state, &self.desk, world);
            let Some(assignment) = self.policy.pop(&view, device) else {
                self.desk.forget_notes();
                refused[device.0 as usize] = true;
                continue;
            };
            let note = self.desk.take_note(assignment.task).map(Arc::new);
            match self.state.place(assignment, device, note, world) {
                Ok(placed) => {
                    self.decided.push(placed);
                    refused.clone_from(&self.distrusted);
                }
                Err((task, fault)) => return Err(self.fault(device, task, fault, world)),
            }
        }
        self.took_nothing = self.decided.is_empty() && self.state.n_pushed() > 0;
        self.step();
        Ok(std::mem::take(&mut self.decided))
    }

    fn fault(
        &mut self,
        device: DeviceId,
        task: Option<TaskId>,
        fault: String,
        world: &dyn World,
    ) -> PolicyFault {
        match task {
            Some(task) => {
                self.state.remove(task);
                let view = MapperView::new(&self.state, &self.desk, world);
                self.policy.on_removed(&view, task);
            }
            None => self.distrusted[device.0 as usize] = true,
        }
        let fault = PolicyFault {
            policy: self.policy.name().to_owned(),
            task,
            fault,
        };
        self.last_fault = Some(fault.clone());
        self.step();
        fault
    }

    /// A placed task's data is there; it wants its compute units now.
    pub(crate) fn staged(&mut self, id: TaskId) {
        self.state.stage(id);
        self.step();
    }

    /// The tasks whose compute units have been granted since the last call, in order of priority and then arrival; they count as running.
    pub(crate) fn take_runnable(&mut self) -> Vec<(TaskId, i32)> {
        self.grant_units();
        self.step();
        std::mem::take(&mut self.runnable)
    }

    /// The tasks that have got their memory again since the last call: their data can be brought anew.
    pub(crate) fn take_returning(&mut self, world: &dyn World) -> Vec<TaskId> {
        self.grant(world);
        std::mem::take(&mut self.returning)
    }

    fn grant(&mut self, world: &dyn World) {
        let returning = self.state.grant_memory(world);
        if !returning.is_empty() {
            self.moved();
            self.returning.extend(returning);
        }
        self.grant_units();
    }

    fn grant_units(&mut self) {
        let granted = self.state.grant_units();
        if !granted.is_empty() {
            self.moved();
            self.runnable.extend(granted);
        }
    }

    /// The body of a running task is over, its devices are not done: its compute units are free, its memory is not.
    pub(crate) fn drains(&mut self, id: TaskId) {
        self.state.drain(id);
        self.moved();
        self.step();
    }

    /// A running task waits for others: all that it holds is free.
    pub(crate) fn suspended(&mut self, id: TaskId) {
        self.state.suspend(id);
        self.moved();
        self.step();
    }

    /// The body of a running task has returned and its devices are at work: another body may begin to give them more.
    pub(crate) fn returned(&mut self, id: TaskId) {
        self.state.returned(id);
        self.moved();
        self.step();
    }

    /// A task has ended well; `exec_ns`: how long it ran. What it cost is learned.
    pub(crate) fn ended(&mut self, id: TaskId, exec_ns: u64, world: &dyn World) {
        if let Some((placing, choice)) = self.state.ran_through(id)
            && let Some(kind) = &placing.kind
        {
            let choice = &placing.choices[choice];
            let bytes = world.bytes(&placing);
            let costs = &mut self.desk.costs;
            costs.learn(kind, choice.variant, &choice.devices, bytes, exec_ns);
        }
        self.over(id, exec_ns, world);
    }

    /// A task has failed after it ran for `exec_ns`, or without having run.
    pub(crate) fn failed(&mut self, id: TaskId, exec_ns: u64, world: &dyn World) {
        self.over(id, exec_ns, world);
    }

    fn over(&mut self, id: TaskId, exec_ns: u64, world: &dyn World) {
        self.happened(world);
        if let Some((devices, was_pushed)) = self.state.remove(id) {
            let view = MapperView::new(&self.state, &self.desk, world);
            if was_pushed {
                self.policy.on_removed(&view, id);
            } else {
                self.policy.on_done(&view, id, &devices, exec_ns);
            }
        }
        self.step();
    }

    /// A task will not run: it was cancelled before. Does nothing for tasks that it does not know (any more).
    pub(crate) fn removed(&mut self, id: TaskId, world: &dyn World) {
        self.happened(world);
        if self.state.remove(id).is_some() {
            self.runnable.retain(|&(granted, _)| granted != id);
            self.returning.retain(|&granted| granted != id);
            let view = MapperView::new(&self.state, &self.desk, world);
            self.policy.on_removed(&view, id);
        }
        self.step();
    }

    /// Whether one of the ready tasks can be served at all: what the program has set aside since may be too much.
    pub(crate) fn can_serve_any(&self, world: &dyn World) -> bool {
        self.state.can_serve_any(world)
    }

    /// Whether tasks are ready, no placed task is going on (those that are suspended wait for others), and the last
    /// [`assign`](Self::assign) took nothing, with nothing new since.
    pub(crate) fn is_stalled(&self) -> bool {
        self.took_nothing && self.state.n_active() == 0
    }

    /// Where a task that has not ended was placed, and why, if the policy said.
    pub(crate) fn placement(&self, id: TaskId) -> Option<(&[DeviceId], Option<&Note>)> {
        self.state.placement(id)
    }

    /// What is set aside for the program has changed.
    pub(crate) fn held_changed(&mut self, world: &dyn World) {
        self.happened(world);
        self.step();
    }

    /// What the policy did wrong last, if ever.
    pub(crate) fn last_fault(&self) -> Option<&PolicyFault> {
        self.last_fault.as_ref()
    }

    /// What stands between a task and its next stage, as far as it is a matter of these accounts.
    pub(crate) fn wants(&self, id: TaskId, world: &dyn World) -> Vec<Shortage> {
        self.state.wants(id, world)
    }

    /// Whether it was spawned here and has not ended.
    pub(crate) fn knows(&self, id: TaskId) -> bool {
        self.state.is_spawned(id)
    }

    /// The policy's name.
    pub(crate) fn policy(&self) -> &str {
        self.policy.name()
    }

    /// Number of tasks that are ready and not placed.
    pub(crate) fn ready_tasks(&self) -> usize {
        self.state.n_pushed()
    }

    /// Per device, how many tasks are placed there and have not ended.
    pub(crate) fn loads(&self) -> Vec<usize> {
        self.state.loads()
    }

    /// Per device, how many tasks have begun to run there.
    pub(crate) fn stats(&self) -> Vec<u64> {
        self.state.stats()
    }

    /// Whether the accounts agree with the tasks.
    ///
    /// # Errors
    /// The first disagreement.
    pub(crate) fn validate(&self) -> Result<(), String> {
        self.state.validate()
    }

    /// Something happened: places may be free, the policy may think otherwise.
    fn happened(&mut self, world: &dyn World) {
        self.announce(world);
        self.moved();
    }

    fn moved(&mut self) {
        self.took_nothing = false;
        self.distrusted.fill(false);
    }

    fn announce(&mut self, world: &dyn World) {
        if self.fresh.is_empty() {
            return;
        }
        let fresh = std::mem::take(&mut self.fresh);
        let view = MapperView::new(&self.state, &self.desk, world);
        for id in fresh {
            if self.state.is_spawned(id) {
                self.policy.on_spawn(&view, id);
            }
        }
    }

    /// In debug builds, checks the accounts: after every step while there are few tasks, else so often that it costs a constant per step.
    fn step(&mut self) {
        if cfg!(debug_assertions) {
            self.unchecked += 1;
            let n_tasks = self.state.n_tasks();
            if n_tasks < 64 || self.unchecked >= n_tasks {
                self.unchecked = 0;
                assert_eq!(self.validate(), Ok(()), "the mapper's accounts");
            }
        }
    }
}

#[cfg(test)]
mod tests;
