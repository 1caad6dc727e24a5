//! Every interleaving of adders and sleeping workers: no work is left behind.

use loom::sync::Arc;
use loom::thread;

use super::*;

/// A queue as simple as can be: a counter.
struct Pool {
    sleep: Sleep,
    queued: AtomicUsize,
    stop: AtomicUsize,
    done: AtomicUsize,
    expected: usize,
}

impl Pool {
    fn take(&self) -> bool {
        let mut n = self.queued.load(Ordering::Acquire);
        while n > 0 {
            match self
                .queued
                .compare_exchange(n, n - 1, Ordering::AcqRel, Ordering::Acquire)
            {
                Ok(_) => return true,
                Err(now) => n = now,
            }
        }
        false
    }

    fn add(&self) {
        self.queued.fetch_add(1, Ordering::Release);
        self.sleep.work_added();
    }

    fn work(&self, seat: u16) {
        self.sleep.start_searching();
        loop {
            if self.stop.load(Ordering::Acquire) == 1 {
                return;
            }
            if self.take() {
                self.sleep
                    .found_work(|| self.queued.load(Ordering::Acquire) == 0);
                if self.done.fetch_add(1, Ordering::AcqRel) + 1 == self.expected {
                    self.stop.store(1, Ordering::Release);
                    self.sleep.wake_all();
                    return;
                }
                self.sleep.start_searching();
            } else {
                let nothing_left = || {
                    self.queued.load(Ordering::Acquire) == 0
                        && self.stop.load(Ordering::Acquire) == 0
                };
                self.sleep.park(seat, nothing_left, || {});
            }
        }
    }
}

/// loom reports a deadlock (all threads blocked) as a failure: that is a lost wake-up.
fn explore(n_workers: u16, n_tasks: usize) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(move || {
        let pool = Arc::new(Pool {
            sleep: Sleep::new(usize::from(n_workers)),
            queued: AtomicUsize::new(0),
            stop: AtomicUsize::new(0),
            done: AtomicUsize::new(0),
            expected: n_tasks,
        });
        let workers: Vec<_> = (0..n_workers)
            .map(|seat| {
                let pool = pool.clone();
                thread::spawn(move || pool.work(seat))
            })
            .collect();
        (0..n_tasks).for_each(|_| pool.add());
        workers
            .into_iter()
            .for_each(|w| w.join().expect("no panic"));
        assert_eq!(pool.done.load(Ordering::Acquire), n_tasks);
    });
}

/// Tasks that go on only when both have begun.
struct Meeting {
    arrived: loom::sync::Mutex<usize>,
    all_here: loom::sync::Condvar,
}

impl Meeting {
    fn attend(&self, n: usize) {
        let mut arrived = self.arrived.lock().expect("not poisoned");
        *arrived += 1;
        self.all_here.notify_all();
        while *arrived < n {
            arrived = self.all_here.wait(arrived).expect("not poisoned");
        }
    }
}

#[test]
fn loom_two_tasks_that_meet_get_two_workers() {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(2);
    model.check(|| {
        let sleep = Arc::new((Sleep::new(2), AtomicUsize::new(0)));
        let meeting = Arc::new(Meeting {
            arrived: loom::sync::Mutex::new(0),
            all_here: loom::sync::Condvar::new(),
        });
        let workers: Vec<_> = (0..2)
            .map(|seat| {
                let (shared, meeting) = (Arc::clone(&sleep), Arc::clone(&meeting));
                thread::spawn(move || {
                    let (sleep, queued) = &*shared;
                    let nothing_left = || queued.load(Ordering::Acquire) == 0;
                    sleep.start_searching();
                    while queued
                        .fetch_update(Ordering::AcqRel, Ordering::Acquire, |n| n.checked_sub(1))
                        .is_err()
                    {
                        sleep.park(seat, nothing_left, || {});
                    }
                    sleep.found_work(nothing_left);
                    meeting.attend(2);
                })
            })
            .collect();
        for _ in 0..2 {
            sleep.1.fetch_add(1, Ordering::Release);
            sleep.0.work_added();
        }
        workers
            .into_iter()
            .for_each(|w| w.join().expect("no panic"));
    });
}

#[test]
fn loom_one_worker_sees_all_work() {
    explore(1, 2);
}

#[test]
fn loom_two_workers_leave_nothing_behind() {
    explore(2, 2);
}
