//! Which of the ready tasks that claim resources or carry a priority may run next.
//!
//! Pure: no lock, no clock. A task whose claim fits is *admitted*, at once and whatever stands before it in the queue, so a big
//! request never blocks small ones behind it. So that a stream of small ones does not starve a big one either, a task
//! that was passed over [`PATIENCE`] times is *reserved* for: nobody else is admitted until it fits.

use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeMap, BinaryHeap};

use parla_core::{Claim, ClaimError, Ledger, Ready, TaskId, Vcus};
use parla_data::DataError;

use crate::whereabouts::{Resource, Shortage};

/// How many later tasks may be admitted before one that does not fit yet.
const PATIENCE: u32 = 64;

/// Order of service: higher priority first, then first come, first served.
type Turn = (Reverse<i32>, u64);

/// Who asks for a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Claimant {
    /// A ready task.
    Task(Ready),
    /// A body that gave its claim back while it waited and wants to go on; by number.
    Body(u64),
}

/// Claimants in order of service.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    heap: BinaryHeap<Reverse<(Turn, Unordered<Ready>)>>,
    arrivals: u64,
}

impl Turns {
    /// Adds one behind all of its priority.
    pub(crate) fn push(&mut self, ready: Ready) {
        let turn = (Reverse(ready.attrs.priority), self.arrivals);
        self.arrivals += 1;
        self.insert(turn, ready);
    }

    fn insert(&mut self, turn: Turn, ready: Ready) {
        self.heap.push(Reverse((turn, Unordered(ready))));
    }

    /// The first, if its priority is at least `floor`.
    pub(crate) fn pop(&mut self, floor: i32) -> Option<Ready> {
        let Reverse(((Reverse(priority), _), _)) = self.heap.peek()?;
        if *priority < floor {
            return None;
        }
        self.heap.pop().map(|Reverse((_, ready))| ready.0)
    }
}

/// Takes no part in the order of what contains it (turns are unique).
#[derive(Clone, Copy, Debug)]
struct Unordered<T>(T);

impl<T> PartialEq for Unordered<T> {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}
impl<T> Eq for Unordered<T> {}
impl<T> PartialOrd for Unordered<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl<T> Ord for Unordered<T> {
    fn cmp(&self, _: &Self) -> Ordering {
        Ordering::Equal
    }
}

/// Those who ask for the same: if the first does not fit, none does.
#[derive(Debug, Default)]
struct Class {
    waiting: BTreeMap<Turn, Claimant>,
    /// How many later claimants of other classes were admitted before the first of this one.
    passed_over: u32,
}

#[derive(Debug)]
pub(crate) struct Admission {
    ledger: Ledger,
    /// Bytes set aside for the program's own use, which nobody can claim. Invariant: with those that are claimed no more than the capacity.
    held: u64,
    arrivals: u64,
    /// Those whose claim did not fit so far, by claim (vcus, bytes): a choice costs the number of different claims, not
    /// of claimants.
    classes: BTreeMap<(u32, u64), Class>,
    /// Tasks that hold their claim and wait for whichever worker is free.
    admitted: Turns,
    /// Those that hold their claim and have one place to go to; the caller of `push` or `release` takes them there.
    routed: Vec<(Claimant, Claim)>,
}

impl Admission {
    pub(crate) fn new(capacity: Claim) -> Self {
        Self {
            ledger: Ledger::new(capacity),
            held: 0,
            arrivals: 0,
            classes: BTreeMap::new(),
            admitted: Turns::default(),
            routed: Vec::new(),
        }
    }

    pub(crate) fn check(&self, claim: &Claim) -> Result<(), ClaimError> {
        self.ledger.check_beside(claim, self.held)
    }

    /// Sets memory aside that nobody claims now.
    ///
    /// # Errors
    /// There is not so much; nothing has changed.
    pub(crate) fn set_aside(&mut self, bytes: u64) -> Result<(), DataError> {
        let (capacity, in_use) = (self.ledger.capacity().memory, self.ledger.claimed().memory);
        if bytes > (capacity - in_use).saturating_sub(self.held) {
            return Err(DataError::Reserved {
                memory: "cpu".to_owned(),
                requested: bytes,
                held: self.held,
                in_use,
                capacity,
            });
        }
        self.held += bytes;
        Ok(())
    }

    /// Gives back what was set aside. Returns how many waiting tasks that lets in.
    pub(crate) fn give_back(&mut self, bytes: u64) -> usize {
        self.held -= bytes;
        self.admit()
    }

    /// A task with a claim or a priority became ready. Returns how many tasks were admitted (0 or 1).
    pub(crate) fn push(&mut self, ready: Ready) -> usize {
        self.ask(
            Claimant::Task(ready),
            ready.attrs.priority,
            ready.attrs.claim,
        )
    }

    /// A body wants back what it held before it waited: it comes first of all. Returns how many tasks were admitted.
    pub(crate) fn push_body(&mut self, number: u64, claim: Claim) -> usize {
        self.ask(Claimant::Body(number), i32::MAX, claim)
    }

    fn ask(&mut self, claimant: Claimant, priority: i32, claim: Claim) -> usize {
        let turn = (Reverse(priority), self.arrivals);
        self.arrivals += 1;
        if claim.is_empty() {
            return self.grant(turn, claimant, claim);
        }
        self.classes
            .entry((claim.vcus.0, claim.memory))
            .or_default()
            .waiting
            .insert(turn, claimant);
        self.admit()
    }

    /// A claim is given back. Returns how many waiting tasks that lets in.
    pub(crate) fn release(&mut self, claim: &Claim) -> usize {
        self.ledger.release(claim);
        self.admit()
    }

    /// The admitted task whose turn it is, if its priority is at least `floor`.
    pub(crate) fn pop(&mut self, floor: i32) -> Option<Ready> {
        self.admitted.pop(floor)
    }

    /// Those admitted since the last call that one worker or one thread waits for.
    pub(crate) fn take_routed(&mut self) -> Vec<(Claimant, Claim)> {
        std::mem::take(&mut self.routed)
    }

    /// What a task that has not been admitted is short of, for people.
    pub(crate) fn wants(&self, id: TaskId) -> Vec<Shortage> {
        let is_it =
            |claimant: &Claimant| matches!(claimant, Claimant::Task(ready) if ready.id == id);
        let class = self
            .classes
            .iter()
            .find(|(_, class)| class.waiting.values().any(is_it));
        let Some((&key, _)) = class else {
            return Vec::new();
        };
        let (asked, all, taken) = (claim_of(key), self.ledger.capacity(), self.ledger.claimed());
        let device = "cpu".to_owned();
        let mut wants = Vec::new();
        let free = (all.memory - taken.memory).saturating_sub(self.held);
        if asked.memory > free {
            wants.push(Resource::Memory {
                device: device.clone(),
                requested: asked.memory,
                free,
                reserved: self.held,
                capacity: all.memory,
            });
        }
        let free = Vcus(all.vcus.0 - taken.vcus.0);
        if asked.vcus > free {
            let requested = asked.vcus;
            wants.push(Resource::Units {
                device,
                requested,
                free,
            });
        }
        let short = |of| Shortage {
            of,
            held_by: Vec::new(),
        };
        wants.into_iter().map(short).collect()
    }

    #[cfg(test)]
    pub(crate) fn n_queued(&self) -> usize {
        self.classes.values().map(|class| class.waiting.len()).sum()
    }

    pub(crate) fn claimed(&self) -> Claim {
        self.ledger.claimed()
    }

    fn admit(&mut self) -> usize {
        let mut n_admitted = 0;
        while let Some((turn, key)) = self.next_that_fits() {
            let Some(class) = self.classes.get_mut(&key) else {
                break;
            };
            let Some(claimant) = class.waiting.remove(&turn) else {
                break;
            };
            class.passed_over = 0;
            if class.waiting.is_empty() {
                self.classes.remove(&key);
            }
            for class in self.classes.values_mut() {
                if class
                    .waiting
                    .first_key_value()
                    .is_some_and(|(first, _)| *first < turn)
                {
                    class.passed_over = class.passed_over.saturating_add(1);
                }
            }
            let claim = claim_of(key);
            let granted = self.ledger.try_claim(&claim);
            debug_assert!(granted, "it fitted a moment ago");
            n_admitted += self.grant(turn, claimant, claim);
        }
        n_admitted
    }

    /// Sends someone who holds his claim on his way. Returns how many tasks any worker may now run (0 or 1).
    fn grant(&mut self, turn: Turn, claimant: Claimant, claim: Claim) -> usize {
        match claimant {
            Claimant::Task(ready) if ready.attrs.worker.is_none() => {
                self.admitted.insert(turn, ready);
                1
            }
            claimant => {
                self.routed.push((claimant, claim));
                0
            }
        }
    }

    /// The first in order of service that fits, unless one before it is reserved for.
    fn next_that_fits(&self) -> Option<(Turn, (u32, u64))> {
        let mut best = None;
        let mut reserved = None;
        for (&key, class) in &self.classes {
            let Some((&turn, _)) = class.waiting.first_key_value() else {
                continue;
            };
            let claim = claim_of(key);
            if self.ledger.fits_beside(&claim, self.held) {
                best = best.map_or(Some((turn, key)), |b: (Turn, _)| Some(b.min((turn, key))));
            } else if class.passed_over >= PATIENCE && self.check(&claim).is_ok() {
                reserved = reserved.map_or(Some(turn), |r: Turn| Some(r.min(turn)));
            }
        }
        best.filter(|(turn, _)| reserved.is_none_or(|reserved| *turn < reserved))
    }
}

fn claim_of((vcus, memory): (u32, u64)) -> Claim {
    Claim {
        vcus: Vcus(vcus),
        memory,
    }
}

#[cfg(test)]
mod tests;
