//! Who holds the interpreter, who wants it, and when it changes hands.
//!
//! A worker that asks CPython for a GIL that is held sleeps in the kernel; its wake-up takes some 20 us, and while a Python thread
//! computes it is only heard every 5 ms. So:
//! * a worker takes the GIL *before* it takes tasks, and keeps it over as many bodies as it has: tasks never wait in the hands
//!   of a worker that cannot run them;
//! * a body of ours that let it go watches a held GIL for a bounded time before it asks for it (a worker without a body does not: that made
//!   chains dearer and nothing cheaper);
//! * a thread that spawns in a long loop hands the GIL over when workers want it, at once at first, then at
//!   a bounded rate: enough to start long bodies early, too little to hurt when bodies are short.

use std::cell::Cell;
use std::ffi::c_void;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use pyo3::ffi;
use pyo3::prelude::*;

use crate::{python, runtime};

/// Workers that are about to take the GIL.
static WANTING: AtomicU32 = AtomicU32::new(0);
/// How often workers have taken it.
static TAKEN: AtomicU64 = AtomicU64::new(0);

/// How long a body watches a held GIL before it sleeps for it: CPython's switch interval, after which asking makes the holder let go.
const WATCH: Duration = Duration::from_millis(5);
/// The same where we can only guess whether the GIL is held: about what a wake-up costs.
const WATCH_BRIEFLY: Duration = Duration::from_micros(50);
/// How long a spawning thread waits for a worker to take the GIL it hands over.
const OFFER: Duration = Duration::from_micros(50);
/// A hand-over that is over within this time is not counted.
const SHORT: Duration = Duration::from_micros(15);
/// A spawning thread may hand over this often at once ...
const BURST: u32 = 4;
/// ... and once more per this time.
const REFILL: Duration = Duration::from_millis(2);

/// A worker thread's thread state: made when it first needs the GIL, kept until the thread ends.
pub(crate) struct Thread {
    /// Null before the first time.
    state: Cell<*mut ffi::PyThreadState>,
    attached: Cell<bool>,
}

impl Thread {
    pub(crate) fn new() -> Self {
        Self {
            state: Cell::new(std::ptr::null_mut()),
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
        if self.state.get().is_null() {
            self.state.set(new_thread_state());
        }
        // SAFETY: `state` is this thread's own, new or saved by `detach`; the interpreter lives: the hook that runs at its exit
        // joins this thread first.
        unsafe { ffi::PyEval_RestoreThread(self.state.get()) };
        WANTING.fetch_sub(1, Ordering::SeqCst);
        TAKEN.fetch_add(1, Ordering::Release);
        HOLDING.fetch_add(1, Ordering::Relaxed);
        self.attached.set(true);
    }

    /// Lets the GIL go if this thread has it; the thread state stays.
    pub(crate) fn detach(&self) {
        if self.attached.replace(false) {
            HOLDING.fetch_sub(1, Ordering::Relaxed);
            // SAFETY: this thread holds the GIL (`attached`), and no `Python<'_>` of it is in scope: workers call this between bodies.
            self.state.set(unsafe { ffi::PyEval_SaveThread() });
        }
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        if self.state.get().is_null() {
            return;
        }
        if self.attached.replace(false) {
            HOLDING.fetch_sub(1, Ordering::Relaxed);
        } else {
            end_here_if_finalizing();
            // SAFETY: as in `attach`.
            unsafe { ffi::PyEval_RestoreThread(self.state.get()) };
        }
        // SAFETY: with the GIL held, on the thread whose state it is: a new state counts one use, this gives it back and frees it.
        unsafe { ffi::PyGILState_Release(ffi::PyGILState_STATE::PyGILState_UNLOCKED) };
    }
}

/// The interpreter that workers belong to.
static INTERPRETER: AtomicPtr<ffi::PyInterpreterState> = AtomicPtr::new(std::ptr::null_mut());

/// A fork is under way: no thread states are made meanwhile, because CPython makes them under a lock of its own, without the GIL,
/// and the child of a fork that catches another thread with that lock waits for it for ever.
static FORKING: AtomicBool = AtomicBool::new(false);
/// Thread states being made. Changed and read in turn with `FORKING`, both sequentially consistent.
static MAKING: AtomicU32 = AtomicU32::new(0);

/// A thread state for this thread, which has none.
fn new_thread_state() -> *mut ffi::PyThreadState {
    loop {
        MAKING.fetch_add(1, Ordering::SeqCst);
        if FORKING.load(Ordering::SeqCst) {
            MAKING.fetch_sub(1, Ordering::SeqCst);
            std::thread::yield_now();
            continue;
        }
        // SAFETY: may be called without the GIL; the interpreter lives (as in `Thread::attach`).
        let state = unsafe { ffi::PyThreadState_New(INTERPRETER.load(Ordering::Relaxed)) };
        MAKING.fetch_sub(1, Ordering::SeqCst);
        assert!(!state.is_null(), "no memory for a thread state");
        return state;
    }
}

/// Called before a fork, with the GIL held.
pub(crate) fn before_fork() {
    FORKING.store(true, Ordering::SeqCst);
    while MAKING.load(Ordering::SeqCst) > 0 {
        std::thread::yield_now();
    }
}

/// Called after a fork, in the parent and in the child.
pub(crate) fn after_fork(in_child: bool) {
    if in_child {
        // Who was counted here does not exist in this process.
        MAKING.store(0, Ordering::SeqCst);
        WANTING.store(0, Ordering::SeqCst);
        HOLDING.store(0, Ordering::SeqCst);
        WATCHED.store(false, Ordering::SeqCst);
    }
    FORKING.store(false, Ordering::SeqCst);
}

/// An abandoned body may outlive the interpreter. CPython would end its thread in the middle of our stack as soon as it asks for
/// the GIL, which Rust's frames do not survive; so it sleeps until the process ends.
fn end_here_if_finalizing() {
    while python::is_finalizing() {
        std::thread::park();
    }
}

/// Address of `_PyThreadState_UncheckedGet` where it tells which thread of the process holds the GIL (CPython before 3.12), or 0.
static HOLDER: AtomicUsize = AtomicUsize::new(0);

/// Workers that hold the GIL as far as we know: a body that lets it go inside a library still counts.
static HOLDING: AtomicU32 = AtomicU32::new(0);

/// Somebody watches the GIL already.
static WATCHED: AtomicBool = AtomicBool::new(false);

/// Finds out what this interpreter tells about its GIL.
///
/// Whatever is found out once in a process is found out here, under the GIL and before there are workers: a fork must not
/// catch one of them in the middle of it.
pub(crate) fn init(py: Python<'_>) {
    python::is_finalizing();
    // SAFETY: attached; never null then.
    INTERPRETER.store(unsafe { ffi::PyInterpreterState_Get() }, Ordering::Relaxed);
    if let Some(holder) = python::fast(py).and_then(|fast| fast.gil_holder) {
        HOLDER.store(holder as usize, Ordering::Relaxed);
    }
}

/// Whether some thread holds the GIL, and for how long it is worth watching it.
fn holder() -> (bool, Duration) {
    match HOLDER.load(Ordering::Relaxed) {
        0 => (HOLDING.load(Ordering::Relaxed) > 0, WATCH_BRIEFLY),
        address => {
            // SAFETY: `HOLDER` holds nothing but that function's address (see `init`); it may be called without the GIL.
            let held = unsafe {
                let holder =
                    std::mem::transmute::<usize, unsafe extern "C" fn() -> *mut c_void>(address);
                !holder().is_null()
            };
            (held, WATCH)
        }
    }
}

/// Watches a held GIL for a bounded time, to take it the moment it comes free. One thread at a time does: for the others the
/// kernel's queue is as good, and their cores can be used.
#[allow(clippy::disallowed_methods, reason = "the bound is a time")]
fn watch_until_free() {
    let (held, bound) = holder();
    if !held || WATCHED.swap(true, Ordering::Relaxed) {
        return;
    }
    let start = Instant::now();
    while holder().0 && start.elapsed() < bound {
        for _ in 0..8 {
            std::hint::spin_loop();
        }
    }
    WATCHED.store(false, Ordering::Relaxed);
}

/// Runs `f` without the GIL, and takes it back without a trip through the kernel if it comes free soon.
#[allow(
    clippy::disallowed_methods,
    reason = "traces tell how long the GIL was held"
)]
pub(crate) fn released<R: Send>(py: Python<'_>, f: impl FnOnce() -> R + Send) -> R {
    let begun = Instant::now();
    let is_worker = runtime::runs_a_task();
    let result = py.detach(|| {
        if is_worker {
            HOLDING.fetch_sub(1, Ordering::Relaxed);
        }
        let result = f();
        if is_worker {
            WANTING.fetch_add(1, Ordering::SeqCst);
        }
        watch_until_free();
        result
    });
    if is_worker {
        HOLDING.fetch_add(1, Ordering::Relaxed);
        WANTING.fetch_sub(1, Ordering::SeqCst);
        TAKEN.fetch_add(1, Ordering::Release);
    }
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
        // A body that lets the GIL go again at once gives it back without a trip through the kernel.
        while holder().0 && now.elapsed() < SHORT {
            std::hint::spin_loop();
        }
    });
    if now.elapsed() < SHORT {
        BUDGET.set((left, reckoned)); // it cost next to nothing: once more whenever a worker asks
    }
}
