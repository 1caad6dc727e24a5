//! The right to run bodies, and how who has it finds the next: in his own queue, in those of all, in those of others; he sleeps when there is nothing.

use std::sync::atomic::{AtomicUsize, Ordering};

use crossbeam_deque::{Steal, Stealer, Worker};
use crossbeam_utils::CachePadded;
use parla_core::lock::Mutex;
use parla_core::{Claim, Ready, SlotCache, TaskId};

use super::Executor;
use super::places::Places;
use super::shared::{Counts, Shared, bump};
use crate::admission::Turns;

/// How often an idle worker looks at all queues before it sleeps: at first at ever longer intervals, then giving way to other threads
/// in between. Together some 10 us, less than what it costs to be woken.
const SPIN_ROUNDS: u32 = 12;
const YIELD_ROUNDS: u32 = 8;
/// After this many tasks in a row a worker looks at the common queues first, so that nothing there waits for ever.
const FAIRNESS: u32 = 61;

/// The right to run bodies, with the queue that goes with it. Passes from thread to thread when a body blocks.
pub(super) struct Seat {
    pub(super) index: u16,
    pub(super) deque: Worker<TaskId>,
    /// Made ready by the task that just ended: run next, while its data is warm.
    pub(super) next: Option<TaskId>,
    pub(super) cache: SlotCache,
    /// Steps since the start, for [`FAIRNESS`].
    tick: u32,
}

/// What others may see of a seat.
pub(super) struct SeatShared {
    pub(super) stealer: Stealer<TaskId>,
    pub(super) counts: CachePadded<Counts>,
    /// Tasks that only this seat may run; they hold their claims.
    pub(super) own: Mutex<Turns>,
    pub(super) n_own: AtomicUsize,
}

impl SeatShared {
    /// Looks into the queue, which is empty before there are tasks.
    pub(super) fn touch(&self) {
        let found = self.stealer.steal();
        debug_assert!(found.is_empty(), "no task has been spawned yet");
    }

    pub(super) fn new(stealer: Stealer<TaskId>) -> Self {
        Self {
            stealer,
            counts: CachePadded::default(),
            own: Mutex::default(),
            n_own: AtomicUsize::new(0),
        }
    }

    #[inline]
    pub(super) fn pop_own(&self) -> Option<Ready> {
        if self.n_own.load(Ordering::SeqCst) == 0 {
            None
        } else {
            self.pop_own_locked()
        }
    }

    #[cold]
    fn pop_own_locked(&self) -> Option<Ready> {
        let ready = self.own.lock().pop(i32::MIN)?;
        self.n_own.fetch_sub(1, Ordering::SeqCst);
        Some(ready)
    }
}

impl Seat {
    pub(super) fn make_all(n: usize) -> (Vec<Self>, Box<[SeatShared]>) {
        let index = |i: usize| u16::try_from(i).expect("the number of workers was checked");
        let seats: Vec<_> = (0..n)
            .map(|i| Self {
                index: index(i),
                deque: Worker::new_fifo(),
                next: None,
                cache: SlotCache::default(),
                tick: 0,
            })
            .collect();
        let shared = seats
            .iter()
            .map(|seat| SeatShared::new(seat.deque.stealer()))
            .collect();
        (seats, shared)
    }
}

/// A task to run and what it was granted: to be given back even if it turns out to be cancelled.
pub(super) struct Found {
    pub(super) id: TaskId,
    pub(super) granted: Claim,
    /// A policy placed it.
    pub(super) placed: bool,
}

impl From<TaskId> for Found {
    fn from(id: TaskId) -> Self {
        Self {
            id,
            granted: Claim::default(),
            placed: false,
        }
    }
}

impl From<Ready> for Found {
    fn from(ready: Ready) -> Self {
        Self {
            id: ready.id,
            granted: ready.attrs.claim,
            placed: ready.attrs.placed,
        }
    }
}

impl<E: Executor> Shared<E> {
    /// What is at hand, in most cases. Now and then what has waited long.
    #[inline]
    pub(super) fn take_near(&self, seat: &mut Seat) -> Option<Found> {
        seat.tick = seat.tick.wrapping_add(1);
        if seat.tick.is_multiple_of(FAIRNESS) {
            if let Some(next) = seat.next.take() {
                seat.deque.push(next);
            }
            if let Some(task) = self.take_common(seat).or_else(|| seat.deque.pop()) {
                self.sleep.work_added(); // what came along into this seat's queue, and `next`
                return Some(task.into());
            }
        }
        self.take_own(seat)
    }

    /// A worker that counted as searching has found something.
    pub(super) fn found_work(&self) {
        self.sleep
            .found_work(|| self.common_queues_empty() && !self.inputs_due());
        if self.inputs_due() && !self.sleep.is_anybody_free() {
            self.send_inputs();
        }
    }

    /// Whether inputs of tasks that still wait may have to be sent on their way.
    #[inline]
    fn inputs_due(&self) -> bool {
        self.places.as_ref().is_some_and(Places::inputs_due)
    }

    /// Looks everywhere, sleeps while there is nothing anywhere. `None`: the runtime stops. The caller counts as searching.
    pub(super) fn search(&self, thread: &mut E::Thread, seat: &mut Seat) -> Option<Found> {
        self.check_idle();
        let mut rounds = 0;
        loop {
            if self.stopping.load(Ordering::SeqCst) {
                return None;
            }
            if self.inputs_due() && self.common_queues_empty() {
                self.send_inputs();
            }
            if !self.nothing_for(seat.index) {
                self.executor.prepare(thread);
                let found = self.take_own(seat);
                let found = found
                    .or_else(|| self.take_common(seat).map(Found::from))
                    .or_else(|| self.take_any(seat));
                if found.is_some() {
                    self.found_work();
                    return found;
                }
                self.executor.pause(thread); // somebody else was faster
            }
            rounds += 1;
            if rounds <= SPIN_ROUNDS {
                (0..1 << rounds.min(6)).for_each(|_| std::hint::spin_loop());
                continue;
            }
            if rounds <= SPIN_ROUNDS + YIELD_ROUNDS {
                std::thread::yield_now();
                continue;
            }
            rounds = 0;
            bump(&self.seats[usize::from(seat.index)].counts.parks, 1);
            let nothing_left = || {
                self.nothing_for(seat.index)
                    && !self.inputs_due()
                    && !self.stopping.load(Ordering::SeqCst)
            };
            self.sleep
                .park(seat.index, nothing_left, || self.check_quiet());
        }
    }

    /// What only this seat, or this seat first, may take.
    #[inline(always)]
    fn take_own(&self, seat: &mut Seat) -> Option<Found> {
        if let Some(ready) = self
            .pop_admitted(0)
            .or_else(|| self.seats[usize::from(seat.index)].pop_own())
        {
            return Some(ready.into());
        }
        seat.next
            .take()
            .or_else(|| seat.deque.pop())
            .map(Found::from)
    }

    /// What came from outside.
    fn take_common(&self, seat: &Seat) -> Option<TaskId> {
        retry(|| self.injector.steal_batch_and_pop(&seat.deque))
    }

    /// What other seats have, or what nobody was in a hurry to run.
    fn take_any(&self, seat: &Seat) -> Option<Found> {
        let n = self.seats.len();
        let first = usize::from(seat.index) + 1;
        for victim in (first..first + n - 1).map(|i| &self.seats[i % n]) {
            if let Some(task) = retry(|| victim.stealer.steal_batch_and_pop(&seat.deque)) {
                bump(&self.seats[usize::from(seat.index)].counts.steals, 1);
                return Some(task.into());
            }
        }
        self.pop_admitted(i32::MIN).map(Found::from)
    }

    /// Whether this seat would find nothing now.
    fn nothing_for(&self, seat: u16) -> bool {
        self.common_queues_empty()
            && self.seats[usize::from(seat)].n_own.load(Ordering::SeqCst) == 0
    }

    pub(super) fn bind(&self, seat: u16) {
        if let Some(core) = self.bind.get(usize::from(seat)) {
            // Binding is a matter of speed only: a system that refuses it still runs the tasks.
            let _ = parla_device::bind_current_thread(core);
        }
    }
}

fn retry(steal: impl Fn() -> Steal<TaskId>) -> Option<TaskId> {
    loop {
        match steal() {
            Steal::Success(task) => return Some(task),
            Steal::Empty => return None,
            Steal::Retry => std::hint::spin_loop(),
        }
    }
}
