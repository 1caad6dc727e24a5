//! Worker threads: one for each seat, and spares that take over the seat of a worker whose body blocks.

use std::sync::Arc;
use std::thread::JoinHandle;

use parla_core::lock::{Condvar, Mutex};

use super::seat::Seat;
use super::worker;
use super::{Executor, RuntimeError, Shared};

/// Spares beyond this number end instead of waiting for a seat.
const MAX_IDLE_SPARES: usize = 8;

#[derive(Default)]
pub(super) struct Threads {
    state: Mutex<State>,
    seat_offered: Condvar,
}

#[derive(Default)]
struct State {
    handles: Vec<JoinHandle<()>>,
    n_started: usize,
    /// Threads whose handles were dropped after their end.
    n_reaped: usize,
    /// Threads that wait for a seat.
    n_idle: usize,
    /// Seats that wait for a thread; never more than `n_idle`.
    offered: Vec<Seat>,
    stopping: bool,
}

impl Threads {
    /// An idle thread waits for a seat; `None`: there will be none, end the thread.
    ///
    /// A new thread was counted as idle by whoever started it (`fresh`).
    pub(super) fn wait_for_seat(&self, fresh: bool) -> Option<Seat> {
        let mut state = self.state.lock();
        if !fresh {
            if state.n_idle >= MAX_IDLE_SPARES {
                return None;
            }
            state.n_idle += 1;
        }
        while state.offered.is_empty() && !state.stopping {
            self.seat_offered.wait(&mut state);
        }
        let seat = state.offered.pop();
        if seat.is_none() {
            state.n_idle -= 1;
        }
        seat
    }

    pub(super) fn stop_spares(&self) {
        self.state.lock().stopping = true;
        self.seat_offered.notify_all();
    }

    /// Joins every thread, those that are started meanwhile included. `false`: one of them is the caller's, or somebody else joins some.
    pub(super) fn join_all(&self) -> bool {
        let mut n_joined = 0;
        loop {
            let handles = std::mem::take(&mut self.state.lock().handles);
            if handles.is_empty() {
                let state = self.state.lock();
                return state.handles.is_empty() && n_joined + state.n_reaped == state.n_started;
            }
            for handle in handles {
                if handle.thread().id() != std::thread::current().id() {
                    // A panicking worker has already marked the runtime as broken.
                    let _ = handle.join();
                    n_joined += 1;
                }
            }
        }
    }

    pub(super) fn forget_all(&self) {
        self.state.lock().handles.clear();
    }
}

impl<E: Executor> Shared<E> {
    /// Gives `seat` to an idle spare or to a new thread.
    ///
    /// # Errors
    /// When the system has no thread to give; the seat comes back.
    pub(super) fn seat_worker(self: &Arc<Self>, seat: Seat) -> Result<(), (Seat, RuntimeError)> {
        let mut state = self.threads.state.lock();
        if state.n_idle == 0 {
            let name = format!("{}-{}", self.name, state.n_started);
            let shared = Arc::clone(self);
            match std::thread::Builder::new()
                .name(name.clone())
                .spawn(move || worker::main(&shared))
            {
                Ok(handle) => {
                    state.n_started += 1;
                    state.n_idle += 1;
                    if state.handles.len() > 64 {
                        let before = state.handles.len();
                        state.handles.retain(|h| !h.is_finished());
                        state.n_reaped += before - state.handles.len();
                    }
                    state.handles.push(handle);
                }
                Err(source) => return Err((seat, RuntimeError::Thread { name, source })),
            }
        }
        state.n_idle -= 1; // it is spoken for
        state.offered.push(seat);
        self.threads.seat_offered.notify_one();
        Ok(())
    }
}
