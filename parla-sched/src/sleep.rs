//! When workers sleep and who wakes them. `sleep/README.md` has the protocol and its proof sketch.

use crate::sync::{AtomicUsize, Bell, Mutex, Ordering, fence};

/// Parking places for a fixed number of seats.
pub(crate) struct Sleep {
    /// Workers that look for work or were woken to do so.
    searching: AtomicUsize,
    /// Length of `asleep`, readable without the lock.
    n_asleep: AtomicUsize,
    /// Seats whose worker parks or is about to. Changed together with `n_asleep`, under this lock.
    asleep: Mutex<Vec<u16>>,
    /// Where each seat's worker parks.
    berths: Box<[Bell]>,
}

impl Sleep {
    pub(crate) fn new(n_seats: usize) -> Self {
        Self {
            searching: AtomicUsize::new(0),
            n_asleep: AtomicUsize::new(0),
            asleep: Mutex::new(Vec::with_capacity(n_seats)),
            berths: (0..n_seats).map(|_| Bell::new()).collect(),
        }
    }

    /// New work stands in a queue: makes sure that somebody will look (step W).
    #[inline]
    pub(crate) fn work_added(&self) {
        fence(Ordering::SeqCst); // W1: the push is visible before the loads below; pairs with S3
        if self.n_asleep.load(Ordering::SeqCst) > 0 && self.searching.load(Ordering::SeqCst) == 0 {
            self.wake_any();
        }
    }

    /// Whether somebody sleeps or looks for work.
    pub(crate) fn is_anybody_free(&self) -> bool {
        self.n_asleep.load(Ordering::SeqCst) > 0 || self.searching.load(Ordering::SeqCst) > 0
    }

    /// New work for one seat only.
    pub(crate) fn work_added_for(&self, seat: u16) {
        fence(Ordering::SeqCst);
        let mut asleep = self.asleep.lock();
        if let Some(at) = asleep.iter().position(|s| *s == seat) {
            asleep.swap_remove(at);
            self.wake_removed(seat, asleep.len());
        }
    }

    #[cold]
    fn wake_any(&self) {
        let mut asleep = self.asleep.lock();
        if self.searching.load(Ordering::SeqCst) > 0 {
            return; // somebody else woke one meanwhile
        }
        if let Some(seat) = asleep.pop() {
            self.wake_removed(seat, asleep.len());
        }
    }

    /// Called under the lock of `asleep`, after `seat` was taken out of it. The woken worker counts as searching from here.
    fn wake_removed(&self, seat: u16, n_asleep: usize) {
        self.n_asleep.store(n_asleep, Ordering::SeqCst);
        self.searching.fetch_add(1, Ordering::SeqCst);
        self.berths[usize::from(seat)].ring();
    }

    /// Wakes everybody, to look at something other than work (shutdown).
    pub(crate) fn wake_all(&self) {
        let mut asleep = self.asleep.lock();
        while let Some(seat) = asleep.pop() {
            self.wake_removed(seat, asleep.len());
        }
    }

    /// A worker begins to look for work beyond its own queue, or is about to: until it has found some, work that is added wakes nobody else.
    pub(crate) fn start_searching(&self) {
        self.searching.fetch_add(1, Ordering::SeqCst);
    }

    /// A searching worker found work (step F): if it was the last that searched, another must look for what is left.
    pub(crate) fn found_work(&self, nothing_left: impl Fn() -> bool) {
        if self.searching.fetch_sub(1, Ordering::SeqCst) == 1 {
            fence(Ordering::SeqCst); // pairs with W1, as S3 does
            if !nothing_left() {
                self.work_added();
            }
        }
    }

    /// A searching worker found nothing (steps S1 to S4). Parks unless `nothing_left()` finds something after all.
    ///
    /// Returns as a searching worker either way. `quiet()` is called when every seat is asleep, just before this one parks.
    pub(crate) fn park(&self, seat: u16, nothing_left: impl Fn() -> bool, quiet: impl FnOnce()) {
        self.searching.fetch_sub(1, Ordering::SeqCst); // S1
        let all_asleep = {
            let mut asleep = self.asleep.lock();
            asleep.push(seat); // S2
            self.n_asleep.store(asleep.len(), Ordering::SeqCst);
            asleep.len() == self.berths.len()
        };
        fence(Ordering::SeqCst); // S3: pairs with W1
        if !nothing_left() && self.rise(seat) {
            return;
        }
        if all_asleep {
            quiet();
        }
        self.berths[usize::from(seat)].wait();
    }

    /// Leaves the list by oneself. `false`: somebody took this seat out already, its wake-up is under way.
    fn rise(&self, seat: u16) -> bool {
        let mut asleep = self.asleep.lock();
        let Some(at) = asleep.iter().position(|s| *s == seat) else {
            return false;
        };
        asleep.swap_remove(at);
        self.n_asleep.store(asleep.len(), Ordering::SeqCst);
        self.searching.fetch_add(1, Ordering::SeqCst);
        true
    }

    /// Whether every worker sleeps and `nothing_left()` holds, both at one moment: while the lock is held nobody can wake or rise.
    pub(crate) fn is_quiet(&self, nothing_left: impl Fn() -> bool) -> bool {
        let asleep = self.asleep.lock();
        asleep.len() == self.berths.len()
            && self.searching.load(Ordering::SeqCst) == 0
            && nothing_left()
    }
}

#[cfg(all(test, loom))]
mod loom_tests;
