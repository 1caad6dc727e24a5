//! Placed tasks that wait in the middle of their bodies, or for their devices at the end: letting go of data, having it brought again.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parla_core::lock::Mutex;
use parla_core::{Ready, TaskId};
use parla_data::{DataError, Staged};
use parla_device::{DeviceError, Event};

use super::{Flight, Shared};
use crate::Assigned;
use crate::runtime::Executor;

impl<E: Executor> Shared<E> {
    /// The body of a placed task awaits others, who may change what it uses: it lets go of its data and has it brought again afterwards.
    pub(in crate::runtime) fn placed_pauses(&self, id: TaskId) {
        let assigned = match self.places().flights.lock().get(&id) {
            Some(Flight::Assigned { assigned, .. }) => Some(Arc::clone(assigned)),
            _ => None,
        };
        if let Some(Err(error)) = assigned.as_deref().map(Assigned::pause) {
            self.places()
                .flights
                .lock()
                .insert(id, Flight::Refused(DataError::from(error).into()));
        }
        self.placed_suspended(id);
    }

    /// Brings the data of a task that goes on after a pause.
    pub(super) fn stage_again(&self, ready: Ready, paused: Arc<Assigned>) {
        self.join_actors();
        let shared = self.arc();
        let (operands, devices) = (paused.operands_again(), paused.devices.clone());
        let done = move |staged: Result<Staged, DataError>| {
            let again = staged.and_then(|staged| Ok(paused.staged_again(staged)?));
            match again {
                Ok(again) => {
                    if let Some(Flight::Assigned {
                        assigned,
                        again: flag,
                        ..
                    }) = shared.places().flights.lock().get_mut(&ready.id)
                    {
                        *assigned = Arc::new(again);
                        *flag = true;
                    }
                    shared.queue_admitted(ready);
                }
                Err(error) => shared.refuse(ready.id, error.into()),
            }
            shared.leave_actors();
        };
        self.places()
            .store
            .stage(operands, &devices, 0, Box::new(done));
    }

    /// Brings the data of a running task to its devices again. Blocks.
    pub(in crate::runtime) fn renew_data(
        &self,
        id: TaskId,
    ) -> Result<Option<Arc<Assigned>>, DataError> {
        let places = self.places();
        let before = match places.flights.lock().get(&id) {
            Some(Flight::Assigned { assigned, .. }) => Arc::clone(assigned),
            _ => return Ok(None),
        };
        if before.operands.is_empty() {
            return Ok(Some(before));
        }
        before.pause()?;
        let (tell, told) = std::sync::mpsc::channel();
        let done = Box::new(move |staged| drop(tell.send(staged)));
        let (operands, devices) = (before.operands_again(), before.devices.clone());
        places.store.stage(operands, &devices, 0, done);
        let staged = told.recv().unwrap_or_else(|_| {
            Err(DataError::Device(DeviceError::Driver {
                device: "(runtime)".to_owned(),
                call: "stage",
                reason: "the request was dropped".to_owned(),
            }))
        })?;
        let renewed = Arc::new(before.staged_again(staged)?);
        renewed.begin();
        if let Some(Flight::Assigned { assigned, .. }) = places.flights.lock().get_mut(&id) {
            *assigned = Arc::clone(&renewed);
        }
        Ok(Some(renewed))
    }

    /// Whether a task that goes on has its data in place anew; said once.
    pub(in crate::runtime) fn was_staged_again(&self, id: TaskId) -> bool {
        match self.places().flights.lock().get_mut(&id) {
            Some(Flight::Assigned { again, .. }) => std::mem::take(again),
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
