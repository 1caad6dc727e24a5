//! The runtime by example and under stress, at several worker counts. A test that hangs fails after [`LIMIT`].

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use parla_core::lock::Mutex;
use parla_core::{Attrs, Cancelled, Claim, TaskId, TaskState, Vcus};

use super::*;

mod ahead;
mod claims;
mod failure;
mod lifecycle;
mod order;
mod panics;
mod places;
mod places_random;
mod random;
mod waits;

const LIMIT: Duration = Duration::from_secs(60);

/// What a scripted body says at the end of each step.
enum Say {
    Done,
    Fail,
    Await(Vec<TaskId>),
    Drain(Vec<Arc<dyn parla_device::Event>>),
}

type Body = Box<dyn FnMut(&Cx<'_, Script>) -> Say + Send>;

/// Runs closures that may await, and keeps who was cancelled because of whom.
#[derive(Default)]
struct Script {
    cancelled: Mutex<Vec<(TaskId, TaskId)>>,
    n_threads: Arc<AtomicUsize>,
}

/// Counts the worker threads that are alive.
struct Alive(Arc<AtomicUsize>);

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Executor for Script {
    type Body = Body;
    type Thread = Alive;

    fn enter(&self) -> Alive {
        self.n_threads.fetch_add(1, Ordering::SeqCst);
        Alive(Arc::clone(&self.n_threads))
    }

    fn run(&self, _: &mut Alive, cx: &Cx<'_, Self>, _: TaskId, mut body: Body) -> Step<Body> {
        match std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| body(cx))) {
            Ok(Say::Done) => Step::Done,
            Ok(Say::Await(tasks)) => Step::Await(body, tasks),
            Ok(Say::Drain(events)) => Step::Draining(body, events),
            Ok(Say::Fail) | Err(_) => Step::Failed,
        }
    }

    fn refused(&self, _: &mut Alive, _: &Cx<'_, Self>, _: TaskId, _: Body, _: &PlacingError) {}

    fn cancelled(&self, tasks: Vec<Cancelled<Body>>) {
        self.cancelled
            .lock()
            .extend(tasks.iter().map(|task| (task.id, task.cause)));
    }
}

type Rt = Arc<Runtime<Script>>;

fn start_with(change: impl FnOnce(&mut Options)) -> Rt {
    let capacity = Claim {
        vcus: Vcus::WHOLE,
        memory: 1 << 30,
    };
    let mut options = Options {
        workers: 2,
        capacity,
        trace: false,
        name: "test".to_owned(),
        bind: Vec::new(),
        placement: None,
    };
    change(&mut options);
    Arc::new(Runtime::new(Script::default(), options).expect("threads can be had"))
}

fn start(workers: usize) -> Rt {
    start_with(|options| options.workers = workers)
}

/// A body of one step that ends well.
fn once(f: impl FnOnce(&Cx<'_, Script>) + Send + 'static) -> Body {
    let mut f = Some(f);
    Box::new(move |cx| {
        f.take().expect("runs once")(cx);
        Say::Done
    })
}

fn add_one(n: &AtomicUsize) {
    n.fetch_add(1, Ordering::SeqCst);
}

fn after<'a>(dependencies: &'a [TaskId]) -> Task<'a> {
    Task {
        dependencies,
        ..Task::default()
    }
}

fn spawn(rt: &Rt, task: Task<'_>, f: impl FnOnce(&Cx<'_, Script>) + Send + 'static) -> TaskId {
    rt.spawn(task, |_| once(f)).expect("spawns")
}

/// Everything ends well, and afterwards all accounts are settled.
fn settle(rt: &Rt) {
    assert!(matches!(rt.wait_idle(None, None), Waited::Ended));
    assert_eq!(rt.n_pending(), 0);
    rt.validate().expect("consistent when idle");
    let stats = rt.stats();
    assert_eq!(
        (stats.spawned, stats.claimed),
        (stats.finished, Claim::default())
    );
}

/// Runs a test on a thread of its own, at each of these worker counts, and gives up on it after a while.
fn at_each(test: fn(usize)) {
    for workers in [1, 2, 3, 8] {
        limited(move || test(workers));
    }
}

fn limited(test: impl FnOnce() + Send + 'static) {
    let (tell, told) = channel();
    let thread = std::thread::Builder::new()
        .name("test".into())
        .spawn(move || {
            test();
            let _ = tell.send(());
        });
    let thread = thread.expect("a thread for the test");
    match told.recv_timeout(LIMIT) {
        Ok(()) => thread.join().expect("it said it was done"),
        Err(RecvTimeoutError::Disconnected) => {
            std::panic::resume_unwind(thread.join().expect_err("it panicked"))
        }
        Err(RecvTimeoutError::Timeout) => panic!("hangs"),
    }
}

/// A door that bodies wait at until it is opened.
#[derive(Clone, Default)]
struct Gate(Arc<(Mutex<bool>, parla_core::lock::Condvar)>);

impl Gate {
    fn open(&self) {
        *self.0.0.lock() = true;
        self.0.1.notify_all();
    }

    fn pass(&self) {
        let mut open = self.0.0.lock();
        while !*open {
            self.0.1.wait(&mut open);
        }
    }
}

/// A body that waits at a gate, once it has begun.
fn blocked(rt: &Rt, task: Task<'_>) -> (TaskId, Gate) {
    let (begun, gate) = (Gate::default(), Gate::default());
    let id = spawn(rt, task, {
        let (begun, gate) = (begun.clone(), gate.clone());
        move |_| {
            begun.open();
            gate.pass();
        }
    });
    begun.pass();
    (id, gate)
}

fn splitmix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}
