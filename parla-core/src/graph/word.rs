//! A task's state word: where it is in its life, how much is open for it, and which task has the slot, in one atomic.

use crate::TaskState;

/// Where the task that has the slot is in its life. *Ready* is `Waiting` or `Suspended` with nothing open.
///
/// In an order that makes the frequent questions comparisons: from `Declared` on a task has not ended, from `Waiting` on it waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    /// Nobody has the slot.
    Free,
    Failed,
    Cancelled,
    Declared,
    Running,
    Waiting,
    Suspended,
}

impl Phase {
    const ALL: [Self; 8] = [
        Self::Free,
        Self::Failed,
        Self::Cancelled,
        Self::Declared,
        Self::Running,
        Self::Waiting,
        Self::Suspended,
        Self::Free, // no word has this
    ];
}

/// From the low end: 25 bits of open dependencies, 3 of phase, 5 flags, 31 of generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Word(pub(super) u64);

/// How many dependencies a task can have.
pub(super) const MAX_OPEN: u32 = (1 << 25) - 2;

const PHASE_SHIFT: u32 = 25;
const PHASE_MASK: u64 = 0b111 << PHASE_SHIFT;
const GENERATION_SHIFT: u32 = 33;

/// Somebody waits for its end from outside the graph.
pub(super) const WATCHED: u64 = 1 << 28;
/// Its body ran before.
pub(super) const STARTED: u64 = 1 << 29;
/// Cancelled, and its owner has not [acknowledged](super::TaskGraph::acknowledge) it: who awaits it still waits.
pub(super) const UNHEARD: u64 = 1 << 30;
/// Forgotten while unheard: the acknowledgement gives the slot back.
pub(super) const FORGOTTEN: u64 = 1 << 31;
/// Its attributes are not the default ones; they are in [`Rest`](super::node::Rest).
pub(super) const SPECIAL: u64 = 1 << 32;

impl Word {
    /// A slot that nobody has; the next task in it gets this generation.
    #[inline]
    pub(super) fn free(generation: u32) -> Self {
        Self(u64::from(generation) << GENERATION_SHIFT)
    }

    #[inline]
    pub(super) fn generation(self) -> u32 {
        (self.0 >> GENERATION_SHIFT) as u32
    }

    #[inline]
    pub(super) fn open(self) -> u32 {
        (self.0 & ((1 << PHASE_SHIFT) - 1)) as u32
    }

    #[inline]
    pub(super) fn phase(self) -> Phase {
        Phase::ALL[((self.0 & PHASE_MASK) >> PHASE_SHIFT) as usize]
    }

    /// Whether it is in this phase or a later one.
    #[inline]
    fn is_from(self, phase: Phase) -> bool {
        self.0 & PHASE_MASK >= (phase as u64) << PHASE_SHIFT
    }

    /// In another phase, with this much open.
    #[inline]
    pub(super) fn enter(self, phase: Phase, open: u32) -> Self {
        let rest = self.0 & !(PHASE_MASK | ((1 << PHASE_SHIFT) - 1));
        Self(rest | (phase as u64) << PHASE_SHIFT | u64::from(open))
    }

    /// With `count` fewer open.
    #[inline]
    pub(super) fn close(self, count: u32) -> Self {
        debug_assert!(count <= self.open());
        Self(self.0 - u64::from(count))
    }

    #[inline]
    pub(super) fn has(self, flag: u64) -> bool {
        self.0 & flag != 0
    }

    #[inline]
    pub(super) fn with(self, flag: u64) -> Self {
        Self(self.0 | flag)
    }

    #[inline]
    pub(super) fn without(self, flag: u64) -> Self {
        Self(self.0 & !flag)
    }

    /// Whether it waits for others: the only time when `open` changes without the lock.
    #[inline]
    pub(super) fn is_waiting(self) -> bool {
        self.is_from(Phase::Waiting)
    }

    #[inline]
    pub(super) fn is_ready(self) -> bool {
        self.is_waiting() && self.open() == 0
    }

    /// Whether it has not ended (what was cancelled has, even if unheard of).
    #[inline]
    pub(super) fn is_alive(self) -> bool {
        self.is_from(Phase::Declared)
    }

    /// Whether nobody has to wait for it any more.
    #[inline]
    pub(super) fn has_ended(self) -> bool {
        !self.is_alive() && !self.has(UNHEARD)
    }

    /// `None`: nobody has the slot.
    pub(super) fn state(self) -> Option<TaskState> {
        Some(match self.phase() {
            Phase::Free => return None,
            Phase::Declared => TaskState::Declared,
            Phase::Waiting | Phase::Suspended if self.open() == 0 => TaskState::Ready,
            Phase::Waiting => TaskState::Waiting,
            Phase::Suspended => TaskState::Suspended,
            Phase::Running => TaskState::Running,
            Phase::Failed => TaskState::Failed,
            Phase::Cancelled => TaskState::Cancelled,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::GENERATION_MASK;

    #[test]
    fn the_parts_of_a_word_do_not_touch() {
        let phases = &Phase::ALL[..7];
        for generation in [1, 77, GENERATION_MASK] {
            for &phase in phases {
                for open in [0, 1, MAX_OPEN + 1] {
                    let word = Word::free(generation)
                        .with(WATCHED | SPECIAL)
                        .enter(phase, open);
                    assert_eq!(
                        (word.generation(), word.phase(), word.open()),
                        (generation, phase, open)
                    );
                    assert!(
                        word.has(WATCHED)
                            && word.has(SPECIAL)
                            && !word.has(STARTED | UNHEARD | FORGOTTEN)
                    );
                    assert_eq!(
                        word.without(WATCHED)
                            .with(WATCHED)
                            .close(open)
                            .enter(phase, open),
                        word
                    );
                }
            }
        }
    }
}
