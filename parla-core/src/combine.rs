//! State that one thread at a time works on, with a box for the notes of the others.

use std::fmt;

use crate::sync::{AtomicBool, Mutex, MutexGuard, Ordering, fence};

/// State behind a lock that nobody waits for: whoever has something to say leaves a note, and whoever gets the lock works through all notes (*flat
/// combining*: Hendler, Incze, Shavit, Tzafrir, SPAA 2010). So a thread that may not block can change the state, and nothing that follows from a change has to be
/// done under the lock.
///
/// A thread [posts](Self::post) a note, or changes something that the state depends on and [nudges](Self::nudge), and then does [rounds](Self::round) until there is none.
///
/// # Nothing is left behind
/// *Claim: once everybody has done rounds until there was none, each note has been taken by a round, and a round that took the last nudge began after what was
/// changed before it.* Take the last rounds that some thread P asked for after its note. If there was none because there was no news, another round had taken the
/// news: all that changes `news` are read-modify-writes, so it saw what P had done before its own. If there was none because H had the lock, then H, after letting it go,
/// asks for a round itself. Both P (between its note and its `try_lock`) and H (between letting go and looking for news) pass a sequentially consistent fence, so
/// either P's `try_lock` sees the lock free or H sees the news. In the second case the same holds for H in P's place, and so on; the chain ends, because each link is a
/// round that ended.
///
/// So whoever has had the lock in another way ([`lock`](Self::lock)) has to do rounds afterwards, too.
///
/// Nobody waits for others' notes: a thread does a further round only if news came while it worked.
pub struct Combiner<S, N> {
    /// There may be notes, or something else to look at.
    news: AtomicBool,
    notes: Mutex<Vec<N>>,
    state: Mutex<S>,
}

impl<S, N> Combiner<S, N> {
    /// No notes yet.
    #[must_use]
    pub fn new(state: S) -> Self {
        Self {
            news: AtomicBool::new(false),
            notes: Mutex::new(Vec::new()),
            state: Mutex::new(state),
        }
    }

    /// Leaves a note. Notes of one thread are taken in the order in which they were left.
    pub fn post(&self, note: N) {
        self.notes.lock().push(note);
        self.nudge();
    }

    /// Something has changed that a round has to look at.
    #[inline]
    pub fn nudge(&self) {
        // Not a plain store: who takes the last news sees what all nudges before it were about, too.
        self.news.swap(true, Ordering::Release);
    }

    /// Whether somebody has left something that nobody has taken yet. If not, no [round](Self::round) is needed now.
    #[inline]
    #[must_use]
    pub fn has_news(&self) -> bool {
        fence(Ordering::SeqCst); // after a note, or after letting go; pairs with itself in another thread
        self.news.load(Ordering::Relaxed)
    }

    /// Takes all notes and works with them, if there is news and nobody else does. Does not block, but for `work`.
    ///
    /// If `work` panics, the notes that it was given are lost.
    pub fn round<R>(&self, work: impl FnOnce(&mut S, Vec<N>) -> R) -> Option<R> {
        if !self.has_news() {
            return None;
        }
        let mut state = self.state.try_lock()?;
        // Read and written at once: it sees what was left before it.
        let notes = if self.news.swap(false, Ordering::AcqRel) {
            std::mem::take(&mut *self.notes.lock())
        } else {
            Vec::new()
        };
        Some(work(&mut state, notes))
    }

    /// Waits for the state. Whoever let it go has to do [rounds](Self::round) until there is none: others may have left news and found it taken.
    pub fn lock(&self) -> MutexGuard<'_, S> {
        self.state.lock()
    }

    /// The state, if nobody has it. As after [`lock`](Self::lock), rounds have to follow.
    pub fn try_lock(&self) -> Option<MutexGuard<'_, S>> {
        self.state.try_lock()
    }
}

impl<S, N> fmt::Debug for Combiner<S, N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Combiner").finish_non_exhaustive()
    }
}

#[cfg(all(test, not(loom)))]
mod tests;

#[cfg(all(test, loom))]
mod loom_tests;
