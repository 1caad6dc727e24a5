//! The mapper by example.

use parla_core::{DeviceModel, Link, MemoryId, MemoryModel, Vcus};
use smallvec::smallvec;

use super::*;
use crate::policy::{Assignment, SchedCx};
use crate::{Choice, Runahead, policy};

mod ledger;

/// A CPU with two workers and some GPUs of 100 bytes each.
fn machine(n_gpus: u32) -> Arc<MachineModel> {
    let device = |number: u32| DeviceModel {
        architecture: if number == 0 { "cpu" } else { "gpu" }.into(),
        index: number.saturating_sub(1),
        name: match number {
            0 => "cpu:0".into(),
            n => format!("gpu:{}", n - 1),
        },
        memory: MemoryId(number),
        n_workers: if number == 0 { 2 } else { 1 },
        exclusive: number != 0,
    };
    let memory = |number: u32| MemoryModel {
        name: format!("memory {number}"),
        capacity: if number == 0 { 1000 } else { 100 },
    };
    let link = Link {
        latency_ns: 1000,
        bytes_per_second: 1e9,
        direct: true,
    };
    let n = 1 + n_gpus;
    Arc::new(MachineModel {
        devices: (0..n).map(device).collect(),
        memories: (0..n).map(memory).collect(),
        links: vec![vec![link; n as usize]; n as usize],
    })
}

/// No data, no time.
struct Nowhere;

impl World for Nowhere {
    fn now(&self) -> u64 {
        0
    }
    fn missing_bytes(&self, _: &Placing, _: &[DeviceId]) -> u64 {
        0
    }
    fn transfer_ns(&self, _: &Placing, _: &[DeviceId]) -> u64 {
        0
    }
}

fn claim(vcus: u32, memory: u64) -> Claim {
    Claim {
        vcus: Vcus(vcus),
        memory,
    }
}

fn on(devices: &[u32], vcus: u32, memory: u64) -> Choice {
    Choice {
        devices: devices.iter().copied().map(DeviceId).collect(),
        claims: devices.iter().map(|_| claim(vcus, memory)).collect(),
        variant: 0,
    }
}

fn placing(choices: Vec<Choice>) -> Arc<Placing> {
    Arc::new(Placing {
        choices,
        operands: Arc::new([]),
        runahead: Runahead::default(),
        kind: None,
    })
}

fn id(number: u64) -> TaskId {
    TaskId::from_u64(number)
}

fn mapper(n_gpus: u32, depth: usize) -> Mapper {
    let policy = policy::make("eager", 0).unwrap();
    Mapper::new(machine(n_gpus), policy, depth)
}

impl Mapper {
    fn add(&mut self, number: u64, choices: Vec<Choice>, priority: i32) {
        self.spawned(id(number), placing(choices), priority);
        self.ready(id(number), &Nowhere);
    }

    /// Assigns, and stages at once; which task goes to which devices.
    fn go(&mut self) -> Vec<(u64, Vec<u32>)> {
        let placed = self.assign(&Nowhere).unwrap();
        placed.iter().for_each(|placed| self.staged(placed.task));
        let devices = |placed: &Placed| placed.devices.iter().map(|d| d.0).collect();
        placed
            .iter()
            .map(|placed| (placed.task.as_u64(), devices(placed)))
            .collect()
    }

    /// Brings back those that return, at once; the tasks that run from now on.
    fn run(&mut self) -> Vec<u64> {
        let returning = self.take_returning(&Nowhere);
        returning.iter().for_each(|task| self.staged(*task));
        let runnable = self.take_runnable();
        runnable.iter().map(|(task, _)| task.as_u64()).collect()
    }

    fn end(&mut self, number: u64) {
        self.ended(id(number), 1, &Nowhere);
    }
}

#[test]
fn a_gpu_runs_one_task_that_states_nothing_and_stages_depth_more() {
    let mut m = mapper(1, 2);
    (1..=5).for_each(|n| m.add(n, vec![on(&[1], 0, 10)], 0));
    assert_eq!(m.go(), [(1, vec![1]), (2, vec![1])]);
    assert_eq!(m.run(), [1]);
    assert_eq!(m.go(), [(3, vec![1])]);
    assert_eq!((m.run(), m.go(), m.ready_tasks()), (vec![], vec![], 2));
    assert_eq!((m.loads(), m.is_stalled()), (vec![0, 3], false));
    m.end(1);
    assert_eq!((m.run(), m.go()), (vec![2], vec![(4, vec![1])]));
    assert_eq!(m.stats(), [0, 2]);
}

#[test]
fn one_task_of_a_gpu_drains_without_units_and_the_next_takes_its_turn() {
    let mut m = mapper(1, 2);
    (1..=4).for_each(|n| m.add(n, vec![on(&[1], 0, 10)], 0));
    assert_eq!((m.go().len(), m.run()), (2, vec![1]));
    assert_eq!((m.go().len(), m.run()), (1, vec![]));
    m.returned(id(1));
    assert_eq!(m.run(), [2]);
    m.go();
    m.returned(id(2));
    assert_eq!((m.run(), m.is_stalled()), (vec![], false));
    m.end(1);
    assert_eq!(m.run(), [3]);
    // One that is cancelled, or waits for others after all, is not in the way.
    m.returned(id(3));
    m.removed(id(3), &Nowhere);
    assert_eq!(m.run(), [4]);
    m.suspended(id(2));
    m.returned(id(4));
    m.ready(id(2), &Nowhere);
    assert_eq!((m.go(), m.run()), (vec![], vec![2]));
    m.end(4);
    m.end(2);
    assert_eq!((m.loads(), m.ready_tasks()), (vec![0, 0], 0));
}

#[test]
fn what_begins_to_run_makes_place_in_the_same_round() {
    let mut m = mapper(1, 1);
    (1..=3).for_each(|n| m.add(n, vec![on(&[1], 0, 0)], 0));
    assert_eq!(m.go(), [(1, vec![1])]);
    assert_eq!(m.go(), [(2, vec![1])]);
    assert_eq!((m.run(), m.go()), (vec![1], vec![]));
    m.removed(id(1), &Nowhere);
    assert_eq!(m.go(), [(3, vec![1])]);
    m.removed(id(2), &Nowhere);
    assert_eq!(m.run(), [3]);
}

#[test]
fn memory_is_held_from_placement_to_end_also_while_devices_finish() {
    let mut m = mapper(1, 4);
    (1..=3).for_each(|n| m.add(n, vec![on(&[1], 100, 40)], 0));
    assert_eq!(m.go(), [(1, vec![1]), (2, vec![1])]);
    assert_eq!(m.run(), [1, 2]);
    m.drains(id(1));
    assert!(m.go().is_empty() && !m.is_stalled());
    m.end(1);
    assert_eq!(m.go(), [(3, vec![1])]);
}

#[test]
fn a_draining_task_has_no_compute_units() {
    let mut m = mapper(1, 2);
    (1..=2).for_each(|n| m.add(n, vec![on(&[1], 0, 0)], 0));
    assert_eq!((m.go().len(), m.run()), (2, vec![1]));
    m.drains(id(1));
    assert_eq!(m.run(), [2]);
}

#[test]
fn devices_wait_for_a_big_task_while_others_drain() {
    let mut m = mapper(1, 2);
    m.add(1, vec![on(&[1], 100, 40)], 0);
    assert_eq!((m.go().len(), m.run()), (1, vec![1]));
    m.add(2, vec![on(&[1], 0, 90)], 0);
    assert!(small_ones(&mut m, 1000, PATIENCE));
    // Task 1 will give back what task 2 needs without anybody's help.
    m.drains(id(1));
    m.add(3, vec![on(&[1], 100, 10)], 0);
    assert_eq!(m.go(), []);
    m.end(1);
    assert_eq!(m.go()[0], (2, vec![1]));
}

#[test]
fn a_task_that_waits_gives_its_memory_back_and_takes_it_again() {
    let mut m = mapper(1, 4);
    m.add(1, vec![on(&[1], 100, 60)], 0);
    assert_eq!((m.go().len(), m.run()), (1, vec![1]));
    m.add(2, vec![on(&[1], 100, 60)], 0);
    assert_eq!(m.go(), []);
    m.suspended(id(1));
    assert_eq!((m.go(), m.run()), (vec![(2, vec![1])], vec![2]));
    m.ready(id(1), &Nowhere);
    // There is no memory for it now, and none for anybody behind it.
    m.add(3, vec![on(&[1], 100, 10)], 9);
    m.add(4, vec![on(&[1], 100, 0)], 0);
    assert_eq!((m.go(), m.run()), (vec![(4, vec![1])], vec![4]));
    m.end(2);
    assert_eq!(m.go(), [(3, vec![1])]);
    let mut running = m.run();
    running.sort_unstable();
    assert_eq!(running, [1, 3]);
}

#[test]
fn tasks_on_several_devices_get_all_or_nothing() {
    let mut m = mapper(2, 1);
    m.add(1, vec![on(&[1, 2], 0, 0)], 0);
    m.add(2, vec![on(&[2, 1], 0, 0)], 0);
    assert_eq!(m.go(), [(1, vec![1, 2])]);
    assert_eq!(m.run(), [1]);
    assert_eq!((m.go(), m.run()), (vec![(2, vec![2, 1])], vec![]));
    m.end(1);
    assert_eq!(m.run(), [2]);
}

#[test]
fn equal_devices_share_the_load_and_the_first_kind_goes_first() {
    let mut m = mapper(3, 1);
    let anywhere = || (0..4).rev().map(|d| on(&[d], 0, 0)).collect::<Vec<_>>();
    (1..=5).for_each(|n| m.add(n, anywhere(), 0));
    let mut placed = m.go();
    placed.sort_unstable();
    let on_gpus: Vec<_> = placed[..3].iter().map(|(_, d)| d[0]).collect();
    assert_eq!(on_gpus, [1, 2, 3]);
    assert_eq!(placed[3..], [(4, vec![0]), (5, vec![0])]);
}

#[test]
fn priorities_come_before_arrival_and_returning_tasks_before_all() {
    let mut m = mapper(1, 3);
    m.add(1, vec![on(&[1], 0, 0)], 0);
    m.go();
    assert_eq!(m.run(), [1]);
    for (number, priority) in [(2, 0), (3, 5), (4, 1), (5, 9)] {
        m.add(number, vec![on(&[1], 0, 0)], priority);
    }
    assert_eq!(m.go(), [(5, vec![1]), (3, vec![1]), (4, vec![1])]);
    m.suspended(id(1));
    assert_eq!(m.run(), [5]);
    m.ready(id(1), &Nowhere);
    m.end(5);
    assert_eq!(m.run(), [1]);
    m.end(1);
    assert_eq!(m.run(), [3]);
}

#[test]
fn what_can_never_be_served_is_refused_with_the_numbers() {
    let m = mapper(1, 1);
    let check = |choices| {
        let answer = m.check(&placing(choices), &Nowhere);
        answer.map_err(|error| error.to_string())
    };
    assert_eq!(check(vec![on(&[1], 0, 101), on(&[0], 0, 0)]), Ok(()));
    assert_eq!(
        check(vec![on(&[1], 0, 101)]).unwrap_err(),
        "gpu:0: task claims 101 bytes of memory, the device has 100"
    );
    assert_eq!(
        check(vec![on(&[1, 1], 0, 0)]).unwrap_err(),
        "a choice of the task is wrong: it names gpu:0 twice"
    );
    assert_eq!(
        check(vec![on(&[7], 0, 0)]).unwrap_err(),
        "a choice of the task is wrong: there is no device 7, the machine has 2"
    );
    assert!(check(vec![]).is_err() && check(vec![on(&[], 0, 0)]).is_err());
}

#[test]
fn a_big_task_is_not_starved_by_small_ones_behind_it() {
    let mut m = mapper(1, 2);
    (1..=2).for_each(|n| m.add(n, vec![on(&[1], 300, 40)], 0));
    assert_eq!(m.go().len(), 2);
    m.add(1000, vec![on(&[1], 0, 90)], 0);
    let mut running = std::collections::VecDeque::from(m.run());
    for number in 3.. {
        assert!(number < 3 + 2 * u64::from(PATIENCE), "starved");
        m.add(number, vec![on(&[1], 300, 40)], 0);
        m.go();
        running.extend(m.run());
        if running.contains(&1000) {
            break;
        }
        let oldest = running.pop_front().unwrap();
        m.end(oldest);
    }
}

/// Runs so many small tasks, one after the other; whether each got its turn.
fn small_ones(m: &mut Mapper, from: u64, n: u32) -> bool {
    (from..from + u64::from(n)).all(|number| {
        m.add(number, vec![on(&[1], 100, 10)], 0);
        m.go();
        let ran = m.run() == [number];
        m.end(number);
        ran
    })
}

#[test]
fn devices_do_not_wait_for_one_task_on_account_of_those_that_wait_themselves() {
    let mut m = mapper(1, 2);
    m.add(1, vec![on(&[1], 100, 40)], 0);
    m.go();
    assert_eq!(m.run(), [1]);
    m.add(2, vec![on(&[1], 0, 90)], 0);
    assert!(small_ones(&mut m, 1000, PATIENCE));
    // From now on the device waits for task 2, which needs what task 1 holds.
    m.add(3, vec![on(&[1], 100, 10)], 0);
    assert_eq!((m.go(), m.is_stalled()), (vec![], false));
    // Task 1 waits for task 3, and holds nothing.
    m.suspended(id(1));
    assert_eq!(m.go(), [(2, vec![1]), (3, vec![1])]);
    assert_eq!(m.run(), [2]);
    m.end(2);
    assert_eq!(m.run(), [3]);
    m.ready(id(1), &Nowhere);
    assert_eq!(m.run(), [1]);
}

/// First come, first served, but it never takes task 1.
struct Stubborn(std::collections::VecDeque<TaskId>);

impl SchedulingPolicy for Stubborn {
    fn name(&self) -> &str {
        "stubborn"
    }
    fn push(&mut self, _: &SchedCx<'_>, task: TaskId) {
        if task != id(1) {
            self.0.push_back(task);
        }
    }
    fn pop(&mut self, cx: &SchedCx<'_>, device: DeviceId) -> Option<Assignment> {
        let is_gpu = cx.machine().device(device).exclusive;
        let task = *self.0.front().filter(|task| is_gpu && cx.fits(**task, 0))?;
        self.0.pop_front();
        Some(Assignment { task, choice: 0 })
    }
}

#[test]
fn devices_do_not_wait_for_a_task_that_the_policy_does_not_want() {
    let policy = Box::new(Stubborn(std::collections::VecDeque::new()));
    let mut m = Mapper::new(machine(1), policy, 2);
    m.add(1, vec![on(&[1], 100, 10)], 0);
    assert!(small_ones(&mut m, 1000, 3 * PATIENCE));
    assert_eq!((m.go(), m.is_stalled()), (vec![], true));
}

#[test]
fn compute_units_are_kept_for_who_was_passed_over_too_often() {
    let mut m = mapper(1, 3);
    m.add(1, vec![on(&[1], 600, 0)], 0);
    m.go();
    assert_eq!(m.run(), [1]);
    m.add(2, vec![on(&[1], 0, 0)], 0);
    m.go();
    let n_served = (1000..2000)
        .take_while(|&number| small_ones(&mut m, number, 1))
        .count();
    assert_eq!(n_served, PATIENCE as usize);
    m.end(1);
    assert_eq!(m.run(), [2]);
}

#[test]
fn cancelled_tasks_give_everything_back_at_every_stage() {
    let mut m = mapper(1, 2);
    m.spawned(id(9), placing(vec![on(&[1], 0, 0)]), 0);
    (1..=4).for_each(|n| m.add(n, vec![on(&[1], 0, 20)], 0));
    m.go();
    m.run();
    m.go();
    for number in [9, 4, 3, 2, 1, 1, 77] {
        m.removed(id(number), &Nowhere);
    }
    assert_eq!((m.loads(), m.ready_tasks()), (vec![0, 0], 0));
    m.add(5, vec![on(&[1], 0, 100)], 0);
    assert_eq!((m.go().len(), m.run()), (1, vec![5]));
}

/// Returns what it was told to.
struct Scripted(Vec<Option<(u64, usize)>>);

impl SchedulingPolicy for Scripted {
    fn name(&self) -> &str {
        "scripted"
    }
    fn push(&mut self, _: &SchedCx<'_>, _: TaskId) {}
    fn pop(&mut self, _: &SchedCx<'_>, _: DeviceId) -> Option<Assignment> {
        let (task, choice) = self.0.pop()??;
        let task = id(task);
        Some(Assignment { task, choice })
    }
}

#[test]
fn what_a_policy_does_wrong_is_reported_and_nothing_else_is_lost() {
    let script = [(1, 0), (1, 0), (2, 3), (4, 0), (3, 0), (5, 0)];
    let policy = Scripted(script.into_iter().map(Some).rev().collect());
    let mut m = Mapper::new(machine(0), Box::new(policy), 9);
    for number in [1, 2, 3, 5] {
        m.add(number, vec![on(&[0], 0, 0)], 0);
    }
    m.spawned(id(4), placing(vec![on(&[0], 0, 0)]), 0);
    let mut faults = Vec::new();
    let mut placed = Vec::new();
    for _ in 0..4 {
        m.moved();
        match m.assign(&Nowhere) {
            Err(fault) => faults.push((fault.task, PlacingError::from(fault).to_string())),
            Ok(decided) => placed.extend(decided.iter().map(|p| p.task.as_u64())),
        }
    }
    assert_eq!(placed, [1, 3, 5]);
    assert_eq!(
        faults,
        [
            (None, "policy 'scripted' assigned task 1.0 twice".to_owned()),
            (
                Some(id(2)),
                "policy 'scripted' assigned task 2.0 by its choice 3, of which it has 1".to_owned()
            ),
            (
                None,
                "policy 'scripted' assigned task 4.0, which is not ready yet".to_owned()
            ),
        ]
    );
}

#[test]
fn a_policy_that_takes_nothing_is_a_stall_and_never_a_loop() {
    let mut m = Mapper::new(machine(1), Box::new(Scripted(Vec::new())), 2);
    m.add(1, vec![on(&[1], 0, 0)], 0);
    assert!(m.assign(&Nowhere).unwrap().is_empty() && m.is_stalled());
    let garbage = vec![Some((99, 0)); 100];
    let mut m = Mapper::new(machine(1), Box::new(Scripted(garbage)), 2);
    m.add(1, vec![on(&[1], 0, 0)], 0);
    let n_faults = (0..100).filter(|_| m.assign(&Nowhere).is_err()).count();
    assert_eq!((n_faults, m.is_stalled()), (2, true));
    assert!(m.last_fault().unwrap().fault.contains("not there"));
}

#[test]
fn claims_are_completed_on_exclusive_devices_only() {
    let mut m = mapper(1, 1);
    m.add(1, vec![on(&[0, 1], 0, 5)], 0);
    let placed = m.assign(&Nowhere).unwrap();
    let expected: SmallVec<[Claim; 1]> = smallvec![claim(0, 5), claim(1000, 5)];
    assert_eq!(placed[0].claims, expected);
}
