//! The mapper against a ledger that knows only the table of its documentation, and adds everything up anew for every question.

use proptest::prelude::*;

use super::*;

const DEPTH: usize = 2;
const NEW: At = At::Placed { resumed: false };
const AGAIN: At = At::Placed { resumed: true };

/// Where a task is, as far as its caller can know.
#[derive(Clone, Copy, Debug, PartialEq)]
enum At {
    Pushed,
    Placed { resumed: bool },
    Waiting { resumed: bool },
    Running,
    Draining,
    Suspended,
    Returning,
    Gone,
}

#[derive(Clone, Debug)]
struct Known {
    choices: Vec<Choice>,
    choice: usize,
    at: At,
}

impl Known {
    /// What the task has of a device by the table: places, memory, units.
    fn holds(&self, machine: &MachineModel, device: DeviceId) -> (usize, u64, u32) {
        let choice = &self.choices[self.choice];
        let Some(slot) = choice.devices.iter().position(|&other| other == device) else {
            return (0, 0, 0);
        };
        let exclusive = machine.device(device).exclusive;
        let has_place = match self.at {
            At::Pushed | At::Gone | At::Suspended | At::Returning | At::Draining => false,
            At::Placed { resumed: false } | At::Waiting { resumed: false } => true,
            At::Running | At::Placed { .. } | At::Waiting { .. } => !exclusive,
        };
        let is_placed = !matches!(
            self.at,
            At::Pushed | At::Gone | At::Suspended | At::Returning
        );
        let claim = choice.claims[slot];
        let vcus = if claim.vcus.0 == 0 {
            1000
        } else {
            claim.vcus.0
        };
        (
            usize::from(has_place),
            if exclusive && is_placed {
                claim.memory
            } else {
                0
            },
            if exclusive && self.at == At::Running {
                vcus
            } else {
                0
            },
        )
    }
}

#[derive(Debug, Default)]
struct Ledger {
    tasks: Vec<Known>,
}

impl Ledger {
    fn used(&self, machine: &MachineModel, device: DeviceId) -> (usize, u64, u32) {
        let holds = self.tasks.iter().map(|task| task.holds(machine, device));
        holds.fold((0, 0, 0), |a, b| (a.0 + b.0, a.1 + b.1, a.2 + b.2))
    }

    /// Whether a task would get what it needs next, if it were at that stage.
    fn could_be(&self, machine: &MachineModel, number: usize, choice: usize, at: At) -> bool {
        let mut tasks = self.tasks.clone();
        tasks[number].choice = choice;
        tasks[number].at = at;
        let after = Self { tasks };
        let devices = &self.tasks[number].choices[choice].devices;
        devices.iter().all(|&device| {
            let model = machine.device(device);
            let n_places = DEPTH
                + if model.exclusive {
                    0
                } else {
                    model.n_workers as usize
                };
            let capacity = machine.memories[model.memory.0 as usize].capacity;
            let (places, memory, units) = after.used(machine, device);
            // Only a new place is limited: those that come back may be one too many on a CPU.
            (at != NEW || places <= n_places) && memory <= capacity && units <= 1000
        })
    }

    /// Whether one that returns waits for memory that this choice claims, too: then it goes first.
    fn is_awaited(&self, machine: &MachineModel, choice: &Choice) -> bool {
        let wants = |choice: &Choice, device: DeviceId| {
            let slot = choice.devices.iter().position(|&other| other == device);
            slot.is_some_and(|slot| choice.claims[slot].memory > 0)
        };
        self.at(|at| at == At::Returning).iter().any(|&number| {
            let known = &self.tasks[number];
            let mut devices = choice.devices.iter().copied();
            devices.any(|device| {
                let exclusive = machine.device(device).exclusive;
                exclusive && wants(choice, device) && wants(&known.choices[known.choice], device)
            })
        })
    }

    fn at(&self, which: impl Fn(At) -> bool) -> Vec<usize> {
        let tasks = self.tasks.iter().enumerate();
        tasks
            .filter(|(_, task)| which(task.at))
            .map(|(number, _)| number)
            .collect()
    }
}

#[derive(Clone, Debug)]
enum Op {
    Add(Vec<Choice>, i32),
    Stage(usize),
    Suspend(usize),
    Drain(usize),
    Resume(usize),
    End(usize),
    Remove(usize),
    Round,
}

fn choice() -> impl Strategy<Value = Choice> {
    let devices = prop_oneof![
        4 => (0_u32..3).prop_map(|device| vec![device]),
        1 => Just(vec![1, 2]),
        1 => Just(vec![2, 0]),
    ];
    let vcus = prop_oneof![Just(0), Just(1000), 1_u32..600];
    let memory = prop_oneof![Just(0), 1_u64..60, Just(100)];
    (devices, vcus, memory).prop_map(|(devices, vcus, memory)| on(&devices, vcus, memory))
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (prop::collection::vec(choice(), 1..3), -1..2).prop_map(|(c, p)| Op::Add(c, p)),
        4 => any::<usize>().prop_map(Op::Stage),
        1 => any::<usize>().prop_map(Op::Suspend),
        1 => any::<usize>().prop_map(Op::Drain),
        2 => any::<usize>().prop_map(Op::Resume),
        3 => any::<usize>().prop_map(Op::End),
        1 => any::<usize>().prop_map(Op::Remove),
        5 => Just(Op::Round),
    ]
}

/// One of those, if there are any.
fn pick(of: &[usize], which: usize) -> Option<usize> {
    (!of.is_empty()).then(|| of[which % of.len()])
}

/// Assigns and grants, and checks that exactly that was given which there was.
fn round(m: &mut Mapper, ledger: &mut Ledger, machine: &MachineModel) {
    // Units are granted before places are given: what begins to run makes place.
    let placed = m.assign(&Nowhere).unwrap();
    let runnable = m.take_runnable();
    for task in m.take_returning(&Nowhere) {
        let number = usize::try_from(task.as_u64()).unwrap();
        assert_eq!(ledger.tasks[number].at, At::Returning);
        let choice = ledger.tasks[number].choice;
        assert!(ledger.could_be(machine, number, choice, AGAIN));
        ledger.tasks[number].at = AGAIN;
    }
    for (task, _) in &runnable {
        let number = usize::try_from(task.as_u64()).unwrap();
        assert!(matches!(ledger.tasks[number].at, At::Waiting { .. }));
        let choice = ledger.tasks[number].choice;
        assert!(ledger.could_be(machine, number, choice, At::Running));
        ledger.tasks[number].at = At::Running;
    }
    for placed in &placed {
        let number = usize::try_from(placed.task.as_u64()).unwrap();
        assert_eq!(ledger.tasks[number].at, At::Pushed);
        assert!(ledger.could_be(machine, number, placed.choice, NEW));
        ledger.tasks[number].choice = placed.choice;
        ledger.tasks[number].at = NEW;
    }
    // Nothing is kept back. (No task has been passed over often enough for a reservation: there are too few.)
    for number in ledger.at(|at| at == At::Pushed) {
        for choice in 0..ledger.tasks[number].choices.len() {
            assert!(
                !ledger.could_be(machine, number, choice, NEW)
                    || ledger.is_awaited(machine, &ledger.tasks[number].choices[choice]),
                "task {number} could be placed"
            );
        }
    }
    if let [number] = ledger.at(|at| at == At::Returning)[..] {
        let choice = ledger.tasks[number].choice;
        assert!(
            !ledger.could_be(machine, number, choice, AGAIN),
            "task {number} could return"
        );
    }
    for number in ledger.at(|at| matches!(at, At::Waiting { .. })) {
        let choice = ledger.tasks[number].choice;
        assert!(
            !ledger.could_be(machine, number, choice, At::Running),
            "task {number} could run"
        );
    }
}

fn apply(m: &mut Mapper, ledger: &mut Ledger, machine: &MachineModel, op: &Op) {
    let name = |number: usize| id(number as u64);
    let go = |ledger: &mut Ledger, which: fn(At) -> bool, n: usize, to: At| {
        let number = pick(&ledger.at(which), n)?;
        ledger.tasks[number].at = to;
        Some(name(number))
    };
    match *op {
        Op::Add(ref choices, priority) => {
            ledger.tasks.push(Known {
                choices: choices.clone(),
                choice: 0,
                at: At::Pushed,
            });
            m.add(ledger.tasks.len() as u64 - 1, choices.clone(), priority);
        }
        Op::Stage(n) => {
            for (placed, resumed) in [(AGAIN, true), (NEW, false)] {
                let is_it: fn(At) -> bool = if resumed {
                    |at| at == AGAIN
                } else {
                    |at| at == NEW
                };
                debug_assert!(is_it(placed));
                if let Some(task) = go(ledger, is_it, n, At::Waiting { resumed }) {
                    m.staged(task);
                    break;
                }
            }
        }
        Op::Suspend(n) => {
            if let Some(task) = go(ledger, |at| at == At::Running, n, At::Suspended) {
                m.suspended(task);
            }
        }
        Op::Drain(n) => {
            if let Some(task) = go(ledger, |at| at == At::Running, n, At::Draining) {
                m.drains(task);
            }
        }
        Op::Resume(n) => {
            let suspended = ledger.at(|at| at == At::Suspended);
            let claims_memory = pick(&suspended, n).is_some_and(|number| {
                let known = &ledger.tasks[number];
                let choice = &known.choices[known.choice];
                let mut pairs = choice.devices.iter().zip(&choice.claims);
                pairs.any(|(device, claim)| machine.device(*device).exclusive && claim.memory > 0)
            });
            let next = if claims_memory {
                At::Returning
            } else {
                At::Waiting { resumed: true }
            };
            if let Some(task) = go(ledger, |at| at == At::Suspended, n, next) {
                m.ready(task, &Nowhere);
            }
        }
        Op::End(n) => {
            if let Some(task) = go(
                ledger,
                |at| matches!(at, At::Running | At::Draining),
                n,
                At::Gone,
            ) {
                m.ended(task, 1, &Nowhere);
            }
        }
        Op::Remove(n) => {
            if let Some(task) = go(ledger, |at| at != At::Running, n, At::Gone) {
                m.removed(task, &Nowhere);
            }
        }
        Op::Round => round(m, ledger, machine),
    }
    assert_eq!(m.validate(), Ok(()));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn what_is_given_is_what_there_is(ops in prop::collection::vec(op(), 1..60), which in 0..3) {
        let machine = machine(2);
        let policy = ["eager", "locality", "random"][usize::try_from(which).unwrap_or(0)];
        let policy = policy::make(policy, 1).unwrap();
        let mut m = Mapper::new(Arc::clone(&machine), policy, DEPTH);
        let mut ledger = Ledger::default();
        for op in &ops {
            apply(&mut m, &mut ledger, &machine, op);
        }
        // Whatever state they are in, all can be brought to their end.
        for _ in 0..10 * ops.len() {
            for op in [Op::Stage(0), Op::Resume(0), Op::Round, Op::End(0)] {
                apply(&mut m, &mut ledger, &machine, &op);
            }
        }
        prop_assert_eq!(ledger.at(|at| at != At::Gone), Vec::<usize>::new());
        prop_assert_eq!((m.loads(), m.ready_tasks()), (vec![0; 3], 0));
    }
}
