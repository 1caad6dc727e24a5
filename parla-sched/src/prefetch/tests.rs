//! Which inputs travel, in which order, and where to.

use std::sync::atomic::AtomicU64;

use parla_core::{Access, Claim, DeviceModel, Link, MachineModel, MemoryId, MemoryModel};
use parla_data::{Array, Home};
use parla_device::Block;

use super::*;
use crate::mapper::{Mapper, World};
use crate::{Choice, Runahead, policy};

/// A coherent array of so many numbers.
fn array(n: usize) -> Array {
    let memory: Arc<[AtomicU64]> = (0..n).map(|_| AtomicU64::new(0)).collect();
    let address = memory.as_ptr().addr();
    let home = Home {
        block: Arc::new(Block::foreign(address, n as u64 * 8, memory)),
        offset: 0,
        strides: [8].into_iter().collect(),
        writable: true,
    };
    Array::new("numbers", &[n], 8, home)
}

fn uses(array: &Array, access: Access) -> Operand {
    Operand {
        array: array.clone(),
        region: Region::whole(array.shape()),
        access,
        exact: true,
        slot: 0,
    }
}

fn placing(devices: &[u32], operands: Vec<Operand>) -> Arc<Placing> {
    let choice = |device: &u32| Choice {
        devices: [DeviceId(*device)].into_iter().collect(),
        claims: [Claim::default()].into_iter().collect(),
        variant: 0,
    };
    Arc::new(Placing {
        choices: devices.iter().map(choice).collect(),
        operands: operands.into(),
        runahead: Runahead::default(),
        kind: None,
    })
}

fn id(number: u64) -> TaskId {
    TaskId::from_u64(number)
}

/// What `take` finds, as numbers of arrays and devices.
fn taken(found: Vec<Sent>, arrays: &[Array]) -> Vec<(usize, u32)> {
    let number = |operand: &Operand| {
        let same = |array: &Array| array.id() == operand.array.id();
        arrays.iter().position(same).expect("one of the arrays")
    };
    let found = found.iter();
    found
        .map(|sent| (number(&sent.operand), sent.device.0))
        .collect()
}

fn nowhere(_: TaskId, _: &[(DeviceId, usize)]) -> Option<DeviceId> {
    None
}

fn at_once(_: &Operand, _: DeviceId) -> u64 {
    0
}

#[test]
fn few_large_inputs_are_under_way_to_a_device_at_once() {
    let arrays: Vec<_> = (0..8).map(|_| array(4)).collect();
    let mut prefetch = Prefetch::default();
    for task in 0..4 {
        let two = [&arrays[2 * task], &arrays[2 * task + 1]];
        let operands = two.map(|of| uses(of, Access::Input));
        prefetch.spawned(id(task as u64), &placing(&[1], operands.into()));
    }
    let slowly = |_: &Operand, _| SOON_NS;
    assert_eq!(
        taken(prefetch.take(nowhere, slowly), &arrays),
        [(0, 1), (1, 1)],
        "a copy that is needed now waits for two others, not for eight"
    );
    assert!(!prefetch.has_any());
    prefetch.arrived(DeviceId(1), SOON_NS);
    assert!(prefetch.has_any());
    // The task that is ready brings its own; what is behind it goes on.
    prefetch.ready(id(1));
    assert_eq!(taken(prefetch.take(nowhere, slowly), &arrays), [(4, 1)]);
    prefetch.arrived(DeviceId(1), SOON_NS);
    prefetch.arrived(DeviceId(1), SOON_NS);
    // Small ones go together.
    let quickly = |_: &Operand, _| SOON_NS / 2;
    assert_eq!(
        taken(prefetch.take(nowhere, quickly), &arrays),
        [(5, 1), (6, 1)]
    );
    prefetch.arrived(DeviceId(1), SOON_NS / 2);
    assert_eq!(taken(prefetch.take(nowhere, at_once), &arrays), [(7, 1)]);
    assert!(!prefetch.has_any());
}

#[test]
fn nothing_is_sent_for_a_task_that_was_spawned_early_and_what_it_writes_counts() {
    let [a, b] = [array(4), array(4)];
    let mut prefetch = Prefetch::default();
    let operands = vec![uses(&a, Access::Input), uses(&b, Access::InOut)];
    prefetch.spawned_early(id(1), &placing(&[1], operands));
    assert!(!prefetch.has_any());
    prefetch.spawned(id(2), &placing(&[2], vec![uses(&b, Access::Input)]));
    assert!(!prefetch.has_any());
    prefetch.ended(id(1));
    let arrays = [a, b];
    assert_eq!(taken(prefetch.take(nowhere, at_once), &arrays), [(1, 2)]);
}

#[test]
fn what_is_sent_is_wanted_until_the_task_is_ready() {
    let a = array(4);
    let mut prefetch = Prefetch::default();
    prefetch.spawned(id(1), &placing(&[1], vec![uses(&a, Access::Input)]));
    let sent = prefetch.take(nowhere, at_once);
    let wanted = || sent[0].ahead.wanted.load(Ordering::Relaxed);
    assert!(wanted() && sent[0].ahead.sure);
    prefetch.ready(id(1));
    assert!(!wanted());
}

#[test]
fn inputs_of_all_devices_travel_in_the_order_of_the_tasks_that_need_them() {
    let arrays: Vec<_> = (0..8).map(|_| array(4)).collect();
    let mut prefetch = Prefetch::default();
    for (k, of) in arrays.iter().enumerate() {
        let device = [2, 1, 1, 2, 1, 2, 1, 2][k];
        prefetch.spawned(
            id(k as u64),
            &placing(&[device], vec![uses(of, Access::Input)]),
        );
    }
    assert!(prefetch.has_any());
    let found = taken(prefetch.take(nowhere, at_once), &arrays);
    let order = [2, 1, 1, 2, 1, 2, 1, 2];
    assert_eq!(found, (0..8).map(|k| (k, order[k])).collect::<Vec<_>>());
    assert!(!prefetch.has_any() && prefetch.take(nowhere, at_once).is_empty());
}

#[test]
fn an_input_travels_as_soon_as_its_own_writer_has_ended_whoever_else_is_awaited() {
    let [left, right] = [array(4), array(4)];
    let arrays = [left.clone(), right.clone()];
    let mut prefetch = Prefetch::default();
    prefetch.spawned(id(1), &placing(&[1], vec![uses(&left, Access::InOut)]));
    prefetch.spawned(id(2), &placing(&[2], vec![uses(&right, Access::InOut)]));
    prefetch.ready(id(1));
    prefetch.ready(id(2));
    let both = vec![uses(&left, Access::InOut), uses(&right, Access::Input)];
    prefetch.spawned(id(3), &placing(&[1], both));
    assert!(!prefetch.has_any());
    prefetch.ended(id(2));
    assert!(prefetch.has_any());
    assert_eq!(taken(prefetch.take(nowhere, at_once), &arrays), [(1, 1)]);
    prefetch.ended(id(1));
    assert_eq!(taken(prefetch.take(nowhere, at_once), &arrays), [(0, 1)]);
}

#[test]
fn few_tasks_are_foreseen_at_once_and_the_next_when_one_is_ready() {
    let arrays: Vec<_> = (0..7).map(|_| array(4)).collect();
    let mut prefetch = Prefetch::default();
    for (k, of) in arrays.iter().enumerate() {
        let operands = vec![uses(of, Access::Input)];
        prefetch.spawned(id(k as u64), &placing(&[1, 2], operands));
    }
    let alternately = |task: TaskId, _: &[_]| Some(DeviceId(1 + task.as_u64() as u32 % 2));
    let found = taken(prefetch.take(alternately, at_once), &arrays);
    assert_eq!(found, [(0, 1), (1, 2), (2, 1), (3, 2)]);
    assert!(!prefetch.has_any());
    prefetch.ready(id(0));
    assert!(prefetch.has_any());
    assert_eq!(
        taken(prefetch.take(alternately, at_once), &arrays),
        [(4, 1)]
    );
    // It is not foreseen once more, and no longer in the way, when it has been cancelled.
    prefetch.ended(id(1));
    assert_eq!(taken(prefetch.take(nowhere, at_once), &arrays), []);
    assert!(!prefetch.has_any());
}

#[test]
fn nothing_is_foreseen_before_an_input_can_travel() {
    let arrays = [array(4)];
    let mut prefetch = Prefetch::default();
    let writes = vec![uses(&arrays[0], Access::Output)];
    prefetch.spawned(id(1), &placing(&[1, 2], writes));
    let reads = vec![uses(&arrays[0], Access::Input)];
    prefetch.spawned(id(2), &placing(&[1, 2], reads));
    prefetch.ready(id(1));
    assert!(!prefetch.has_any());
    assert!(
        prefetch
            .take(|_, _| panic!("nothing can travel"), at_once)
            .is_empty()
    );
    prefetch.ended(id(1));
    let found = prefetch.take(|task, _| (task == id(2)).then_some(DeviceId(2)), at_once);
    assert_eq!(taken(found, &arrays), [(0, 2)]);
}

/// One unit of data takes a microsecond, wherever it is.
struct OnTheHost;

impl World for OnTheHost {
    fn now(&self) -> u64 {
        0
    }
    fn missing_bytes(&self, placing: &Placing, devices: &[DeviceId]) -> u64 {
        self.transfer_ns(placing, devices)
    }
    fn transfer_ns(&self, placing: &Placing, _: &[DeviceId]) -> u64 {
        1000 * placing.operands.len() as u64
    }
}

fn two_gpus() -> Arc<MachineModel> {
    let device = |number: u32| DeviceModel {
        architecture: if number == 0 { "cpu" } else { "gpu" }.into(),
        index: number.saturating_sub(1),
        name: format!("device {number}"),
        memory: MemoryId(number),
        n_workers: 1,
        exclusive: number != 0,
    };
    let memory = |number: u32| MemoryModel {
        name: format!("memory {number}"),
        capacity: 100,
    };
    let link = Link {
        latency_ns: 1000,
        bytes_per_second: 1e9,
        direct: true,
    };
    Arc::new(MachineModel {
        devices: (0..3).map(device).collect(),
        memories: (0..3).map(memory).collect(),
        links: vec![vec![link; 3]; 3],
    })
}

/// A chain of tasks that may run on either GPU, each with an input of its own; the first runs.
#[test]
fn a_chain_with_a_choice_is_foreseen_on_the_devices_by_turns() {
    let arrays: Vec<_> = (0..5).map(|_| array(4)).collect();
    let policy = policy::make("locality", 0).expect("a known policy");
    let mut mapper = Mapper::new(two_gpus(), policy, 2);
    let mut prefetch = Prefetch::default();
    for (k, of) in arrays.iter().enumerate() {
        let placing = placing(&[1, 2], vec![uses(of, Access::Input)]);
        prefetch.spawned(id(k as u64), &placing);
        mapper.spawned(id(k as u64), placing, 0);
    }
    prefetch.ready(id(0));
    mapper.ready(id(0), &OnTheHost);
    let placed = mapper.assign(&OnTheHost).expect("a decision");
    assert_eq!(placed[0].devices[..], [DeviceId(1)]);
    let found = prefetch.take(
        |task, coming| mapper.foresee(task, coming, &OnTheHost),
        at_once,
    );
    assert_eq!(taken(found, &arrays), [(1, 2), (2, 1), (3, 2), (4, 1)]);
}

/// The input is on the second GPU, which is at work.
struct OnTheSecond;

impl World for OnTheSecond {
    fn now(&self) -> u64 {
        0
    }
    fn missing_bytes(&self, placing: &Placing, devices: &[DeviceId]) -> u64 {
        self.transfer_ns(placing, devices)
    }
    fn transfer_ns(&self, _: &Placing, devices: &[DeviceId]) -> u64 {
        u64::from(devices[0] != DeviceId(2))
    }
}

#[test]
fn nothing_is_copied_away_from_a_device_that_is_only_at_work() {
    let shared = [array(4)];
    let policy = policy::make("locality", 0).expect("a known policy");
    let mut mapper = Mapper::new(two_gpus(), policy, 2);
    let mut prefetch = Prefetch::default();
    for (number, devices) in [(0, &[2][..]), (1, &[1, 2])] {
        let placing = placing(devices, vec![uses(&shared[0], Access::Input)]);
        prefetch.spawned(id(number), &placing);
        mapper.spawned(id(number), placing, 0);
    }
    prefetch.ready(id(0));
    mapper.ready(id(0), &OnTheSecond);
    mapper.assign(&OnTheSecond).expect("a decision");
    let found = prefetch.take(
        |task, coming| mapper.foresee(task, coming, &OnTheSecond),
        at_once,
    );
    assert_eq!(taken(found, &shared), [(0, 2)]);
}
