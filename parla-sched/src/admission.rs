//! Which of the ready tasks that claim resources or carry a priority may run next.
//!
//! Pure: no lock, no clock. A task whose claim fits is *admitted*, at once and whatever stands before it in the queue, so a big
//! request never blocks small ones behind it. So that a stream of small ones does not starve a big one either, a task
//! that was passed over [`PATIENCE`] times is *reserved* for: nobody else is admitted until it fits.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use parla_core::{Claim, ClaimError, Ledger, Ready};

/// How many later tasks may be admitted before one that does not fit yet.
const PATIENCE: u32 = 64;

/// Order of service: higher priority first, then first come, first served.
type Turn = (Reverse<i32>, u64);

/// A ready task that holds its claim already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Admitted(pub(crate) Ready);

/// Ready tasks with the same claim: if the first does not fit, none does.
#[derive(Debug, Default)]
struct Class {
    waiting: BTreeMap<Turn, Ready>,
    /// How many later tasks of other classes were admitted before the first of this one.
    passed_over: u32,
}

#[derive(Debug)]
pub(crate) struct Admission {
    ledger: Ledger,
    arrivals: u64,
    /// Ready tasks whose claim did not fit so far, by claim (vcus, bytes): a choice costs the number of different
    /// claims, not of waiting tasks.
    classes: BTreeMap<(u32, u64), Class>,
    /// Holds its claim, waits for a worker.
    admitted: BinaryHeap<Reverse<(Turn, ReadyEntry)>>,
}

/// A [`Ready`] that does not take part in ordering (turns are unique).
#[derive(Clone, Copy, Debug)]
struct ReadyEntry(Ready);

impl PartialEq for ReadyEntry {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}
impl Eq for ReadyEntry {}
impl PartialOrd for ReadyEntry {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for ReadyEntry {
    fn cmp(&self, _: &Self) -> std::cmp::Ordering {
        std::cmp::Ordering::Equal
    }
}

impl Admission {
    pub(crate) fn new(capacity: Claim) -> Self {
        Self { ledger: Ledger::new(capacity), arrivals: 0, classes: BTreeMap::new(), admitted: BinaryHeap::new() }
    }

    pub(crate) fn check(&self, claim: &Claim) -> Result<(), ClaimError> {
        self.ledger.check(claim)
    }

    /// A task with a claim or a priority became ready. Returns how many tasks were admitted (0 or 1).
    pub(crate) fn push(&mut self, ready: Ready) -> usize {
        let turn = (Reverse(ready.attrs.priority), self.arrivals);
        self.arrivals += 1;
        let claim = ready.attrs.claim;
        self.classes.entry((claim.vcus.0, claim.memory)).or_default().waiting.insert(turn, ready);
        self.admit()
    }

    /// A task gives back its claim. Returns how many waiting tasks that lets in.
    pub(crate) fn release(&mut self, claim: &Claim) -> usize {
        self.ledger.release(claim);
        self.admit()
    }

    /// The admitted task whose turn it is, if its priority is at least `floor`.
    pub(crate) fn pop(&mut self, floor: i32) -> Option<Admitted> {
        let Reverse(((Reverse(priority), _), _)) = self.admitted.peek()?;
        if *priority < floor {
            return None;
        }
        self.admitted.pop().map(|Reverse((_, entry))| Admitted(entry.0))
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
            let Some(class) = self.classes.get_mut(&key) else { break };
            let Some(ready) = class.waiting.remove(&turn) else { break };
            class.passed_over = 0;
            if class.waiting.is_empty() {
                self.classes.remove(&key);
            }
            for class in self.classes.values_mut() {
                if class.waiting.first_key_value().is_some_and(|(first, _)| *first < turn) {
                    class.passed_over = class.passed_over.saturating_add(1);
                }
            }
            let granted = self.ledger.try_claim(&ready.attrs.claim);
            debug_assert!(granted, "it fitted a moment ago");
            self.admitted.push(Reverse((turn, ReadyEntry(ready))));
            n_admitted += 1;
        }
        n_admitted
    }

    /// The first task in order of service that fits, unless one before it is reserved for.
    fn next_that_fits(&self) -> Option<(Turn, (u32, u64))> {
        let mut best = None;
        let mut reserved = None;
        for (&key, class) in &self.classes {
            let Some((&turn, ready)) = class.waiting.first_key_value() else { continue };
            if self.ledger.fits(&ready.attrs.claim) {
                best = best.map_or(Some((turn, key)), |b: (Turn, _)| Some(b.min((turn, key))));
            } else if class.passed_over >= PATIENCE {
                reserved = reserved.map_or(Some(turn), |r: Turn| Some(r.min(turn)));
            }
        }
        best.filter(|(turn, _)| reserved.is_none_or(|reserved| *turn < reserved))
    }
}

#[cfg(test)]
mod tests;
