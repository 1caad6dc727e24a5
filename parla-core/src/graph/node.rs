//! A slot: what the graph keeps of one task, in one cache line, and the edges that leave it.

use std::num::NonZeroU64;

use super::Attrs;
use super::word::Word;
use crate::TaskId;
use crate::sync::{AtomicU64, Ordering, ShortMutex};

/// Room for one task. Used again and again, each time under the next generation.
///
/// A task is 64 bytes as long as its body is at most two words and it has up to three successors and default attributes.
#[repr(align(64))]
pub(super) struct Slot<B> {
    word: AtomicU64,
    pub(super) node: ShortMutex<Node<B>>,
}

/// What the slot's lock guards.
pub(super) struct Node<B> {
    /// Some(_) while Waiting, Ready and Suspended; the runner has it while Running.
    pub(super) body: Option<B>,
    /// The first successors, from the front.
    first: [Option<Edge>; 3],
    /// What most tasks don't have.
    rest: Option<Box<Rest>>,
}

/// What most tasks don't have.
#[derive(Default)]
pub(super) struct Rest {
    /// If the word says so (`SPECIAL`).
    pub(super) attrs: Attrs,
    /// The first failure, for failed and cancelled tasks.
    pub(super) cause: Option<TaskId>,
    /// Successors after the first three.
    more: Vec<Edge>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum EdgeKind {
    /// The successor must not start before, and not at all after a failure.
    Dependency,
    /// The successor has started and awaits the end, good or bad.
    Await,
}

/// A successor and why it waits, in 8 bytes. Never 0, because generations begin at 1.
#[derive(Clone, Copy)]
pub(super) struct Edge(NonZeroU64);

impl Edge {
    const AWAIT: u64 = 1 << 63;

    #[inline]
    pub(super) fn new(to: TaskId, kind: EdgeKind) -> Self {
        let bits = to.as_u64()
            | if kind == EdgeKind::Await {
                Self::AWAIT
            } else {
                0
            };
        Self(NonZeroU64::new(bits).expect("generations begin at 1"))
    }

    #[inline]
    pub(super) fn kind(self) -> EdgeKind {
        if self.0.get() & Self::AWAIT == 0 {
            EdgeKind::Dependency
        } else {
            EdgeKind::Await
        }
    }

    #[inline]
    pub(super) fn to(self) -> TaskId {
        TaskId::from_u64(self.0.get() & !Self::AWAIT)
    }
}

/// The edges taken from a task.
pub(super) struct Edges {
    first: [Option<Edge>; 3],
    rest: Option<Box<Rest>>,
}

impl Edges {
    #[inline]
    pub(super) fn for_each(self, mut f: impl FnMut(Edge)) {
        for edge in self.first {
            match edge {
                Some(edge) => f(edge),
                None => return,
            }
        }
        if let Some(rest) = self.rest {
            rest.more.iter().copied().for_each(f);
        }
    }
}

impl<B> Node<B> {
    #[inline]
    pub(super) fn add_edge(&mut self, edge: Edge) {
        for place in &mut self.first {
            if place.is_none() {
                *place = Some(edge);
                return;
            }
        }
        self.rest_mut().more.push(edge);
    }

    /// Takes all edges, and with them what else `rest` has: for a task that is done.
    #[inline]
    pub(super) fn take_all(&mut self) -> Edges {
        Edges {
            first: std::mem::take(&mut self.first),
            rest: self.rest.take(),
        }
    }

    /// Takes the edges only.
    pub(super) fn take_edges(&mut self) -> Edges {
        let more = self
            .rest
            .as_mut()
            .map(|rest| std::mem::take(&mut rest.more));
        let rest = more.map(|more| {
            Box::new(Rest {
                more,
                ..Rest::default()
            })
        });
        Edges {
            first: std::mem::take(&mut self.first),
            rest,
        }
    }

    pub(super) fn edges(&self) -> impl Iterator<Item = Edge> {
        let more = self.rest.as_ref().map_or(&[][..], |rest| &rest.more);
        self.first
            .iter()
            .copied()
            .map_while(|edge| edge)
            .chain(more.iter().copied())
    }

    pub(super) fn rest(&self) -> Option<&Rest> {
        self.rest.as_deref()
    }

    pub(super) fn rest_mut(&mut self) -> &mut Rest {
        self.rest.get_or_insert_default()
    }
}

impl<B> Default for Slot<B> {
    fn default() -> Self {
        let node = Node {
            body: None,
            first: [None; 3],
            rest: None,
        };
        Self {
            word: AtomicU64::new(Word::free(1).0),
            node: ShortMutex::new(node),
        }
    }
}

impl<B> Slot<B> {
    #[inline]
    pub(super) fn word(&self) -> Word {
        Word(self.word.load(Ordering::Acquire))
    }

    /// Sets the word: under the lock, or while nobody else knows the task; and not while it [waits](Word::is_waiting) for somebody
    /// who may close an edge meanwhile.
    #[inline]
    pub(super) fn set(&self, word: Word) {
        self.word.store(word.0, Ordering::Release);
    }

    /// Changes the word under the lock, whatever happens to `open` meanwhile. Returns the one before.
    pub(super) fn change(&self, change: impl Fn(Word) -> Word) -> Word {
        let mut now = self.word();
        while let Err(other) =
            self.word
                .compare_exchange(now.0, change(now).0, Ordering::AcqRel, Ordering::Acquire)
        {
            now = Word(other);
        }
        now
    }

    /// Closes `count` of the open dependencies of the task of this generation, if it (still) waits. The word after that.
    ///
    /// Release and acquire: what the ended dependencies did is visible to whoever closes the last one.
    #[inline]
    pub(super) fn close(&self, generation: u32, count: u32) -> Option<Word> {
        let mut now = self.word();
        loop {
            if now.generation() != generation || !now.is_waiting() {
                return None; // cancelled before
            }
            let next = now.close(count);
            match self.word.compare_exchange_weak(
                now.0,
                next.0,
                Ordering::AcqRel,
                Ordering::Acquire,
            ) {
                Ok(_) => return Some(next),
                Err(other) => now = Word(other),
            }
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_task_is_one_cache_line() {
        assert_eq!(size_of::<Slot<Box<dyn FnOnce() + Send>>>(), 64);
    }
}
