//! The threads that do what is on the queues, and how they are started, woken and let go.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parla_core::lock::MutexGuard;

use super::event::{End, call};
use super::state::{Effects, Job, Operation, State, Ticket, Timer, Work};
use super::{Shared, Threaded};
use crate::backend::{Callback, Event};
use crate::copy;
use crate::error::DeviceError;

/// How long a thread without work stays.
const LINGER: Duration = Duration::from_secs(2);

/// Threads to start once the lock is free.
#[derive(Default)]
struct Recruits {
    workers: usize,
    timer: bool,
}

impl Shared {
    /// Changes the state from a thread that is not ours.
    pub(super) fn change<R>(
        self: &Arc<Self>,
        change: impl FnOnce(&mut State, &mut Effects) -> R,
    ) -> R {
        let mut effects = Effects::default();
        let mut threaded = self.state.lock();
        let result = change(&mut threaded.state, &mut effects);
        let recruits = self.wake(&mut threaded, false);
        drop(threaded);
        self.recruit(&recruits);
        self.settle(effects, false);
        result
    }

    /// Sees to it that somebody takes the jobs and watches the timers. `takes_one`: the calling worker takes a job next.
    fn wake(&self, threaded: &mut Threaded, takes_one: bool) -> Recruits {
        let mut recruits = Recruits::default();
        let coming = threaded.n_wakeups + threaded.n_starting + usize::from(takes_one);
        for _ in coming..threaded.state.jobs.len() {
            if threaded.n_asleep > 0 {
                threaded.n_asleep -= 1;
                threaded.n_wakeups += 1;
                self.work.notify_one();
            } else if threaded.n_workers < self.max_workers {
                threaded.n_workers += 1;
                threaded.n_starting += 1;
                recruits.workers += 1;
            }
        }
        if !threaded.timer_runs && !threaded.state.timers.is_empty() {
            threaded.timer_runs = true;
            recruits.timer = true;
        }
        recruits
    }

    fn recruit(self: &Arc<Self>, recruits: &Recruits) {
        for _ in 0..recruits.workers {
            self.start("worker", Self::run_worker, |threaded| {
                threaded.n_workers -= 1;
                threaded.n_starting -= 1;
                // Others will come to it.
                threaded.n_workers == 0
            });
        }
        if recruits.timer {
            self.start("timer", Self::run_timer, |threaded| {
                threaded.timer_runs = false;
                true
            });
        }
    }

    /// Starts a thread. Without one that must be, nothing here can go on: all devices are lost.
    fn start(
        self: &Arc<Self>,
        what: &str,
        run: fn(&Arc<Self>),
        failed: impl FnOnce(&mut Threaded) -> bool,
    ) {
        let shared = Arc::clone(self);
        let thread = std::thread::Builder::new().name(format!("{}-{what}", self.name));
        if let Err(reason) = thread.spawn(move || run(&shared)) {
            let mut effects = Effects::default();
            let mut threaded = self.state.lock();
            if failed(&mut threaded) {
                let error = DeviceError::Lost {
                    device: self.device_names.join(", "),
                    reason: format!("no thread can be started: {reason}"),
                };
                threaded
                    .state
                    .lose_all(&error, Instant::now(), &mut effects);
            }
            drop(threaded);
            self.settle(effects, true);
        }
    }

    /// Does what had to wait for the lock to be free. Callbacks run here if this is a thread of ours, else a worker is given them.
    fn settle(self: &Arc<Self>, effects: Effects, ours: bool) {
        let mut callbacks: Vec<(Callback, Result<(), DeviceError>)> = Vec::new();
        for (event, end) in effects.completed {
            let result = end.result.clone();
            let called = event.complete(end);
            callbacks.extend(
                called
                    .into_iter()
                    .map(|callback| (callback, result.clone())),
            );
        }
        if ours {
            run_all(callbacks);
        } else if !callbacks.is_empty() {
            let mut threaded = self.state.lock();
            threaded.state.jobs.push_back(Job::Callbacks(callbacks));
            let recruits = self.wake(&mut threaded, false);
            drop(threaded);
            self.recruit(&recruits);
        }
        for (event, lane, ticket) in effects.watches {
            self.watch(&event, lane, ticket);
        }
        drop_quietly(effects.garbage);
    }

    /// Lets a lane go on once the event is done.
    fn watch(self: &Arc<Self>, event: &Arc<dyn Event>, lane: usize, ticket: Ticket) {
        let shared = Arc::clone(self);
        event.on_done(Box::new(move |result| {
            let at = Instant::now();
            shared.change(|state, effects| {
                state.resume(lane, ticket, End { result, at }, effects);
            });
        }));
    }

    fn run_worker(self: &Arc<Self>) {
        let mut threaded = self.state.lock();
        threaded.n_starting -= 1;
        loop {
            if let Some(job) = threaded.state.jobs.pop_front() {
                drop(threaded);
                threaded = self.run(job);
                continue;
            }
            threaded.n_asleep += 1;
            let until = Instant::now() + LINGER;
            while threaded.n_wakeups == 0 {
                if threaded.closing || Instant::now() >= until {
                    threaded.n_asleep -= 1;
                    threaded.n_workers -= 1;
                    return;
                }
                self.work.wait_until(&mut threaded, until);
            }
            threaded.n_wakeups -= 1;
        }
    }

    fn run(self: &Arc<Self>, job: Job) -> MutexGuard<'_, Threaded> {
        match job {
            Job::Callbacks(callbacks) => {
                run_all(callbacks);
                self.state.lock()
            }
            Job::Operation {
                lane,
                ticket,
                operation,
                starts_at,
            } => {
                let Operation {
                    work,
                    engines,
                    busy,
                    ..
                } = operation;
                let begun = Instant::now();
                let result = do_work(work).map_err(|reason| DeviceError::Driver {
                    device: self.device_of(lane),
                    call: "launch",
                    reason,
                });
                let mut effects = Effects::default();
                let mut threaded = self.state.lock();
                let now = Instant::now();
                // What counts is how long the work took, not how late this thread came to it.
                let ends_at = Operation::end(starts_at, busy, now - begun);
                if ends_at > now && result.is_ok() {
                    let timers = &mut threaded.state.timers;
                    let is_first = timers.peek().is_none_or(|first| ends_at < first.0.at);
                    timers.push(std::cmp::Reverse(Timer {
                        at: ends_at,
                        lane,
                        ticket,
                        engines,
                    }));
                    if is_first {
                        self.timer.notify_one();
                    }
                } else {
                    let end = End {
                        result,
                        at: ends_at,
                    };
                    threaded
                        .state
                        .finish(lane, ticket, &engines, end, &mut effects);
                }
                if effects.is_nothing() {
                    let recruits = self.wake(&mut threaded, true);
                    if recruits.is_nothing() {
                        return threaded;
                    }
                    drop(threaded);
                    self.recruit(&recruits);
                } else {
                    let recruits = self.wake(&mut threaded, effects.completed.is_empty());
                    drop(threaded);
                    self.recruit(&recruits);
                    self.settle(effects, true);
                }
                self.state.lock()
            }
        }
    }

    fn device_of(&self, lane: usize) -> String {
        let device = self.state.lock().state.device_of(lane);
        self.device_names[device].clone()
    }

    fn run_timer(self: &Arc<Self>) {
        sleep_precisely();
        let mut threaded = self.state.lock();
        let mut idle_until = Instant::now() + LINGER;
        loop {
            let now = Instant::now();
            let mut effects = Effects::default();
            let timers = &mut threaded.state.timers;
            match timers.peek().map(|first| first.0.at) {
                Some(at) if at <= now => {
                    idle_until = now + LINGER;
                    if let Some(first) = timers.pop() {
                        let Timer {
                            lane,
                            ticket,
                            engines,
                            ..
                        } = first.0;
                        let end = End { result: Ok(()), at };
                        threaded
                            .state
                            .finish(lane, ticket, &engines, end, &mut effects);
                    }
                    let recruits = self.wake(&mut threaded, false);
                    drop(threaded);
                    self.recruit(&recruits);
                    self.settle(effects, true);
                    threaded = self.state.lock();
                }
                Some(at) => {
                    self.timer.wait_until(&mut threaded, at);
                }
                None if threaded.closing || now >= idle_until => {
                    threaded.timer_runs = false;
                    return;
                }
                None => {
                    self.timer.wait_until(&mut threaded, idle_until);
                }
            }
        }
    }
}

impl Recruits {
    fn is_nothing(&self) -> bool {
        self.workers == 0 && !self.timer
    }
}

/// Does what an operation is about; an error is what a kernel panicked with. What it held is dropped here.
fn do_work(work: Work) -> Result<(), String> {
    match work {
        Work::Copy(copy) => {
            // SAFETY: `Lane::push` checked it; the memory is that of blocks which the copy holds, and the contract gives it to the copy
            // until the operation is done.
            unsafe { copy::run(&copy) };
            drop_quietly(copy);
            Ok(())
        }
        Work::Kernel(kernel) => catch_unwind(AssertUnwindSafe(kernel)).map_err(|panic| {
            let text = panic
                .downcast_ref::<&str>()
                .map(|text| (*text).to_owned())
                .or_else(|| panic.downcast_ref::<String>().cloned());
            format!("the function panicked: {}", text.unwrap_or_default())
        }),
    }
}

fn run_all(callbacks: Vec<(Callback, Result<(), DeviceError>)>) {
    for (callback, result) in callbacks {
        call(callback, result);
    }
}

/// Drops what may run code of others, which may panic.
fn drop_quietly<T>(things: T) {
    let _ = catch_unwind(AssertUnwindSafe(|| drop(things)));
}

/// Lets the kernel wake this thread at the time it asks for, not some 50 us later.
fn sleep_precisely() {
    #[cfg(target_os = "linux")]
    // SAFETY: this option takes one number and changes nothing but when the calling thread's sleeps end.
    unsafe {
        libc::prctl(libc::PR_SET_TIMERSLACK, 1_000_u64, 0, 0, 0);
    }
}
