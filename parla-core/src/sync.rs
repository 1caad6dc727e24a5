//! Locks and atomics: spin's, the standard library's, or loom's when interleavings are explored.

#[cfg(not(loom))]
pub(crate) use crate::lock::{Mutex, MutexGuard};
#[cfg(not(loom))]
pub(crate) use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence};

/// The lock that guards one task, for a few instructions at a time. Letting go of it is a plain store: an atomic
/// read-modify-write is what most of a task's cost consists of, and this saves every other one. Who finds it taken yields
/// the processor, so that a holder who was interrupted can go on.
#[cfg(not(loom))]
pub(crate) type ShortMutex<T> = spin::mutex::SpinMutex<T, spin::Yield>;
#[cfg(not(loom))]
pub(crate) type ShortMutexGuard<'a, T> = spin::mutex::SpinMutexGuard<'a, T>;

#[cfg(loom)]
pub(crate) use loom::sync::MutexGuard;
#[cfg(loom)]
pub(crate) use loom::sync::MutexGuard as ShortMutexGuard;
#[cfg(loom)]
pub(crate) use loom::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence};

/// loom's mutex behind the others' interface (no poisoning).
#[cfg(loom)]
pub(crate) struct Mutex<T>(loom::sync::Mutex<T>);
#[cfg(loom)]
pub(crate) type ShortMutex<T> = Mutex<T>;

#[cfg(loom)]
impl<T> Mutex<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(loom::sync::Mutex::new(value))
    }

    pub(crate) fn lock(&self) -> ShortMutexGuard<'_, T> {
        self.0
            .lock()
            .expect("no test panics while it holds a task's lock")
    }

    pub(crate) fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        self.0.try_lock().ok()
    }
}
