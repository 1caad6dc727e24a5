//! What policies can ask for beside data and load: measured times, random numbers, and a place to say why.

use std::cell::Cell;
use std::sync::Arc;

use parla_core::lock::Mutex;
use smallvec::smallvec;

use super::*;
use crate::mapper::{Mapper, World};
use crate::{Placing, Runahead};

/// Tries a random choice of each task once, and then takes the one that it knows to be the fastest of those that fit.
#[derive(Default)]
struct Explorer {
    ready: ready::ReadyTasks,
    /// How often a time was known.
    n_known: Arc<Mutex<usize>>,
}

impl SchedulingPolicy for Explorer {
    fn name(&self) -> &str {
        "explorer"
    }

    fn push(&mut self, cx: &SchedCx<'_>, task: TaskId) {
        self.ready.push(cx, task);
    }

    fn pop(&mut self, cx: &SchedCx<'_>, device: DeviceId) -> Option<Assignment> {
        let fitting = |task| fitting_on(cx, task, device);
        let task = self
            .ready
            .in_turn(device, |task| fitting(task).next().is_some())
            .next()?;
        let choices: Vec<_> = fitting(task).collect();
        let known = choices
            .iter()
            .filter_map(|&c| Some((cx.exec_ns(task, c)?, c)));
        let choice = match known.min() {
            Some((exec_ns, choice)) if cx.random(4) > 0 => {
                *self.n_known.lock() += 1;
                cx.note(
                    task,
                    Note {
                        parts: smallvec![("run", exec_ns)],
                    },
                );
                choice
            }
            _ => choices[cx.random(choices.len())],
        };
        self.ready.remove(task);
        Some(Assignment { task, choice })
    }

    fn on_removed(&mut self, _cx: &SchedCx<'_>, task: TaskId) {
        self.ready.remove(task);
    }
}

#[test]
fn a_policy_of_measured_times_and_random_numbers_conforms() {
    let n_known = Arc::new(Mutex::new(0));
    let report = check(
        &mut |_| {
            Box::new(Explorer {
                n_known: Arc::clone(&n_known),
                ..Explorer::default()
            })
        },
        40,
    );
    let report = report.unwrap_or_else(|violation| panic!("{violation}"));
    assert!(report.n_tasks > 1000);
    assert!(*n_known.lock() > 500, "it never knew a time");
}

#[test]
fn the_seed_of_the_runtime_decides_the_random_numbers() {
    let program = {
        let mut s = Sequential::default();
        let choices = [on(&[1], 0, 0), on(&[2], 0, 0)];
        (0..40).for_each(|_| s.task(&choices, (1000, 0), &[], &[]));
        s.program
    };
    let machine = Arc::new(machine(&[1], &[1000, 1000]));
    // With places for all there is a choice every time.
    let run = |seed| simulate(&machine, &program, Box::<Dice>::default(), 64, seed).unwrap();
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
}

/// Takes a random choice, wherever it is, when its device asks.
#[derive(Default)]
struct Dice {
    tasks: Vec<(TaskId, usize)>,
}

impl SchedulingPolicy for Dice {
    fn name(&self) -> &str {
        "dice"
    }

    fn push(&mut self, cx: &SchedCx<'_>, task: TaskId) {
        self.tasks.push((task, cx.random(2)));
    }

    fn pop(&mut self, cx: &SchedCx<'_>, device: DeviceId) -> Option<Assignment> {
        let at = self.tasks.iter().position(|&(task, choice)| {
            let placing = cx.task(task).unwrap();
            placing.choices[choice].devices.contains(&device) && cx.fits(task, choice)
        })?;
        let (task, choice) = self.tasks.remove(at);
        Some(Assignment { task, choice })
    }
}

/// Data of one size, no time.
struct Same(u64);

impl World for Same {
    fn now(&self) -> u64 {
        0
    }
    fn missing_bytes(&self, _: &Placing, _: &[DeviceId]) -> u64 {
        0
    }
    fn transfer_ns(&self, _: &Placing, _: &[DeviceId]) -> u64 {
        0
    }
    fn bytes(&self, _: &Placing) -> u64 {
        self.0
    }
}

fn placing(kind: Option<&str>) -> Arc<Placing> {
    Arc::new(Placing {
        choices: vec![on(&[0], 0, 0), on(&[1], 0, 0)],
        operands: Arc::new([]),
        runahead: Runahead::default(),
        kind: kind.map(Arc::from),
    })
}

/// Places the next task and lets it run; returns where it was placed and why.
fn step(m: &mut Mapper, task: u64, kind: Option<&str>, world: &Same) -> (DeviceId, String) {
    let id = TaskId::from_u64(task);
    m.spawned(id, placing(kind), 0);
    m.ready(id, world);
    let placed = m.assign(world).unwrap();
    assert_eq!(placed.len(), 1);
    let (devices, note) = m.placement(id).unwrap();
    let found = (devices[0], note.unwrap().to_string());
    m.staged(id);
    m.take_runnable();
    found
}

const CPU: DeviceId = DeviceId(0);
const GPU: DeviceId = DeviceId(1);

#[test]
fn locality_tries_what_it_does_not_know_and_then_takes_the_faster_device() {
    let machine = Arc::new(machine(&[1], &[1000]));
    let mut m = Mapper::new(machine, make("locality", 0).unwrap(), 2);
    let world = Same(100);
    let id = TaskId::from_u64;
    assert_eq!(
        step(&mut m, 0, Some("a"), &world),
        (CPU, "wait 0 ns + transfer 0 ns".into()),
        "the user's order, as long as nothing is known"
    );
    // While the first runs the other device is free.
    assert_eq!(step(&mut m, 1, Some("a"), &world).0, GPU);
    m.ended(id(0), 9000, &world);
    m.ended(id(1), 1000, &world);
    assert_eq!(
        step(&mut m, 2, Some("a"), &world),
        (GPU, "wait 0 ns + transfer 0 ns + run 1000 ns".into())
    );
    // Rather behind another one than where it takes nine times as long.
    assert_eq!(step(&mut m, 3, Some("a"), &world).0, GPU);
    m.failed(id(2), 1, &world);
    m.ended(id(3), 1000, &world);
    // What a failed body took is not learned, nor is what is known of one kind or size used for another.
    let run = |(device, note): (DeviceId, String)| (device, note.ends_with("run 1000 ns"));
    assert_eq!(run(step(&mut m, 4, Some("a"), &world)), (GPU, true));
    m.ended(id(4), 1000, &world);
    assert_eq!(run(step(&mut m, 5, Some("b"), &world)), (CPU, false));
    m.ended(id(5), 1000, &world);
    assert_eq!(run(step(&mut m, 6, Some("a"), &Same(9999))), (CPU, false));
    m.ended(id(6), 1000, &world);
    assert_eq!(run(step(&mut m, 7, None, &world)), (CPU, false));
    m.ended(id(7), 1000, &world);
    assert_eq!(m.validate(), Ok(()));
}

#[test]
fn locality_looks_at_one_of_the_tasks_that_are_alike() {
    struct Counts(Cell<usize>);
    impl World for Counts {
        fn now(&self) -> u64 {
            0
        }
        fn missing_bytes(&self, _: &Placing, _: &[DeviceId]) -> u64 {
            0
        }
        fn transfer_ns(&self, _: &Placing, _: &[DeviceId]) -> u64 {
            self.0.set(self.0.get() + 1);
            0
        }
    }
    let machine = Arc::new(machine(&[1], &[1000]));
    let mut m = Mapper::new(machine, make("locality", 0).unwrap(), 2);
    let (same, world, id) = (Same(0), Counts(Cell::new(0)), TaskId::from_u64);
    for (task, exec_ns) in [(0, 900_000), (1, 1000)] {
        step(&mut m, task, Some("a"), &same);
        m.ended(id(task), exec_ns, &world);
    }
    // All want the GPU, which is at work and has no place; the last one may as well go to the CPU.
    let mut push = |kind: &str, tasks: std::ops::Range<u64>| {
        for task in tasks {
            m.spawned(id(task), placing(Some(kind)), 0);
            m.ready(id(task), &world);
        }
    };
    push("a", 2..1000);
    push("b", 1000..1001);
    let placed = m.assign(&world).unwrap();
    let mut places: Vec<_> = placed.iter().map(|p| (p.task, p.devices[0])).collect();
    places.sort();
    assert_eq!(places, [(id(2), GPU), (id(3), GPU), (id(1000), CPU)]);
    assert!(world.0.get() < 30, "{} questions", world.0.get());
}

#[test]
fn the_time_of_a_body_that_waited_for_others_says_nothing() {
    let machine = Arc::new(machine(&[1], &[1000]));
    let mut m = Mapper::new(machine, make("locality", 0).unwrap(), 2);
    let (world, id) = (Same(0), TaskId::from_u64);
    step(&mut m, 0, Some("a"), &world);
    m.suspended(id(0));
    m.ready(id(0), &world);
    m.take_runnable();
    m.ended(id(0), 1_000_000, &world);
    let (_, note) = step(&mut m, 1, Some("a"), &world);
    assert!(!note.contains("run"), "{note}");
}

#[test]
fn notes_of_a_task_that_is_not_assigned_are_dropped() {
    struct Chatty;
    impl SchedulingPolicy for Chatty {
        fn name(&self) -> &str {
            "chatty"
        }
        fn push(&mut self, _: &SchedCx<'_>, _: TaskId) {}
        fn pop(&mut self, cx: &SchedCx<'_>, device: DeviceId) -> Option<Assignment> {
            let note = |ns| Note {
                parts: smallvec![("score", ns)],
            };
            let (first, second) = (TaskId::from_u64(0), TaskId::from_u64(1));
            cx.note(second, note(7));
            cx.note(first, note(20_000));
            cx.note(first, note(30_000_000));
            let is_cpu = device == CPU;
            let task = if cx.task(first).is_some() {
                first
            } else {
                second
            };
            (is_cpu && cx.fits(task, 0)).then_some(Assignment { task, choice: 0 })
        }
    }
    let machine = Arc::new(machine(&[1], &[1000]));
    let mut m = Mapper::new(machine, Box::new(Chatty), 1);
    let world = Same(0);
    let (_, note) = step(&mut m, 0, None, &world);
    assert_eq!(note, "score 30.0 ms", "the last one counts");
    let (_, note) = step(&mut m, 1, None, &world);
    assert_eq!(note, "score 7 ns");
}

#[test]
fn what_is_set_aside_can_not_be_claimed() {
    struct Holds(std::cell::Cell<u64>);
    impl World for Holds {
        fn now(&self) -> u64 {
            0
        }
        fn missing_bytes(&self, _: &Placing, _: &[DeviceId]) -> u64 {
            0
        }
        fn transfer_ns(&self, _: &Placing, _: &[DeviceId]) -> u64 {
            0
        }
        fn held(&self, device: DeviceId) -> u64 {
            if device == GPU { self.0.get() } else { 0 }
        }
    }
    let claims = |memory| {
        Arc::new(Placing {
            choices: vec![on(&[1], 100, memory)],
            ..(*placing(None)).clone()
        })
    };
    let world = Holds(std::cell::Cell::new(600));
    let machine = Arc::new(machine(&[1], &[1000]));
    let mut m = Mapper::new(machine, make("eager", 0).unwrap(), 4);
    let error = m.check(&claims(500), &world).unwrap_err().to_string();
    assert!(
        error
            .contains("claims 500 bytes of memory, the device has 1000, of which 600 are reserved"),
        "{error}"
    );
    assert!(m.check(&claims(400), &world).is_ok());
    let id = TaskId::from_u64;
    for task in 0..2 {
        m.spawned(id(task), claims(300), 0);
        m.ready(id(task), &world);
    }
    assert_eq!(m.assign(&world).unwrap().len(), 1);
    world.0.set(400);
    m.held_changed(&world);
    assert_eq!(m.assign(&world).unwrap().len(), 1);
    assert_eq!(m.validate(), Ok(()));
}

#[test]
fn what_has_no_room_on_one_device_goes_to_another() {
    /// The second GPU has room for nothing; with `full` nobody has.
    struct Small(std::cell::Cell<bool>);
    impl World for Small {
        fn now(&self) -> u64 {
            0
        }
        fn missing_bytes(&self, _: &Placing, _: &[DeviceId]) -> u64 {
            0
        }
        fn transfer_ns(&self, _: &Placing, _: &[DeviceId]) -> u64 {
            0
        }
        fn has_room(&self, _: &Placing, choice: &Choice) -> bool {
            !self.0.get() && choice.devices[0] == GPU
        }
    }
    let on_any = Placing {
        choices: vec![on(&[2], 100, 0), on(&[1], 100, 0)],
        ..(*placing(None)).clone()
    };
    let on_any = Arc::new(on_any);
    for policy in POLICIES {
        let world = Small(std::cell::Cell::new(false));
        let machine = Arc::new(machine(&[1, 1], &[1000, 1000]));
        let mut m = Mapper::new(machine, make(policy.name, 0).unwrap(), 4);
        let id = TaskId::from_u64;
        for task in 0..20 {
            m.spawned(id(task), Arc::clone(&on_any), 0);
            m.ready(id(task), &world);
            for placed in m.assign(&world).unwrap() {
                assert_eq!(placed.devices[..], [GPU], "{}", policy.name);
                m.staged(placed.task);
                m.take_runnable();
                m.ended(placed.task, 1, &world);
            }
        }
        // Then it is placed all the same, and staging says what is missing.
        world.0.set(true);
        m.spawned(id(20), Arc::clone(&on_any), 0);
        m.ready(id(20), &world);
        assert_eq!(m.assign(&world).unwrap().len(), 1, "{}", policy.name);
    }
}
