//! A program run through the mapper over virtual time: copies and bodies take their time and do nothing.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

use parla_core::{DeviceId, MachineModel, MemoryId, TaskId};
use rustc_hash::FxHashMap;
use smallvec::SmallVec;

use crate::mapper::{Mapper, Placed, World};
use crate::policy::SchedulingPolicy;
use crate::{Choice, Placing, Runahead};

/// Tasks and data, by number.
#[derive(Clone, Debug, Default)]
pub(crate) struct Program {
    /// Bytes of each datum; in the beginning all are in the host's memory.
    pub(crate) data: Vec<u64>,
    pub(crate) tasks: Vec<SimTask>,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct SimTask {
    pub(crate) choices: Vec<Choice>,
    pub(crate) priority: i32,
    /// Earlier tasks that must have ended.
    pub(crate) after: Vec<usize>,
    /// Data that have to be there.
    pub(crate) reads: Vec<usize>,
    /// Data that are nowhere else from then on.
    pub(crate) writes: Vec<usize>,
    /// How long the body takes if its first device is exclusive, and if it is not.
    pub(crate) exec_ns: (u64, u64),
    /// In the middle of its body it waits for so long.
    pub(crate) suspends_ns: Option<u64>,
    /// It is cancelled at that time, if it does not run by then.
    pub(crate) cancelled_at: Option<u64>,
}

/// What happened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// When each task began to run, which, and on which devices (`gpu:0+gpu:1`).
    pub(crate) started: Vec<(u64, usize, String)>,
    /// When the last task ended.
    pub(crate) end: u64,
    /// Bytes copied.
    pub(crate) moved: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Cancel(usize),
    Staged(usize),
    Again(usize),
    Suspend(usize),
    Resume(usize),
    End(usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Waiting,
    Ready,
    Placed,
    Running,
    Ended,
    Cancelled,
}

/// Where the data are.
struct Data<'a> {
    now: u64,
    machine: &'a MachineModel,
    sizes: &'a [u64],
    /// Per datum, a bit per memory that has it.
    holders: Vec<u64>,
    /// What each task reads; tasks are known by where their placing is.
    reads: FxHashMap<*const Placing, &'a [usize]>,
}

impl Data<'_> {
    /// The copies before a task could run: which datum, to which memory, how long.
    fn copies(&self, placing: &Placing, devices: &[DeviceId]) -> Vec<(usize, MemoryId, u64)> {
        let reads = self.reads.get(&std::ptr::from_ref(placing));
        let mut copies = Vec::new();
        for (slot, &datum) in reads.copied().unwrap_or_default().iter().enumerate() {
            let to = self.machine.memory_of(devices[slot % devices.len()]);
            let has = |memory: u32| self.holders[datum] & (1 << memory) != 0;
            if has(to.0) {
                continue;
            }
            let n_memories = u32::try_from(self.machine.memories.len()).unwrap_or(0);
            let time = (0..n_memories)
                .filter(|&from| has(from))
                .map(|from| self.machine.link(MemoryId(from), to))
                .map(|link| link.transfer_ns(self.sizes[datum]))
                .min();
            copies.push((datum, to, time.unwrap_or(0)));
        }
        copies
    }
}

impl World for Data<'_> {
    fn now(&self) -> u64 {
        self.now
    }

    fn uses_data(&self, placing: &Placing) -> bool {
        let reads = self.reads.get(&std::ptr::from_ref(placing));
        reads.is_some_and(|reads| !reads.is_empty())
    }

    fn missing_bytes(&self, placing: &Placing, devices: &[DeviceId]) -> u64 {
        let copies = self.copies(placing, devices);
        copies.iter().map(|&(datum, ..)| self.sizes[datum]).sum()
    }

    fn transfer_ns(&self, placing: &Placing, devices: &[DeviceId]) -> u64 {
        let copies = self.copies(placing, devices);
        copies.iter().map(|&(.., time)| time).sum()
    }
}

struct Simulation<'a> {
    program: &'a Program,
    mapper: Mapper,
    data: Data<'a>,
    placings: Vec<Arc<Placing>>,
    fates: Vec<Fate>,
    devices: Vec<SmallVec<[DeviceId; 1]>>,
    /// Tasks that were started and have slept.
    slept: Vec<bool>,
    n_open: Vec<usize>,
    successors: Vec<Vec<usize>>,
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    n_events: u64,
    outcome: Outcome,
}

/// Runs a program.
///
/// # Errors
/// What the policy did wrong, in words.
pub(crate) fn simulate(
    machine: &Arc<MachineModel>,
    program: &Program,
    policy: Box<dyn SchedulingPolicy>,
    depth: usize,
    seed: u64,
) -> Result<Outcome, String> {
    let placing = |task: &SimTask| {
        Arc::new(Placing {
            choices: task.choices.clone(),
            operands: Arc::new([]),
            runahead: Runahead::default(),
            // Bodies that take the same time are of a kind.
            kind: Some(format!("{:?}", task.exec_ns).into()),
        })
    };
    let placings: Vec<_> = program.tasks.iter().map(placing).collect();
    let reads = placings.iter().zip(&program.tasks);
    let n_tasks = program.tasks.len();
    let mut simulation = Simulation {
        data: Data {
            now: 0,
            machine,
            sizes: &program.data,
            holders: vec![1; program.data.len()],
            reads: reads
                .map(|(placing, task)| (Arc::as_ptr(placing), task.reads.as_slice()))
                .collect(),
        },
        program,
        mapper: Mapper::seeded(Arc::clone(machine), policy, depth, seed),
        placings,
        fates: vec![Fate::Waiting; n_tasks],
        devices: vec![SmallVec::new(); n_tasks],
        slept: vec![false; n_tasks],
        n_open: vec![0; n_tasks],
        successors: vec![Vec::new(); n_tasks],
        events: BinaryHeap::new(),
        n_events: 0,
        outcome: Outcome::default(),
    };
    simulation.spawn_all()?;
    while let Some(Reverse((now, _, event))) = simulation.events.pop() {
        simulation.data.now = now;
        simulation.happens(event);
        simulation.pump()?;
    }
    simulation.finish()
}

fn id(number: usize) -> TaskId {
    TaskId::from_u64(number as u64)
}

fn number(id: TaskId) -> usize {
    usize::try_from(id.as_u64()).unwrap_or(usize::MAX)
}

impl Simulation<'_> {
    fn spawn_all(&mut self) -> Result<(), String> {
        for (number, task) in self.program.tasks.iter().enumerate() {
            let placing = Arc::clone(&self.placings[number]);
            let checked = self.mapper.check(&placing, &self.data);
            checked.map_err(|error| format!("task {number} of the program: {error}"))?;
            self.mapper.spawned(id(number), placing, task.priority);
            if let Some(time) = task.cancelled_at {
                self.at(time, Event::Cancel(number));
            }
            self.n_open[number] = task.after.len();
            for &before in &task.after {
                self.successors[before].push(number);
            }
            if task.after.is_empty() {
                self.ready(number);
            }
        }
        self.pump()
    }

    fn at(&mut self, time: u64, event: Event) {
        self.n_events += 1;
        self.events.push(Reverse((time, self.n_events, event)));
    }

    fn after(&mut self, duration: u64, event: Event) {
        self.at(self.data.now + duration, event);
    }

    fn ready(&mut self, number: usize) {
        if self.fates[number] == Fate::Waiting {
            self.fates[number] = Fate::Ready;
            self.mapper.ready(id(number), &self.data);
        }
    }

    fn happens(&mut self, event: Event) {
        match event {
            Event::Cancel(number) => {
                if matches!(
                    self.fates[number],
                    Fate::Waiting | Fate::Ready | Fate::Placed
                ) {
                    self.fates[number] = Fate::Cancelled;
                    self.mapper.removed(id(number), &self.data);
                    self.release(number);
                }
            }
            Event::Staged(number) => {
                let copies = (self.data).copies(&self.placings[number], &self.devices[number]);
                for (datum, to, _) in copies {
                    self.data.holders[datum] |= 1 << to.0;
                    self.outcome.moved += self.program.data[datum];
                }
                self.mapper.staged(id(number));
            }
            Event::Again(number) => self.mapper.staged(id(number)),
            Event::Suspend(number) => {
                self.mapper.suspended(id(number));
                let pause = self.program.tasks[number].suspends_ns.unwrap_or(0);
                self.after(pause, Event::Resume(number));
            }
            Event::Resume(number) => self.mapper.ready(id(number), &self.data),
            Event::End(number) => {
                self.fates[number] = Fate::Ended;
                self.outcome.end = self.outcome.end.max(self.data.now);
                let exec_ns = self.exec_ns(number);
                self.mapper.ended(id(number), exec_ns, &self.data);
                self.release(number);
            }
        }
    }

    /// A task is over: those that waited for nothing else are ready.
    fn release(&mut self, number: usize) {
        for successor in std::mem::take(&mut self.successors[number]) {
            self.n_open[successor] -= 1;
            if self.n_open[successor] == 0 {
                self.ready(successor);
            }
        }
    }

    fn exec_ns(&self, number: usize) -> u64 {
        let (exclusive, shared) = self.program.tasks[number].exec_ns;
        let first = self.devices[number].first();
        let model = first.map(|&device| self.data.machine.device(device));
        if model.is_some_and(|model| model.exclusive) {
            exclusive
        } else {
            shared
        }
    }

    /// Carries out what the mapper decides.
    fn pump(&mut self) -> Result<(), String> {
        let placed = self.mapper.assign(&self.data);
        for placed in placed.map_err(|fault| fault.fault)? {
            self.stage(placed)?;
        }
        for task in self.mapper.take_returning(&self.data) {
            self.after(0, Event::Again(number(task)));
        }
        for (task, _) in self.mapper.take_runnable() {
            self.start(number(task))?;
        }
        Ok(())
    }

    fn stage(&mut self, placed: Placed) -> Result<(), String> {
        let task = number(placed.task);
        if self.fates[task] != Fate::Ready {
            return Err(format!(
                "placed task {task}, which was {:?}",
                self.fates[task]
            ));
        }
        let choice = &self.program.tasks[task].choices[placed.choice];
        if choice.devices != placed.devices || choice.variant != placed.variant {
            return Err(format!("task {task} is not where its choice is"));
        }
        self.fates[task] = Fate::Placed;
        let time = self.data.transfer_ns(&placed.placing, &placed.devices);
        self.devices[task] = placed.devices;
        self.after(time, Event::Staged(task));
        Ok(())
    }

    fn start(&mut self, number: usize) -> Result<(), String> {
        let time = self.exec_ns(number);
        match self.fates[number] {
            // Back from its pause.
            Fate::Running => {
                self.after(time - time / 2, Event::End(number));
                return Ok(());
            }
            Fate::Placed => {}
            fate => return Err(format!("task {number} runs, which was {fate:?}")),
        }
        self.fates[number] = Fate::Running;
        let devices = &self.devices[number];
        let name = |device: &DeviceId| self.data.machine.device(*device).name.as_str();
        let names = devices.iter().map(name).collect::<Vec<_>>().join("+");
        self.outcome.started.push((self.data.now, number, names));
        let task = &self.program.tasks[number];
        for (slot, &datum) in task.writes.iter().enumerate() {
            let memory = self.data.machine.memory_of(devices[slot % devices.len()]);
            self.data.holders[datum] = 1 << memory.0;
        }
        if task.suspends_ns.is_some() && !self.slept[number] {
            self.slept[number] = true;
            self.after(time / 2, Event::Suspend(number));
        } else {
            self.after(time, Event::End(number));
        }
        Ok(())
    }

    /// Nothing happens any more: is everything done?
    fn finish(self) -> Result<Outcome, String> {
        self.mapper.validate()?;
        let is_open = |fate: &Fate| !matches!(fate, Fate::Ended | Fate::Cancelled);
        let open: Vec<_> = (self.fates.iter().enumerate())
            .filter(|(_, fate)| is_open(fate))
            .collect();
        if let Some((number, fate)) = open.first() {
            let n_ready = self.mapper.ready_tasks();
            let stalled = if self.mapper.is_stalled() {
                "stalled: every device is free, and it takes none"
            } else {
                "nothing happens any more"
            };
            let fault = self.mapper.last_fault();
            let fault = fault.map_or_else(String::new, |fault| format!(" (it {})", fault.fault));
            return Err(format!(
                "{stalled} of {n_ready} ready tasks; {} are not done, task {number} is {fate:?}{fault}",
                open.len()
            ));
        }
        if self.mapper.loads().iter().any(|&load| load > 0) {
            return Err(format!("tasks are left: {:?}", self.mapper.loads()));
        }
        let n_devices = |(number, fate): (usize, &Fate)| match fate {
            Fate::Ended => self.devices[number].len() as u64,
            _ => 0,
        };
        let n_run: u64 = self.fates.iter().enumerate().map(n_devices).sum();
        let counted: u64 = self.mapper.stats().iter().sum();
        if n_run != counted {
            return Err(format!("{n_run} tasks ran, {counted} were counted"));
        }
        Ok(self.outcome)
    }
}
