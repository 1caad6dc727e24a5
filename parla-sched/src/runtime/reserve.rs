//! Memory set aside for the program: what it allocates itself and keeps over tasks.

use std::sync::{Arc, Weak};

use parla_core::DeviceId;
use parla_data::{DataError, Held};

use super::shared::Shared;
use super::{Executor, Runtime};

/// Bytes of a device's memory that tasks and their arrays cannot have. Given back when this is dropped.
pub struct Reservation<E: Executor> {
    shared: Weak<Shared<E>>,
    what: Option<What>,
}

enum What {
    /// Of the memory that CPU tasks claim from.
    Host(u64),
    /// Only dropped.
    Device(Held),
}

impl<E: Executor> Drop for Reservation<E> {
    fn drop(&mut self) {
        let shared = self.shared.upgrade();
        match self.what.take() {
            Some(What::Host(bytes)) => {
                if let Some(shared) = shared {
                    shared.admit(|admission| admission.give_back(bytes));
                }
            }
            Some(What::Device(held)) => {
                drop(held);
                if let Some(shared) = shared {
                    shared.held_changed();
                }
            }
            None => {}
        }
    }
}

impl<E: Executor> Runtime<E> {
    /// Sets memory of a device aside for the program. Copies of arrays that nobody uses make room, those that are nowhere else after they were written
    /// back; nobody is waited for who uses the rest. The host's memory is that which CPU tasks claim from.
    ///
    /// # Errors
    /// [`DataError::Reserved`] with the numbers: there are not so many bytes that nobody uses; what a device says of a copy that was to be written back.
    pub fn reserve(&self, device: DeviceId, bytes: u64) -> Result<Reservation<E>, DataError> {
        let shared = &self.shared;
        let reservation = |what| Reservation {
            shared: Arc::downgrade(shared),
            what: Some(what),
        };
        let on_a_gpu = shared.places.as_ref().filter(|places| {
            let model = places.store.machine().model();
            model.device(device).exclusive
        });
        let Some(places) = on_a_gpu else {
            let asked = shared.admission.lock().set_aside(bytes);
            return asked.map(|()| reservation(What::Host(bytes)));
        };
        // A copy that is written back is something that moves.
        let _actor = shared.act();
        let held = places.store.set_aside(device, bytes)?;
        shared.held_changed();
        Ok(reservation(What::Device(held)))
    }

    /// On which devices a policy placed a task that has not ended, and why, if it said: both in words.
    #[must_use]
    pub fn placement_of(&self, task: parla_core::TaskId) -> Option<(String, String)> {
        let found = self.shared.places.as_ref()?.placement_of(task);
        self.shared.hear_late_news();
        found
    }
}
