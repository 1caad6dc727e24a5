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

#[test]
fn loom_one_worker_sees_all_work() {
    explore(1, 2);
}

#[test]
fn loom_two_workers_leave_nothing_behind() {
    explore(2, 2);
}
