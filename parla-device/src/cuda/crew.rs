//! Threads that help whoever packs much: a few of them share the parts of a copy, and stay for a moment after the last one.
//!
//! The driver calls functions of the host one at a time, so that the memory's speed is to be had only with several threads; starting
//! them for each piece would take as long as the piece.

use std::collections::VecDeque;
use std::hint::spin_loop;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use parla_core::lock::{Condvar, Mutex};

/// As many threads work on one copy at most, the caller's included.
const MOST: usize = 8;
/// How long a thread looks for more before it sleeps: about the time between two pieces.
const SPIN: Duration = Duration::from_micros(50);
/// How long it stays when there is nothing to do.
const PATIENCE: Duration = Duration::from_millis(100);

type Part = Box<dyn FnOnce() + Send>;

struct Crew {
    waiting: VecDeque<(Part, Arc<Left>)>,
    n_threads: usize,
}

/// What is left of one copy.
struct Left {
    n: AtomicUsize,
    lock: Mutex<()>,
    changed: Condvar,
}

static CREW: Mutex<Crew> = Mutex::new(Crew {
    waiting: VecDeque::new(),
    n_threads: 0,
});
static ARRIVED: Condvar = Condvar::new();
/// How many parts wait, for those who look without the lock.
static N_WAITING: AtomicUsize = AtomicUsize::new(0);

/// How many parts to make of a copy at most.
pub(super) fn size() -> usize {
    // Asking the system takes longer than many a copy.
    static SIZE: OnceLock<usize> = OnceLock::new();
    *SIZE.get_or_init(|| {
        let n = thread::available_parallelism().map_or(1, |n| n.get() / 2);
        n.clamp(1, MOST)
    })
}

/// Does all parts, some of them on other threads, and returns when they are done. The parts do not panic.
pub(super) fn share(parts: Vec<Part>) {
    share_with(parts, size() - 1);
}

/// The same with so many threads beside the caller's, at most.
fn share_with(parts: Vec<Part>, most: usize) {
    let left = Arc::new(Left {
        n: AtomicUsize::new(parts.len()),
        lock: Mutex::new(()),
        changed: Condvar::new(),
    });
    {
        let mut crew = CREW.lock();
        let helpers = parts.len().saturating_sub(1).min(most);
        for part in parts {
            crew.waiting.push_back((part, Arc::clone(&left)));
        }
        N_WAITING.store(crew.waiting.len(), Ordering::Relaxed);
        while crew.n_threads < helpers {
            let started = thread::Builder::new()
                .name("parla-cuda-pack".to_owned())
                .spawn(run);
            if started.is_err() {
                break;
            }
            crew.n_threads += 1;
        }
    }
    ARRIVED.notify_all();
    // What nobody has begun is done here, be it another copy's.
    while let Some((part, of)) = take() {
        perform(part, &of);
    }
    let began = Instant::now();
    while left.n.load(Ordering::Acquire) > 0 && began.elapsed() < SPIN {
        spin_loop();
    }
    let mut lock = left.lock.lock();
    while left.n.load(Ordering::Acquire) > 0 {
        left.changed.wait(&mut lock);
    }
}

fn take() -> Option<(Part, Arc<Left>)> {
    let mut crew = CREW.lock();
    let taken = crew.waiting.pop_front();
    N_WAITING.store(crew.waiting.len(), Ordering::Relaxed);
    taken
}

fn perform(part: Part, left: &Left) {
    part();
    // Pairs with the loads in `share`: what the part wrote is seen there.
    if left.n.fetch_sub(1, Ordering::AcqRel) == 1 {
        drop(left.lock.lock());
        left.changed.notify_all();
    }
}

fn run() {
    loop {
        while let Some((part, left)) = take() {
            perform(part, &left);
        }
        let began = Instant::now();
        while N_WAITING.load(Ordering::Relaxed) == 0 && began.elapsed() < SPIN {
            spin_loop();
        }
        let mut crew = CREW.lock();
        if crew.waiting.is_empty() {
            ARRIVED.wait_until(&mut crew, Instant::now() + PATIENCE);
            if crew.waiting.is_empty() {
                crew.n_threads -= 1;
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_is_done_before_the_call_returns_whoever_else_shares() {
        let sharers: Vec<_> = (0..4)
            .map(|_| {
                thread::spawn(|| {
                    for n in 0..200 {
                        let done = Arc::new(AtomicUsize::new(0));
                        let part = || -> Part {
                            let done = Arc::clone(&done);
                            Box::new(move || {
                                done.fetch_add(1, Ordering::Relaxed);
                            })
                        };
                        share_with((0..n % 7).map(|_| part()).collect(), 3);
                        assert_eq!(done.load(Ordering::Relaxed), n % 7);
                    }
                })
            })
            .collect();
        for sharer in sharers {
            sharer.join().expect("all parts were done");
        }
        // The threads go when there is nothing to do, and come again.
        let until = Instant::now() + Duration::from_secs(30);
        while CREW.lock().n_threads > 0 {
            assert!(Instant::now() < until, "threads that nobody needs");
            thread::yield_now();
        }
        share_with(vec![Box::new(|| {}), Box::new(|| {})], 1);
    }
}
