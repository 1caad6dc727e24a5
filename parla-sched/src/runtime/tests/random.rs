//! Random programs against a sequential oracle, with yields injected.

use super::*;

/// When each task began and ended, by one clock that all share.
#[derive(Default)]
struct Clock {
    now: AtomicUsize,
    spans: Mutex<std::collections::BTreeMap<usize, (usize, usize)>>,
}

impl Clock {
    fn tick(&self) -> usize {
        self.now.fetch_add(1, Ordering::SeqCst)
    }
}

/// A task of the program: what it depends on, whether it fails, how it is to be run.
struct Plan {
    on: Vec<usize>,
    fails: bool,
    inside: bool,
    attrs: Attrs,
}

fn plan(seed: &mut u64, n: usize, workers: usize) -> Vec<Plan> {
    let mut below = |n: u64| usize::try_from(splitmix(seed) % n).expect("small");
    (0..n)
        .map(|i| Plan {
            on: (0..below(4))
                .filter(|_| i > 0)
                .map(|_| i - 1 - below(i.min(20) as u64))
                .collect(),
            fails: below(60) == 0,
            inside: below(3) == 0,
            attrs: Attrs {
                priority: if below(5) == 0 {
                    below(5) as i32 - 2
                } else {
                    0
                },
                worker: (below(9) == 0).then(|| u16::try_from(below(workers as u64)).expect("few")),
                placed: false,
                claim: Claim {
                    vcus: Vcus(if below(4) == 0 { below(1000) as u32 } else { 0 }),
                    memory: 0,
                },
            },
        })
        .collect()
}

/// Which tasks run to their end, fail, or never run: one after the other, the slow and obvious way.
fn oracle(plans: &[Plan]) -> Vec<TaskState> {
    let mut states = Vec::new();
    for plan in plans {
        let ok = plan.on.iter().all(|d| states[*d] == TaskState::Done);
        states.push(if !ok {
            TaskState::Cancelled
        } else if plan.fails {
            TaskState::Failed
        } else {
            TaskState::Done
        });
    }
    states
}

fn body(clock: &Arc<Clock>, number: usize, fails: bool) -> Body {
    let clock = Arc::clone(clock);
    Box::new(move |_| {
        let begin = clock.tick();
        if number.is_multiple_of(5) {
            std::thread::yield_now();
        }
        let end = clock.tick();
        let before = clock.spans.lock().insert(number, (begin, end));
        assert!(before.is_none(), "task {number} ran twice");
        if fails { Say::Fail } else { Say::Done }
    })
}

fn run(plans: &Arc<Vec<Plan>>, workers: usize) {
    let rt = start(workers);
    let clock = Arc::new(Clock::default());
    let ids: Arc<Vec<TaskId>> = Arc::new((0..plans.len()).map(|_| rt.declare()).collect());
    let spawn_one = {
        let (plans, ids, clock) = (Arc::clone(plans), Arc::clone(&ids), Arc::clone(&clock));
        move |number: usize, spawn: &dyn Fn(Task<'_>, Body)| {
            let plan: &Plan = &plans[number];
            let dependencies: Vec<_> = plan.on.iter().map(|d| ids[*d]).collect();
            let task = Task {
                declared: Some(ids[number]),
                dependencies: &dependencies,
                attrs: plan.attrs,
                placing: None,
            };
            spawn(task, body(&clock, number, plan.fails));
        }
    };
    // Backwards, so that most dependencies are spawned later; some from inside bodies.
    for number in (0..plans.len()).rev() {
        let spawn_one = spawn_one.clone();
        if plans[number].inside {
            spawn(&rt, Task::default(), move |cx| {
                spawn_one(number, &|task, body| {
                    assert!(cx.spawn(task, |_| body).is_ok())
                });
            });
        } else {
            spawn_one(number, &|task, body| {
                assert!(rt.spawn(task, |_| body).is_ok())
            });
        }
    }
    settle(&rt);
    let expected = oracle(plans);
    let states: Vec<_> = ids.iter().map(|id| rt.state(*id)).collect();
    assert_eq!(states, expected);
    let spans = clock.spans.lock();
    for (number, plan) in plans.iter().enumerate() {
        let span = spans.get(&number);
        assert_eq!(
            span.is_some(),
            expected[number] != TaskState::Cancelled,
            "task {number}"
        );
        for dependency in &plan.on {
            if let (Some((begin, _)), Some((_, end))) = (span, spans.get(dependency)) {
                assert!(
                    end < begin,
                    "task {number} began before {dependency} had ended"
                );
            }
        }
    }
}

#[test]
fn random_programs_agree_with_a_sequential_oracle() {
    at_each(|workers| {
        let mut seed = 2026;
        for _ in 0..40 {
            run(&Arc::new(plan(&mut seed, 150, workers)), workers);
        }
    });
}

#[test]
fn a_long_random_program_agrees_with_a_sequential_oracle() {
    at_each(|workers| {
        let mut seed = workers as u64;
        run(&Arc::new(plan(&mut seed, 8_000, workers)), workers);
    });
}
