//! A body that blocks steps aside: it gives back all that those may need which it waits for, and has it again before it goes on.

use std::sync::Arc;
use std::time::Duration;

use parla_core::{TaskId, TraceEvent};

use super::wait::{Tick, Waited};
use super::{Cx, Executor, PlacingError};
use crate::Assigned;

impl<E: Executor> Cx<'_, E> {
    /// Waits for the end of a task inside a body. Another thread takes this worker's place meanwhile, and what the body holds (its claim, its data,
    /// its compute units) is given back until the wait is over: the task may need it. How it ended for the body's data, [`renew_data`](Self::renew_data) tells.
    pub fn wait(&self, id: TaskId, timeout: Option<Duration>, tick: Option<Tick<'_>>) -> Waited {
        self.wait_all(&[id], timeout, tick)
    }

    /// The same for the ends of several tasks: it is one wait, for which the body steps aside once. The time is for all of them together.
    pub fn wait_all(
        &self,
        ids: &[TaskId],
        timeout: Option<Duration>,
        tick: Option<Tick<'_>>,
    ) -> Waited {
        let shared = self.shared();
        if ids.iter().all(|id| shared.is_over(*id)) {
            self.trace_waited(ids);
            return Waited::Ended;
        }
        self.step_aside(ids, || shared.wait_all(ids, timeout, tick))
    }

    /// After a wait inside the body, however it ended: other tasks may have changed what the running task uses, or have had its memory. Where its data
    /// is from now on; blocks until it is there, if the wait was over at once. `None`: no policy placed the task.
    ///
    /// # Errors
    /// What stands in the way; then the task has none of its data any more.
    pub fn renew_data(&self) -> Result<Option<Arc<Assigned>>, PlacingError> {
        let Some(id) = self.placed_running() else {
            return Ok(None);
        };
        if !self.stepped_aside.replace(false) {
            match self.shared().renew_at_once(id) {
                Some(renewed) => {
                    self.shared().trace_uses(id, &renewed);
                    *self.assigned.borrow_mut() = Some(renewed);
                }
                None => drop(self.step_aside(&[], || Waited::Ended)),
            }
            self.stepped_aside.set(false);
        }
        match self.trouble.take() {
            Some(error) => Err(error),
            None => Ok(self.assigned()),
        }
    }

    /// Gives everything back, calls `wait`, which counts as an actor, and takes everything again.
    fn step_aside(&self, on: &[TaskId], wait: impl FnOnce() -> Waited) -> Waited {
        let shared = self.shared();
        let had_seat = self.has_seat();
        if had_seat {
            shared.join_actors(); // before the seat passes on: never uncounted
            self.leave_seat();
        }
        if self.has_seat() {
            // The seat could not pass on: a worker as before, counted as an actor for this wait only.
            let waited = wait();
            shared.leave_actors();
            if matches!(waited, Waited::Ended) {
                self.trace_waited(on);
            }
            return waited;
        }
        let claim = self.granted();
        self.trace_wait(TraceEvent::Suspended, on);
        shared.release(&claim);
        let placed = self.placed_running();
        if let Some(running) = placed {
            shared.placed_pauses(running);
        }
        let waited = wait();
        if let Some(running) = placed {
            self.trouble.replace(shared.placed_unblocks(running).err());
        }
        shared.reclaim(&claim);
        if let Some(running) = placed {
            *self.assigned.borrow_mut() = shared.goes_on(running);
            self.stepped_aside.set(true);
        }
        self.trace_wait(TraceEvent::Resumed, &[]);
        if let (Some(running), Some(assigned)) = (placed, self.assigned()) {
            shared.trace_uses(running, &assigned);
        }
        waited
    }
}
