//! Tasks that a policy places, on simulated GPUs: data arrives, results come home, failures poison, nothing leaks.

use std::sync::atomic::AtomicU64;

use parla_core::{Access, DeviceId, MachineModel, Region};
use parla_data::{Array, DataError, Home, Operand, Store};
use parla_device::{Block, Copy, Gpus, Machine, MachineOptions, Place, SimOptions};

use super::*;
use crate::{Choice, Placement, Placing, Runahead, policy};

/// Numbers in the host's memory with a coherent array over them.
pub(super) struct Numbers {
    pub(super) memory: Arc<[AtomicU64]>,
    array: Array,
}

impl Numbers {
    pub(super) fn new(n: usize) -> Self {
        let memory: Arc<[AtomicU64]> = (0..n).map(|_| AtomicU64::new(0)).collect();
        let home = Home {
            block: block_over(&memory),
            offset: 0,
            strides: [8].into_iter().collect(),
            writable: true,
        };
        Self {
            array: Array::new("numbers", &[n], 8, home),
            memory,
        }
    }

    pub(super) fn operand(&self, range: std::ops::Range<usize>, access: Access) -> Operand {
        Operand {
            array: self.array.clone(),
            region: Region::new([range]),
            access,
            exact: true,
            slot: 0,
        }
    }

    pub(super) fn values(&self) -> Vec<u64> {
        let value = |n: &AtomicU64| n.load(Ordering::SeqCst);
        self.memory.iter().map(value).collect()
    }
}

pub(super) fn block_over(memory: &Arc<[AtomicU64]>) -> Arc<Block> {
    let bytes = memory.len() as u64 * 8;
    Arc::new(Block::foreign(
        memory.as_ptr().addr(),
        bytes,
        Arc::clone(memory),
    ))
}

pub(super) struct World {
    pub(super) rt: Rt,
    pub(super) store: Arc<Store>,
    gpus: Vec<DeviceId>,
}

impl World {
    pub(super) fn new(n_gpus: u32, gpu_memory: u64, policy: &str) -> Self {
        let sim = SimOptions {
            memory: vec![gpu_memory; n_gpus as usize],
            timed: false,
            ..SimOptions::new(n_gpus as usize)
        };
        Self::with(n_gpus, sim, policy)
    }

    pub(super) fn with(n_gpus: u32, sim: SimOptions, policy: &str) -> Self {
        let options = MachineOptions {
            gpus: Gpus::Simulated(sim),
            ..MachineOptions::default()
        };
        let machine = Arc::new(Machine::probe(&options).expect("simulated GPUs"));
        let gpus = (0..n_gpus)
            .map(|i| machine.find("gpu", i).expect("it was asked for"))
            .collect();
        let store = Store::new(machine);
        let rt = start_with(|options| {
            options.placement = Some(Placement {
                store: Arc::clone(&store),
                policy: policy::make(policy, 1).expect("a known policy"),
                depth: 2,
            });
        });
        Self { rt, store, gpus }
    }

    pub(super) fn placing(&self, gpus: &[usize], operands: Vec<Operand>) -> Arc<Placing> {
        let choice = |gpu: &usize| Choice {
            devices: [self.gpus[*gpu]].into_iter().collect(),
            claims: [Claim::default()].into_iter().collect(),
            variant: 0,
        };
        Arc::new(Placing {
            choices: gpus.iter().map(choice).collect(),
            operands: operands.into(),
            runahead: Runahead::default(),
            kind: None,
        })
    }

    /// A task that changes its first operand, and sees its second.
    pub(super) fn spawn(
        &self,
        after: &[TaskId],
        placing: Arc<Placing>,
        body: impl FnOnce(&mut [u64], &[u64]) + Send + 'static,
    ) -> TaskId {
        let store = Arc::clone(&self.store);
        spawn(&self.rt, task(after, placing), move |cx| {
            let assigned = cx.assigned().expect("it was placed");
            let n = |k: usize| assigned.operands[k].region.n_elements();
            let (device, places) = (assigned.devices[0], assigned.places());
            let source = move_numbers(&store, device, &places[1], n(1), None);
            let mut target = move_numbers(&store, device, &places[0], n(0), None);
            body(&mut target, &source);
            move_numbers(&store, device, &places[0], n(0), Some(&target));
        })
    }

    /// A task that adds `by` to each number of its first operand.
    fn add(&self, after: &[TaskId], placing: Arc<Placing>, by: u64) -> TaskId {
        let store = Arc::clone(&self.store);
        spawn(&self.rt, task(after, placing), move |cx| {
            let assigned = cx.assigned().expect("it was placed");
            let n = assigned.operands[0].region.n_elements();
            let (device, place) = (assigned.devices[0], &assigned.places()[0]);
            let mut numbers = move_numbers(&store, device, place, n, None);
            numbers.iter_mut().for_each(|number| *number += by);
            move_numbers(&store, device, place, n, Some(&numbers));
        })
    }

    pub(super) fn finish(&self) {
        settle(&self.rt);
        self.store.close().expect("everything can go home");
        for gpu in &self.gpus {
            assert_eq!(self.store.machine().device(*gpu).memory_used(), 0);
        }
    }
}

/// A task that a policy places.
pub(super) fn task(after: &[TaskId], placing: Arc<Placing>) -> Task<'_> {
    Task {
        dependencies: after,
        attrs: Attrs {
            placed: true,
            ..Attrs::default()
        },
        placing: Some(placing),
        ..Task::default()
    }
}

/// Reads numbers from a device's memory, by way of the host's, or writes them there.
fn move_numbers(
    store: &Store,
    device: DeviceId,
    place: &Place,
    n: usize,
    write: Option<&[u64]>,
) -> Vec<u64> {
    let value = |i: usize| AtomicU64::new(write.map_or(0, |values| values[i]));
    let memory: Arc<[AtomicU64]> = (0..n).map(value).collect();
    let here = Place {
        block: block_over(&memory),
        offset: 0,
        strides: [8].into_iter().collect(),
        device: None,
    };
    let (source, destination) = if write.is_some() {
        (here, place.clone())
    } else {
        (place.clone(), here)
    };
    let stream = store.machine().device(device).stream().expect("a stream");
    let copy = Copy {
        item: 8,
        shape: [n].into_iter().collect(),
        source,
        destination,
    };
    stream.copy(copy).expect("a copy");
    stream.synchronize().expect("the copy ends");
    memory.iter().map(|v| v.load(Ordering::SeqCst)).collect()
}

#[test]
fn a_chain_over_two_gpus_carries_its_data() {
    limited(|| {
        let world = World::new(2, 1 << 20, "locality");
        let numbers = Numbers::new(100);
        let mut last = Vec::new();
        for i in 0..20 {
            let placing = world.placing(&[i % 2], vec![numbers.operand(0..100, Access::InOut)]);
            last = vec![world.add(&last, placing, 1)];
        }
        world.finish();
        assert_eq!(numbers.values(), vec![20; 100]);
    });
}

#[test]
fn halves_on_two_gpus_then_the_whole() {
    for policy in ["eager", "locality"] {
        limited(move || {
            let world = World::new(2, 1 << 20, policy);
            let numbers = Numbers::new(64);
            let halves: Vec<_> = [(0..40, 3), (40..64, 5)]
                .into_iter()
                .enumerate()
                .map(|(gpu, (range, by))| {
                    let placing =
                        world.placing(&[gpu], vec![numbers.operand(range, Access::InOut)]);
                    world.add(&[], placing, by)
                })
                .collect();
            let placing = world.placing(&[0, 1], vec![numbers.operand(0..64, Access::InOut)]);
            world.add(&halves, placing, 100);
            world.finish();
            let values = numbers.values();
            assert!(values[..40].iter().all(|v| *v == 103));
            assert!(values[40..].iter().all(|v| *v == 105));
        });
    }
}

#[test]
fn much_more_data_than_memory() {
    limited(|| {
        let world = World::new(1, 4096, "locality");
        let many: Vec<_> = (0..16).map(|_| Numbers::new(128)).collect();
        for _ in 0..3 {
            for numbers in &many {
                let operands = vec![numbers.operand(0..128, Access::InOut)];
                world.add(&[], world.placing(&[0], operands), 1);
            }
            settle(&world.rt);
        }
        world.finish();
        for numbers in &many {
            assert_eq!(numbers.values(), vec![3; 128]);
        }
    });
}

#[test]
fn a_failed_writer_leaves_nothing_to_be_read() {
    limited(|| {
        let world = World::new(1, 1 << 20, "eager");
        let numbers = Numbers::new(10);
        let placing = world.placing(&[0], vec![numbers.operand(0..5, Access::InOut)]);
        let failed = world
            .rt
            .spawn(task(&[], placing), |_| {
                Box::new(|_: &Cx<'_, Script>| Say::Fail)
            })
            .expect("spawns");
        let dependent = world.add(
            &[failed],
            world.placing(&[0], vec![numbers.operand(0..10, Access::Input)]),
            0,
        );
        settle(&world.rt);
        assert_eq!(world.rt.cause(dependent), Some(failed));
        let region = |r| Region::new([r]);
        let read = world.store.to_host(&numbers.array, &region(0..5), false);
        assert!(matches!(read, Err(DataError::Invalid { .. })), "{read:?}");
        world
            .store
            .to_host(&numbers.array, &region(5..10), false)
            .expect("the other half is as it was");
    });
}

#[test]
fn what_can_never_fit_is_refused_at_spawn() {
    limited(|| {
        let world = World::new(1, 4096, "eager");
        let numbers = Numbers::new(1000);
        let placing = world.placing(&[0], vec![numbers.operand(0..1000, Access::Input)]);
        let refused = world.rt.spawn(task(&[], placing), |_| once(|_| ()));
        let text = refused.expect_err("8 000 bytes into 4 096").to_string();
        assert!(text.contains("8000") && text.contains("4096"), "{text}");
        world.finish();
    });
}

#[test]
fn cancelled_while_they_wait() {
    limited(|| {
        let world = World::new(2, 1 << 20, "locality");
        let numbers = Numbers::new(10);
        let (first, gate) = blocked(&world.rt, Task::default());
        let ids: Vec<_> = (0..10)
            .map(|i| {
                let placing = world.placing(&[i % 2], vec![numbers.operand(0..10, Access::InOut)]);
                world.add(&[first], placing, 1)
            })
            .collect();
        for id in &ids {
            assert!(world.rt.cancel(*id));
        }
        gate.open();
        world.finish();
        assert_eq!(numbers.values(), vec![0; 10]);
    });
}

#[test]
fn a_gpu_task_that_waits_for_another_lets_it_run() {
    limited(|| {
        let world = World::new(1, 1 << 20, "eager");
        let numbers = Numbers::new(10);
        let outer = world.placing(&[0], vec![numbers.operand(0..10, Access::InOut)]);
        let inner = world.placing(&[0], Vec::new());
        let ended = Arc::new(AtomicU64::new(0));
        let told = Arc::clone(&ended);
        spawn(&world.rt, task(&[], outer), move |cx| {
            let child = cx.spawn(task(&[], inner), |_| once(|_| ()));
            let waited = cx.wait(child.expect("spawns"), None, None);
            assert!(matches!(waited, Waited::Ended));
            told.store(1, Ordering::SeqCst);
        });
        world.finish();
        assert_eq!(ended.load(Ordering::SeqCst), 1);
    });
}

#[test]
fn the_host_takes_part() {
    limited(|| {
        let world = World::new(1, 1 << 20, "locality");
        let cpu = world.store.machine().find("cpu", 0).expect("a CPU");
        assert_eq!(
            world.store.machine().model().memory_of(cpu),
            MachineModel::HOST
        );
        let numbers = Numbers::new(10);
        let on_gpu = world.add(
            &[],
            world.placing(&[0], vec![numbers.operand(0..10, Access::InOut)]),
            1,
        );
        let seen = Arc::new(AtomicU64::new(0));
        let on_cpu = Arc::new(Placing {
            choices: vec![Choice {
                devices: [cpu].into_iter().collect(),
                claims: [Claim::default()].into_iter().collect(),
                variant: 0,
            }],
            operands: vec![numbers.operand(3..4, Access::Input)].into(),
            runahead: Runahead::default(),
            kind: None,
        });
        let memory = Arc::clone(&numbers.memory);
        let told = Arc::clone(&seen);
        spawn(&world.rt, task(&[on_gpu], on_cpu), move |_| {
            told.store(memory[3].load(Ordering::SeqCst), Ordering::SeqCst);
        });
        world.finish();
        assert_eq!(seen.load(Ordering::SeqCst), 1);
    });
}

/// More inputs than may be under way at once: each that arrives lets another go, though nothing else happens.
#[test]
fn all_inputs_of_the_next_tasks_travel_while_they_wait() {
    limited(|| {
        let mut sim = SimOptions {
            timed: false,
            ..SimOptions::new(1)
        };
        sim.links.host.latency_ns = 1_000_000;
        let world = World::with(1, sim, "eager");
        let inputs: Vec<Numbers> = (0..12).map(|_| Numbers::new(10)).collect();
        let (open, gate) = channel::<()>();
        let gate = Mutex::new(gate);
        let first = spawn(&world.rt, Task::default(), move |_| {
            gate.lock().recv().expect("it is opened");
        });
        for three in inputs.chunks(3) {
            let operands = three.iter().map(|n| n.operand(0..10, Access::InOut));
            world.add(&[first], world.placing(&[0], operands.collect()), 1);
        }
        while world.store.stats().memories[1].n_copies < 12 {
            std::thread::yield_now();
        }
        open.send(()).expect("it waits");
        world.finish();
        assert_eq!(world.store.stats().memories[1].n_copies, 12);
        assert_eq!(inputs[3].values(), vec![1; 10]);
    });
}
