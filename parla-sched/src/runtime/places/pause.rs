//! Placed tasks that wait in the middle of their bodies, or for their devices at the end: letting go of all that those may need
//! which they wait for, and having it again afterwards.
//!
//! A task that waits holds nothing of its devices: no data, no room, no compute units. It comes back as it came the first time: the mapper gives it
//! its memory, the store brings its data, the mapper gives it compute units, and then a worker goes on with it. In this order, so that nobody waits
//! for room or data while others wait for his compute units.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parla_core::TaskId;
use parla_core::lock::Mutex;
use parla_data::{DataError, Order, Staged};
use parla_device::{DeviceError, Event};

use super::flight::{Flight, Phase};
use super::{News, Shared};
use crate::Assigned;
use crate::runtime::{Executor, PlacingError};

impl<E: Executor> Shared<E> {
    /// The body of a placed task waits for others.
    pub(in crate::runtime) fn placed_pauses(&self, id: TaskId) {
        let assigned = match self.places().flights.lock().get_mut(&id) {
            Some(Flight::Assigned(task)) => {
                task.phase = Phase::Paused;
                Some(Arc::clone(&task.assigned))
            }
            _ => None,
        };
        if let Some(assigned) = assigned {
            // What its device has lost it will hear of when its data is to be brought again.
            let _ = assigned.pause();
        }
        self.tell(News::Suspended(id));
    }

    /// A task that waited goes on, and has its memory: brings its data. Called by who works through the mapper's decisions.
    pub(super) fn bring_back(&self, id: TaskId) {
        let paused = match self.places().flights.lock().get_mut(&id) {
            Some(Flight::Assigned(task)) => {
                task.phase = Phase::Returning;
                Some(Arc::clone(&task.assigned))
            }
            Some(_) => None,
            None => return, // cancelled meanwhile
        };
        match paused {
            Some(paused) if paused.is_paused() => self.stage_again(id, paused),
            Some(_) => self.post(News::Staged(id)), // the caller listens to what is posted
            None => self.queue_refused(id),
        }
    }

    fn stage_again(&self, id: TaskId, paused: Arc<Assigned>) {
        self.join_actors();
        let shared = self.arc();
        let order = order_again(&paused);
        let missing = self.places().missing(&order.operands, &order.devices);
        if let Some(Flight::Assigned(task)) = self.places().flights.lock().get_mut(&id) {
            task.missing = missing;
        }
        let done = move |staged: Result<Staged, DataError>| {
            let again = staged.and_then(|staged| Ok(paused.staged_again(staged)?));
            shared.is_back(id, again);
            shared.leave_actors();
        };
        self.places().store.order(order, Box::new(done));
    }

    /// The data of a task that waited is in place again, or cannot be.
    fn is_back(&self, id: TaskId, again: Result<Assigned, DataError>) {
        let mut unused = None;
        let goes_on = match self.places().flights.lock().get_mut(&id) {
            Some(Flight::Assigned(task)) => match again {
                Ok(again) => {
                    unused = Some(std::mem::replace(&mut task.assigned, Arc::new(again)));
                    (task.again, task.phase) = (true, Phase::Staged);
                    Ok(())
                }
                // The body is there to be told.
                Err(error) if task.blocked.is_some() => {
                    task.trouble = Some(error.into());
                    Ok(())
                }
                Err(error) => Err(error),
            },
            _ => return, // cancelled meanwhile
        };
        drop(unused);
        match goes_on {
            Ok(()) => self.tell(News::Staged(id)),
            Err(error) => self.refuse(id, error.into()),
        }
    }

    /// A body that blocked goes on: waits until it has all that it gave back. The caller counts as an actor.
    ///
    /// # Errors
    /// Why its data could not be brought again.
    pub(in crate::runtime) fn placed_unblocks(&self, id: TaskId) -> Result<(), PlacingError> {
        let number = self.waits.next_number();
        match self.places().flights.lock().get_mut(&id) {
            Some(Flight::Assigned(task)) => task.blocked = Some(number),
            _ => return Ok(()), // it was never paused
        }
        self.tell(News::Ready(id));
        self.waits.await_readmission(number);
        match self.places().flights.lock().get_mut(&id) {
            Some(Flight::Assigned(task)) => task.trouble.take().map_or(Ok(()), Err),
            _ => Ok(()),
        }
    }

    /// Where a task that has waited has its data now; from here on it uses it.
    pub(in crate::runtime) fn goes_on(&self, id: TaskId) -> Option<Arc<Assigned>> {
        let assigned = self.assigned_to(id)?;
        if self.was_staged_again(id) {
            assigned.begin();
        }
        Some(assigned)
    }

    /// Others may have changed what a running task uses: has it brought again if that can be done here and now.
    pub(in crate::runtime) fn renew_at_once(&self, id: TaskId) -> Option<Arc<Assigned>> {
        let places = self.places();
        let before = self.assigned_to(id)?;
        if before.operands.is_empty() {
            return Some(before);
        }
        before.pause().ok()?;
        let (operands, devices) = (before.operands_again(), &before.devices);
        let staged = self.stage_at_once(&operands, devices, &before.room)?;
        let renewed = Arc::new(before.staged_again(staged).ok()?);
        renewed.begin();
        if let Some(Flight::Assigned(task)) = places.flights.lock().get_mut(&id) {
            task.assigned = Arc::clone(&renewed);
        }
        Some(renewed)
    }

    /// Whether the data of a task that goes on was let go of meanwhile.
    pub(in crate::runtime) fn was_staged_again(&self, id: TaskId) -> bool {
        match self.places().flights.lock().get_mut(&id) {
            Some(Flight::Assigned(task)) => std::mem::take(&mut task.again),
            _ => false,
        }
    }

    /// The devices of a task whose body has returned are still at work: calls `then` once they are done.
    pub(in crate::runtime) fn when_done(
        &self,
        events: Vec<Arc<dyn Event>>,
        then: impl FnOnce(&Self, Option<DeviceError>) + Send + 'static,
    ) {
        if events.is_empty() {
            then(self, None);
            return;
        }
        self.join_actors();
        let shared = self.arc();
        let finish = Arc::new(Countdown {
            left: AtomicUsize::new(events.len()),
            error: Mutex::new(None),
            then: Mutex::new(Some(move |error| {
                then(&shared, error);
                shared.leave_actors();
            })),
        });
        for event in events {
            let finish = Arc::clone(&finish);
            event.on_done(Box::new(move |result| finish.one_done(result.err())));
        }
    }
}

/// Calls `then` when the last of several events is done, with the first error.
struct Countdown<F> {
    left: AtomicUsize,
    error: Mutex<Option<DeviceError>>,
    then: Mutex<Option<F>>,
}

impl<F: FnOnce(Option<DeviceError>)> Countdown<F> {
    fn one_done(&self, error: Option<DeviceError>) {
        if let Some(error) = error {
            self.error.lock().get_or_insert(error);
        }
        if self.left.fetch_sub(1, Ordering::AcqRel) == 1 {
            let error = self.error.lock().take();
            let then = self.then.lock().take();
            if let Some(then) = then {
                then(error);
            }
        }
    }
}

/// What a task that waited needs to go on.
fn order_again(paused: &Assigned) -> Order {
    Order {
        operands: paused.operands_again(),
        devices: paused.devices.iter().copied().collect(),
        room: paused.room.clone(),
        again: true,
    }
}
