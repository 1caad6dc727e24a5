//! Mutex and condition variable for all crates: the standard library's, without poisoning.
//!
//! Not parking_lot's: that parks threads in one table for the whole process, which the child of a fork inherits with entries of
//! threads that do not exist there. The standard library's sleep on the lock's own word. Under ThreadSanitizer, which does not see
//! into the standard library, parking_lot's are used after all.
#![cfg_attr(
    not(crossbeam_sanitize),
    expect(
        clippy::disallowed_types,
        reason = "here the standard library's are wrapped for all others"
    )
)]

#[cfg(not(crossbeam_sanitize))]
use std::sync::PoisonError;
#[cfg(not(crossbeam_sanitize))]
use std::time::Instant;

#[cfg(crossbeam_sanitize)]
pub use parking_lot::{Condvar, Mutex, MutexGuard};

/// A lock. A panic while it is held leaves the value as it was at that moment; whoever panics sees to it that this is safe.
#[cfg(not(crossbeam_sanitize))]
#[derive(Debug, Default)]
pub struct Mutex<T>(std::sync::Mutex<T>);

/// Access to a locked value. Holds the standard guard, except for moments inside [`Condvar::wait`].
#[cfg(not(crossbeam_sanitize))]
#[derive(Debug)]
pub struct MutexGuard<'a, T>(Option<std::sync::MutexGuard<'a, T>>);

#[cfg(not(crossbeam_sanitize))]
const HELD: &str = "a guard is empty only while its condition variable waits";

#[cfg(not(crossbeam_sanitize))]
impl<T> Mutex<T> {
    /// An unlocked one.
    pub const fn new(value: T) -> Self {
        Self(std::sync::Mutex::new(value))
    }

    /// Waits until it is free and takes it.
    #[inline]
    pub fn lock(&self) -> MutexGuard<'_, T> {
        MutexGuard(Some(self.0.lock().unwrap_or_else(PoisonError::into_inner)))
    }

    /// Takes it if it is free.
    pub fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        match self.0.try_lock() {
            Ok(guard) => Some(MutexGuard(Some(guard))),
            Err(std::sync::TryLockError::Poisoned(poisoned)) => {
                Some(MutexGuard(Some(poisoned.into_inner())))
            }
            Err(std::sync::TryLockError::WouldBlock) => None,
        }
    }

    /// The value, of a lock that nobody else can see.
    pub fn get_mut(&mut self) -> &mut T {
        self.0.get_mut().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(not(crossbeam_sanitize))]
impl<T> std::ops::Deref for MutexGuard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        self.0.as_ref().expect(HELD)
    }
}

#[cfg(not(crossbeam_sanitize))]
impl<T> std::ops::DerefMut for MutexGuard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        self.0.as_mut().expect(HELD)
    }
}

/// Where threads wait for a change of a locked value.
#[cfg(not(crossbeam_sanitize))]
#[derive(Debug, Default)]
pub struct Condvar(std::sync::Condvar);

#[cfg(not(crossbeam_sanitize))]
impl Condvar {
    /// One that nobody waits for.
    #[must_use]
    pub const fn new() -> Self {
        Self(std::sync::Condvar::new())
    }

    /// Wakes one waiting thread, if there is one.
    pub fn notify_one(&self) {
        self.0.notify_one();
    }

    /// Wakes all waiting threads.
    pub fn notify_all(&self) {
        self.0.notify_all();
    }

    /// Lets the lock go, sleeps until notified (or for no reason), takes the lock again.
    pub fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
        let held = guard.0.take().expect(HELD);
        guard.0 = Some(self.0.wait(held).unwrap_or_else(PoisonError::into_inner));
    }

    /// The same, at most until `deadline`.
    #[allow(
        clippy::disallowed_methods,
        reason = "a deadline is a time by the clock"
    )]
    pub fn wait_until<T>(&self, guard: &mut MutexGuard<'_, T>, deadline: Instant) {
        let held = guard.0.take().expect(HELD);
        let rest = deadline.saturating_duration_since(Instant::now());
        let waited = self.0.wait_timeout(held, rest);
        guard.0 = Some(waited.unwrap_or_else(PoisonError::into_inner).0);
    }
}

#[cfg(all(test, not(crossbeam_sanitize)))]
mod tests {
    use super::*;

    #[test]
    fn a_panic_does_not_poison() {
        let lock = Mutex::new(1);
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let mut value = lock.lock();
            *value = 2;
            panic!("while it is held");
        }));
        assert!(panicked.is_err());
        assert_eq!(*lock.lock(), 2);
        assert_eq!(lock.try_lock().map(|value| *value), Some(2));
    }

    #[test]
    #[expect(
        clippy::disallowed_methods,
        reason = "a deadline is a time by the clock"
    )]
    fn waiting_ends_at_the_deadline() {
        let (lock, condvar) = (Mutex::new(0), Condvar::new());
        let mut value = lock.lock();
        condvar.wait_until(&mut value, Instant::now());
        *value += 1;
        assert_eq!(*value, 1);
    }
}
