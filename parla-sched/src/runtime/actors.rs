//! Actors: threads that may still add work though no worker runs.
//!
//! They are: foreign threads that have spawned here and are not blocked in a wait of ours; bodies that blocked, gave up
//! their seat and run on; whoever cancels. While there is one, no wait counts as stalled.

use std::cell::RefCell;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use super::shared::Shared;
use super::{Executor, Runtime};

/// Counts as an actor while it is there.
pub(super) struct Actor<'a, E: Executor>(&'a Shared<E>);

impl<E: Executor> Drop for Actor<'_, E> {
    fn drop(&mut self) {
        self.0.leave_actors();
    }
}

impl<E: Executor> Runtime<E> {
    /// This thread may spawn: while it is alive and not waiting, nothing counts as stalled. Spawning does this, too.
    pub fn enlist_this_thread(&self) {
        self.shared.enlist_this_thread();
    }
}

impl<E: Executor> Shared<E> {
    /// The calling thread is an actor until the guard goes.
    pub(super) fn act(&self) -> Actor<'_, E> {
        self.join_actors();
        Actor(self)
    }

    pub(super) fn join_actors(&self) {
        self.waits.n_actors.fetch_add(1, Ordering::SeqCst);
    }

    pub(super) fn leave_actors(&self) {
        self.waits.n_actors.fetch_sub(1, Ordering::SeqCst);
        self.check_quiet();
    }

    /// The calling thread is an actor until it ends, waits apart.
    pub(super) fn enlist_this_thread(self: &Arc<Self>) {
        let key = Arc::as_ptr(self).addr();
        ENLISTED.with_borrow_mut(|enlisted| {
            if enlisted
                .iter()
                .any(|e| e.key == key && e.runtime.is_alive())
            {
                return;
            }
            enlisted.retain(|e| e.runtime.is_alive());
            self.join_actors();
            let shared: Weak<Self> = Arc::downgrade(self);
            enlisted.push(Enlisted {
                key,
                runtime: Box::new(shared),
            });
        });
    }
}

/// A thread's entry in the list of actors of one runtime; taken back when the thread ends.
struct Enlisted {
    /// The runtime's address. It is not used again while the weak reference stands.
    key: usize,
    runtime: Box<dyn Enlistment>,
}

/// A runtime, whatever its executor.
trait Enlistment {
    fn is_alive(&self) -> bool;
    fn leave(&self);
}

impl<E: Executor> Enlistment for Weak<Shared<E>> {
    fn is_alive(&self) -> bool {
        self.strong_count() > 0
    }

    fn leave(&self) {
        if let Some(shared) = self.upgrade() {
            shared.leave_actors();
        }
    }
}

impl Drop for Enlisted {
    fn drop(&mut self) {
        self.runtime.leave();
    }
}

thread_local! {
    static ENLISTED: RefCell<Vec<Enlisted>> = const { RefCell::new(Vec::new()) };
}
