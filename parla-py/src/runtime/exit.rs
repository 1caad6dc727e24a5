//! What becomes of open runtimes when the interpreter exits or the process forks.

use std::sync::atomic::Ordering;

use pyo3::prelude::*;

use super::this_thread::{FORKED, OPEN, OPENED, RUNNING};
use super::waiting::check_not_forked;
use super::{EXIT_GRACE, Runtime};
use crate::{gil, machine};

/// At the interpreter's exit: cancels what has not started, waits some seconds for running bodies, joins the workers.
#[pyfunction]
pub(crate) fn stop_all(py: Python<'_>) {
    loop {
        let Some(rt) = OPEN.lock().pop() else { return };
        if check_not_forked(&rt).is_err() {
            continue;
        }
        let runtime = Runtime { rt, memory: 0 }; // closed by its Drop
        let finished = runtime.finish(py, true, Some(EXIT_GRACE), false);
        if let Ok((_, _, Some(interrupt))) = &finished {
            interrupt.clone_ref(py).write_unraisable(py, None);
        }
    }
}

/// In the child of a fork: the parent's runtimes are not this process's to close, and their threads do not exist here.
#[pyfunction]
pub(crate) fn forget_all() {
    gil::after_fork(true);
    OPENED.with_borrow_mut(|opened| {
        std::mem::take(opened)
            .into_iter()
            .for_each(std::mem::forget)
    });
    // The lock may have been held by a thread that does not exist here.
    if let Some(mut open) = OPEN.try_lock() {
        FORKED.store(!open.is_empty(), Ordering::Relaxed);
        std::mem::take(&mut *open)
            .into_iter()
            .for_each(std::mem::forget);
    }
    RUNNING.set(None);
    machine::forget_after_fork();
}

/// Before a fork, in the parent.
#[pyfunction]
pub(crate) fn before_fork() {
    gil::before_fork();
}

/// After a fork, in the parent.
#[pyfunction]
pub(crate) fn after_fork() {
    gil::after_fork(false);
}
