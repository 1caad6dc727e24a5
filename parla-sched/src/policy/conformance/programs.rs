//! Machines and programs to try policies on.

use std::fmt;

use parla_core::{Claim, DeviceId, DeviceModel, Link, MachineModel, MemoryId, MemoryModel, Vcus};

use super::simulate::{Program, SimTask};
use crate::Choice;
use crate::policy::seeded::Seeded;

/// CPU devices with so many workers each, and GPUs with so many bytes each.
pub(crate) fn machine(cpus: &[u32], gpus: &[u64]) -> MachineModel {
    let mut model = MachineModel::default();
    let memory = |name: &str, capacity| MemoryModel {
        name: name.into(),
        capacity,
    };
    model.memories.push(memory("host", 1 << 40));
    for (index, &n_workers) in (0..).zip(cpus) {
        model.devices.push(DeviceModel {
            architecture: "cpu".into(),
            index,
            name: format!("cpu:{index}"),
            memory: MachineModel::HOST,
            n_workers,
            exclusive: false,
        });
    }
    for (index, &capacity) in (0..).zip(gpus) {
        let name = format!("gpu:{index}");
        model.memories.push(memory(&name, capacity));
        model.devices.push(DeviceModel {
            architecture: "gpu".into(),
            index,
            name,
            memory: MemoryId(index + 1),
            n_workers: 1,
            exclusive: true,
        });
    }
    let n = model.memories.len();
    let link = |from: usize, to: usize| Link {
        latency_ns: if from == to { 1_000 } else { 10_000 },
        bytes_per_second: if from == to { 4e11 } else { 1e10 },
        direct: from == 0 || to == 0,
    };
    model.links = (0..n)
        .map(|from| (0..n).map(|to| link(from, to)).collect())
        .collect();
    model
}

/// A choice: the same claim on all its devices.
pub(crate) fn on(devices: &[u32], vcus: u32, memory: u64) -> Choice {
    let claim = Claim {
        vcus: Vcus(vcus),
        memory,
    };
    Choice {
        devices: devices.iter().copied().map(DeviceId).collect(),
        claims: devices.iter().map(|_| claim).collect(),
        variant: 0,
    }
}

const GPU_BYTES: u64 = 1_000_000;

pub(super) fn random_machine(numbers: &mut Seeded) -> MachineModel {
    let cpus: Vec<_> = (0..1 + numbers.below(2))
        .map(|_| 1 + u32::try_from(numbers.below(4)).unwrap_or(0))
        .collect();
    let gpus = vec![GPU_BYTES; numbers.below(5)];
    machine(&cpus, &gpus)
}

fn random_choice(numbers: &mut Seeded, machine: &MachineModel) -> Choice {
    let n_devices = machine.devices.len();
    let n_cpus = machine.devices.iter().filter(|d| !d.exclusive).count();
    let mut devices = vec![numbers.below(n_devices)];
    if n_devices > n_cpus && !numbers.once_in(3) {
        devices = vec![n_cpus + numbers.below(n_devices - n_cpus)];
    }
    if numbers.once_in(4) {
        let other = numbers.below(n_devices);
        if other != devices[0] {
            devices.push(other);
        }
    }
    let number = |device: usize| u32::try_from(device).unwrap_or(0);
    let devices: Vec<_> = devices.into_iter().map(number).collect();
    let vcus = match numbers.below(3) {
        0 => 0,
        1 => 1000,
        _ => 1 + number(numbers.below(1000)),
    };
    let memory = match numbers.below(4) {
        0 => GPU_BYTES,
        1 => 1 + numbers.next() % GPU_BYTES,
        _ => 0,
    };
    on(&devices, vcus, memory)
}

pub(super) fn random_program(numbers: &mut Seeded, machine: &MachineModel) -> Program {
    let n_data = 1 + numbers.below(12);
    let n_tasks = 1 + numbers.below(60);
    let mut program = Program {
        data: (0..n_data)
            .map(|_| 1 + numbers.next() % GPU_BYTES)
            .collect(),
        tasks: Vec::new(),
    };
    for number in 0..n_tasks {
        let mut some = |most: usize, below: usize| -> Vec<usize> {
            let n = if below == 0 {
                0
            } else {
                numbers.below(most + 1)
            };
            let mut some: Vec<_> = (0..n).map(|_| numbers.below(below)).collect();
            some.sort_unstable();
            some.dedup();
            some
        };
        let (after, reads, writes) = (some(3, number), some(3, n_data), some(1, n_data));
        let n_choices = 1 + numbers.below(3);
        let mut choices: Vec<_> = (0..n_choices)
            .map(|_| random_choice(numbers, machine))
            .collect();
        if numbers.once_in(6) {
            // A way that can never be gone beside those that can.
            let device = u32::try_from(numbers.below(machine.devices.len())).unwrap_or(0);
            choices.insert(0, on(&[device], 0, 1 << 50));
        }
        let exec_ns = numbers.next() % 100_000;
        program.tasks.push(SimTask {
            choices,
            priority: [0, 0, 0, 0, 1, -1, 7][numbers.below(7)],
            after,
            reads,
            writes,
            exec_ns: (exec_ns, 4 * exec_ns),
            suspends_ns: numbers.once_in(8).then(|| numbers.next() % 100_000),
            cancelled_at: numbers.once_in(10).then(|| numbers.next() % 1_000_000),
        });
    }
    program
}

/// What a task wants much of.
#[derive(Clone, Copy, Debug)]
pub(super) enum Big {
    Memory,
    Units,
    TwoDevices,
}

impl fmt::Display for Big {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Memory => "all memory of a device",
            Self::Units => "all compute units of a device",
            Self::TwoDevices => "two devices at once",
        })
    }
}

/// A few small tasks, a big one, a stream of small ones that end at different times; and the number of the big one.
pub(super) fn stream(big: Big) -> (MachineModel, Program, usize) {
    let machine = machine(&[1], &[GPU_BYTES, GPU_BYTES]);
    let number = 4;
    let small = |number: u64| SimTask {
        choices: vec![on(&[1], 300, GPU_BYTES / 4), on(&[2], 300, GPU_BYTES / 4)],
        exec_ns: (1_000 + number * 7 % 13, 0),
        ..SimTask::default()
    };
    let mut tasks: Vec<_> = (0..700).map(small).collect();
    let choice = match big {
        Big::Memory => on(&[1], 1, GPU_BYTES),
        Big::Units => on(&[1], 0, 0),
        Big::TwoDevices => on(&[1, 2], 0, GPU_BYTES / 2),
    };
    tasks[number].choices = vec![choice];
    let data = Vec::new();
    (machine, Program { data, tasks }, number)
}

/// Makes programs whose order follows from what their tasks read and write.
#[cfg(test)]
#[derive(Debug, Default)]
pub(crate) struct Sequential {
    pub(crate) program: Program,
    writer: Vec<Option<usize>>,
    readers: Vec<Vec<usize>>,
}

#[cfg(test)]
impl Sequential {
    pub(crate) fn datum(&mut self, bytes: u64) -> usize {
        self.program.data.push(bytes);
        self.writer.push(None);
        self.readers.push(Vec::new());
        self.program.data.len() - 1
    }

    /// Adds a task that reads data and updates others (which it reads as well).
    pub(crate) fn task(
        &mut self,
        choices: &[Choice],
        exec_ns: (u64, u64),
        reads: &[usize],
        updates: &[usize],
    ) {
        let number = self.program.tasks.len();
        let mut after = Vec::new();
        for &datum in reads.iter().chain(updates) {
            after.extend(self.writer[datum]);
        }
        for &datum in updates {
            after.append(&mut self.readers[datum]);
            self.writer[datum] = Some(number);
        }
        for &datum in reads {
            self.readers[datum].push(number);
        }
        after.sort_unstable();
        after.dedup();
        self.program.tasks.push(SimTask {
            choices: choices.to_vec(),
            after,
            reads: reads.iter().chain(updates).copied().collect(),
            writes: updates.to_vec(),
            exec_ns,
            ..SimTask::default()
        });
    }
}
