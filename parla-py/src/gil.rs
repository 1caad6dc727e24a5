//! Who holds the interpreter, who wants it, and when it changes hands.
//!
//! A worker that asks CPython for a GIL that is held sleeps in the kernel; its wake-up takes some 20 us, and while a Python thread
//! computes it is only heard every 5 ms. So:
//! * a worker takes the GIL *before* it takes tasks, and keeps it over as many bodies as it has: tasks never wait in the hands
//!   of a worker that cannot run them;
//! * before it asks for a held GIL it watches for a bounded time whether it comes free;
//! * a thread that spawns in a long loop hands the GIL over when workers want it, at once at first, then at
//!   a bounded rate: enough to start long bodies early, too little to hurt when bodies are short.

use std::cell::Cell;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use pyo3::ffi;
use pyo3::prelude::*;

use crate::{python, runtime};

/// Workers that are about to take the GIL.
static WANTING: AtomicU32 = AtomicU32::new(0);
/// How often workers have taken it.
static TAKEN: AtomicU64 = AtomicU64::new(0);

/// How long to watch a held GIL before sleeping for it: about what a wake-up from that sleep costs, several times over.
const WATCH: Duration = Duration::from_micros(100);
/// How long a spawning thread waits for a worker to take the GIL it hands over.
const OFFER: Duration = Duration::from_micros(50);
/// A spawning thread may hand over this often at once ...
const BURST: u32 = 4;
/// ... and once more per this time.
const REFILL: Duration = Duration::from_millis(2);

/// A worker thread's thread state: made when it first needs the GIL, kept until the thread ends.
pub(crate) struct Thread {
    /// From `PyGILState_Ensure`; null before the first time.
    state: Cell<*mut ffi::PyThreadState>,
    ensured: Cell<Option<ffi::PyGILState_STATE>>,
    attached: Cell<bool>,
}

impl Thread {
    pub(crate) fn new() -> Self {
        Self {
            state: Cell::new(std::ptr::null_mut()),
            ensured: Cell::new(None),
            attached: Cell::new(false),
        }
    }

    /// Takes the GIL unless this thread has it.
    pub(crate) fn attach(&self) {
        if self.attached.get() {
            return;
        }
        WANTING.fetch_add(1, Ordering::SeqCst);
        end_here_if_finalizing();
        watch_until_free();
        if self.ensured.get().is_none() {
            // SAFETY: the interpreter lives: the hook that runs at its exit joins this thread first.
            self.ensured.set(Some(unsafe { ffi::PyGILState_Ensure() }));
        } else {
            // SAFETY: `state` is this thread's own, saved by `detach`; the interpreter lives (as above).
            unsafe { ffi::PyEval_RestoreThread(self.state.get()) };
        }
        WANTING.fetch_sub(1, Ordering::SeqCst);
        TAKEN.fetch_add(1, Ordering::Release);
        self.attached.set(true);
    }

    /// Lets the GIL go if this thread has it; the thread state stays.
    pub(crate) fn detach(&self) {
        if self.attached.replace(false) {
            // SAFETY: this thread holds the GIL (`attached`), and no `Python<'_>` of it is in scope: workers call this between bodies.
            self.state.set(unsafe { ffi::PyEval_SaveThread() });
        }
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        if let Some(ensured) = self.ensured.take() {
            if !self.attached.get() {
                end_here_if_finalizing();
                // SAFETY: as in `attach`.
                unsafe { ffi::PyEval_RestoreThread(self.state.get()) };
            }
            // SAFETY: pairs with the `PyGILState_Ensure` of `attach`, on the same thread, with the GIL held.
            unsafe { ffi::PyGILState_Release(ensured) };
        }
    }
}

/// An abandoned body may outlive the interpreter. CPython would end its thread in the middle of our stack as soon as it asks for
/// the GIL, which Rust's frames do not survive; so it sleeps until the process ends.
fn end_here_if_finalizing() {
    while python::is_finalizing() {
        std::thread::park();
    }
}

/// Whether some thread holds the GIL; `None` where the interpreter does not tell.
fn is_held() -> Option<bool> {
    let holder = HOLDER.load(Ordering::Relaxed);
    if holder == 0 {
        return None;
    }
    // SAFETY: `HOLDER` holds nothing but the address of `_PyThreadState_UncheckedGet` (see `init`), which may be called without the GIL.
    let holder = unsafe {
        std::mem::transmute::<usize, unsafe extern "C" fn() -> *mut std::ffi::c_void>(holder)
    };
    // SAFETY: as above.
    Some(!unsafe { holder() }.is_null())
}

/// Address of the function that tells who holds the GIL, or 0.
static HOLDER: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);

/// Finds out what this interpreter tells about its GIL.
pub(crate) fn init(py: Python<'_>) {
    if let Some(holder) = python::fast(py).and_then(|fast| fast.gil_holder) {
        HOLDER.store(holder as usize, Ordering::Relaxed);
    }
}

/// Watches a held GIL for a bounded time, to take it the moment it comes free.
#[allow(clippy::disallowed_methods, reason = "the bound is a time")]
fn watch_until_free() {
    if is_held() != Some(true) {
        return;
    }
    let start = Instant::now();
    loop {
        for _ in 0..16 {
            std::hint::spin_loop();
        }
        if is_held() != Some(true) || start.elapsed() > WATCH {
            return;
        }
    }
}

/// Runs `f` without the GIL, and takes it back without a trip through the kernel if it comes free soon.
#[allow(
    clippy::disallowed_methods,
    reason = "traces tell how long the GIL was held"
)]
pub(crate) fn released<R: Send>(py: Python<'_>, f: impl FnOnce() -> R + Send) -> R {
    let begun = Instant::now();
    let result = py.detach(|| {
        let result = f();
        watch_until_free();
        result
    });
    runtime::add_released(begun.elapsed());
    result
}

thread_local! {
    /// Hand-overs this thread may make now, and when that was reckoned.
    static BUDGET: Cell<(u32, Option<Instant>)> = const { Cell::new((BURST, None)) };
}

/// Called by a thread that spawns: lets a worker have the GIL if one wants it and it is time.
#[inline]
pub(crate) fn hand_over_if_wanted(py: Python<'_>) {
    if WANTING.load(Ordering::Relaxed) > 0 {
        hand_over(py);
    }
}

#[cold]
#[allow(clippy::disallowed_methods, reason = "the rate is per time")]
fn hand_over(py: Python<'_>) {
    let now = Instant::now();
    let (mut left, reckoned) = BUDGET.get();
    let since = reckoned.map_or(REFILL * BURST, |at| now - at);
    let refills = u32::try_from(since.as_nanos() / REFILL.as_nanos()).unwrap_or(BURST);
    if refills == 0 && left == 0 {
        return;
    }
    left = left.saturating_add(refills).min(BURST);
    let reckoned = if refills > 0 { Some(now) } else { reckoned };
    BUDGET.set((left - 1, reckoned));
    let taken = TAKEN.load(Ordering::Acquire);
    py.detach(|| {
        while TAKEN.load(Ordering::Acquire) == taken && now.elapsed() < OFFER {
            std::hint::spin_loop();
        }
    });
}
