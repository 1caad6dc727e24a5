//! Locks, condition variables and atomics: parking_lot's and std's, or loom's when interleavings are explored.

#[cfg(not(loom))]
pub(crate) use parla_core::lock::Mutex;
#[cfg(not(loom))]
pub(crate) use std::sync::atomic::{AtomicUsize, Ordering, fence};

#[cfg(loom)]
pub(crate) use loom::sync::atomic::{AtomicUsize, Ordering, fence};

/// loom's mutex behind parking_lot's interface (no poisoning).
#[cfg(loom)]
pub(crate) struct Mutex<T>(loom::sync::Mutex<T>);

#[cfg(loom)]
impl<T> Mutex<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(loom::sync::Mutex::new(value))
    }

    pub(crate) fn lock(&self) -> loom::sync::MutexGuard<'_, T> {
        self.0.lock().expect("no test panics while it holds a lock")
    }
}

/// A wake-up that waits to be consumed by the one thread that sleeps on it.
#[cfg(not(loom))]
pub(crate) struct Bell {
    rung: Mutex<bool>,
    condvar: parla_core::lock::Condvar,
}

#[cfg(not(loom))]
impl Bell {
    pub(crate) fn new() -> Self {
        Self {
            rung: Mutex::new(false),
            condvar: parla_core::lock::Condvar::new(),
        }
    }

    pub(crate) fn ring(&self) {
        *self.rung.lock() = true;
        self.condvar.notify_one();
    }

    /// Sleeps until it has been rung since the last call.
    pub(crate) fn wait(&self) {
        let mut rung = self.rung.lock();
        while !*rung {
            self.condvar.wait(&mut rung);
        }
        *rung = false;
    }
}

/// The same with loom's primitives.
#[cfg(loom)]
pub(crate) struct Bell {
    rung: loom::sync::Mutex<bool>,
    condvar: loom::sync::Condvar,
}

#[cfg(loom)]
impl Bell {
    pub(crate) fn new() -> Self {
        Self {
            rung: loom::sync::Mutex::new(false),
            condvar: loom::sync::Condvar::new(),
        }
    }

    pub(crate) fn ring(&self) {
        *self.rung.lock().expect("not poisoned") = true;
        self.condvar.notify_one();
    }

    pub(crate) fn wait(&self) {
        let mut rung = self.rung.lock().expect("not poisoned");
        while !*rung {
            rung = self.condvar.wait(rung).expect("not poisoned");
        }
        *rung = false;
    }
}
