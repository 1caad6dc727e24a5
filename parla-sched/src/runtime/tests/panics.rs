//! A panic of the runtime's own, injected into each phase of a worker: every waiter wakes and hears of it, and the end does not hang.

use super::*;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Phase {
    Enter,
    Prepare,
    Pause,
    Run,
    Cancelled,
}

const PHASES: [Phase; 5] = [
    Phase::Enter,
    Phase::Prepare,
    Phase::Pause,
    Phase::Run,
    Phase::Cancelled,
];

/// Panics in one phase, as soon as it is armed.
struct Faulty {
    phase: Phase,
    armed: AtomicBool,
}

impl Faulty {
    fn pass(&self, phase: Phase) {
        if self.phase == phase && self.armed.load(Ordering::SeqCst) {
            // Without a message on stderr.
            std::panic::resume_unwind(Box::new("injected"));
        }
    }
}

impl Executor for Faulty {
    /// Whether it ends well.
    type Body = bool;
    type Thread = ();

    fn enter(&self) {
        self.pass(Phase::Enter);
    }

    fn prepare(&self, (): &mut ()) {
        self.pass(Phase::Prepare);
    }

    fn pause(&self, (): &mut ()) {
        self.pass(Phase::Pause);
    }

    fn run(&self, (): &mut (), _: &Cx<'_, Self>, _: TaskId, well: bool) -> Step<bool> {
        self.pass(Phase::Run);
        if well { Step::Done } else { Step::Failed }
    }

    fn refused(&self, (): &mut (), _: &Cx<'_, Self>, _: TaskId, _: bool, _: &PlacingError) {}

    fn cancelled(&self, _: Vec<Cancelled<bool>>) {
        self.pass(Phase::Cancelled);
    }
}

#[test]
fn every_waiter_hears_of_a_fault_of_the_runtime() {
    at_each(|workers| {
        for phase in PHASES {
            let executor = Faulty {
                phase,
                armed: AtomicBool::new(true),
            };
            let options = Options {
                workers,
                ..Options::default()
            };
            let rt = Runtime::new(executor, options).expect("the workers start");
            // All that happens to it may come too late: the worker may be gone.
            let spawn = |task, well| rt.spawn(task, |_| well);
            let first = spawn(Task::default(), false);
            if let Ok(first) = first {
                let _ = spawn(after(&[first]), true);
            }
            let waited = std::thread::scope(|scope| {
                let task = scope.spawn(|| first.map(|id| rt.wait(id, Some(LIMIT), None)));
                let idle = rt.wait_idle(Some(LIMIT), None);
                (task.join().expect("it returns"), idle)
            });
            let told = |waited: &Waited| matches!(waited, Waited::Broken);
            assert!(told(&waited.1), "{phase:?}: {waited:?}");
            assert!(
                !matches!(waited.0, Ok(Waited::TimedOut)),
                "{phase:?}: {waited:?}"
            );
            assert!(told(&rt.wait_idle(Some(LIMIT), None)), "{phase:?}: later");
            drop(rt); // joins the workers
        }
    });
}
