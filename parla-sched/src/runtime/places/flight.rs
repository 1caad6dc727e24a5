//! What is known of a task between its placement and its end.

use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use parla_core::{Attrs, Ready, TaskId};
use parla_data::Ended;
use parla_device::{DeviceError, Event};

use super::{News, Shared};
use crate::mapper::Placed;
use crate::runtime::{Executor, PlacingError};
use crate::{Assigned, Runahead};

/// How far a placed task has come.
pub(super) enum Flight {
    /// Its data is on the way.
    Staging(Arc<Placed>, Missing),
    /// It can run, runs, or waits for something.
    Assigned(Assignment),
    /// It cannot run.
    Refused(PlacingError),
}

/// How much of a task's data was not there when it was asked for: arrays and bytes. For people.
pub(super) type Missing = (usize, u64);

/// A task that has its devices.
pub(super) struct Assignment {
    pub(super) assigned: Arc<Assigned>,
    pub(super) attrs: Attrs,
    /// What its devices are doing, or its data.
    pub(super) phase: Phase,
    /// Of its data, when it was last asked for.
    pub(super) missing: Missing,
    /// How its devices ended, once it has waited for them.
    pub(super) drained: Option<Result<(), DeviceError>>,
    /// Its operands are in place again after a pause, and nobody has seen them yet.
    pub(super) again: bool,
    /// The body blocked and waits, under this number, for what it gave back.
    pub(super) blocked: Option<u64>,
    /// Its operands could not be brought again, and its body, which blocked, has not heard of it yet.
    pub(super) trouble: Option<PlacingError>,
}

/// What happens to a task that has its devices, when no worker runs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Its data is in place.
    Staged,
    /// It waits for others, and has let go of its data.
    Paused,
    /// Its data is brought again.
    Returning,
    /// Its body is over, its devices are at work.
    Draining,
}

/// What a worker finds when it starts a placed task.
pub(in crate::runtime) enum Boarding {
    Go(Arc<Assigned>, Option<Result<(), DeviceError>>),
    Refused(PlacingError),
}

impl<E: Executor> Shared<E> {
    /// A placed task has ended: its data is newest where it ran, or nowhere. Called before its dependents hear of the end; the mapper hears of
    /// it with the [next news](Self::hear_late_news).
    pub(in crate::runtime) fn placed_ended(&self, id: TaskId, well: bool) {
        let places = self.places();
        let flight = places.flights.lock().remove(&id);
        let mut exec_ns = 0;
        if let Some(Flight::Assigned(Assignment { assigned, .. })) = flight {
            exec_ns = places.busy_ns(&assigned);
            for device in &assigned.devices {
                let counts = &places.counts[device.0 as usize];
                counts.tasks.fetch_add(1, Ordering::Relaxed);
                counts.busy_ns.fetch_add(exec_ns, Ordering::Relaxed);
            }
            assigned.end(if well {
                Ended::Well(Vec::new())
            } else {
                Ended::Badly(format!("{} failed", self.executor.name_of(id)))
            });
        }
        // Heard together with what becomes ready by it: the caller sees to that.
        self.post(News::Ended(id, exec_ns, well));
    }

    /// What a worker needs to start the task.
    pub(in crate::runtime) fn board(&self, id: TaskId) -> Boarding {
        let mut flights = self.places().flights.lock();
        match flights.entry(id) {
            Entry::Occupied(mut entry) => match entry.get_mut() {
                Flight::Assigned(task) => {
                    task.phase = Phase::Staged;
                    Boarding::Go(Arc::clone(&task.assigned), task.drained.take())
                }
                _ => match entry.remove() {
                    Flight::Refused(error) => Boarding::Refused(error),
                    _ => Boarding::Refused(lost()),
                },
            },
            Entry::Vacant(_) => Boarding::Refused(lost()),
        }
    }

    /// The body of a placed task has returned; it is run a last time when its devices are done.
    pub(in crate::runtime) fn placed_drains(&self, id: TaskId, events: Vec<Arc<dyn Event>>) {
        let kept = self.assigned_to(id);
        if kept
            .as_ref()
            .is_some_and(|a| a.runahead != Runahead::Blocking)
        {
            self.tell(News::Returned(id));
        }
        self.when_done(events, move |shared, error| {
            // Not before: the devices use its memory, also if nobody wants it any more.
            drop(kept);
            let attrs = shared.note_drained(id, error);
            if let Some(Ready { id, .. }) = shared.graph.resume(id) {
                shared.queue_admitted(Ready { id, attrs });
            }
        });
    }

    /// The devices of a task have done what its body gave them. Returns how it is to be queued.
    pub(in crate::runtime) fn note_drained(&self, id: TaskId, error: Option<DeviceError>) -> Attrs {
        match self.places().flights.lock().get_mut(&id) {
            Some(Flight::Assigned(task)) => {
                task.assigned.devices_done();
                task.drained = Some(error.map_or(Ok(()), Err));
                task.attrs
            }
            _ => placed_attrs(),
        }
    }

    /// A placed task runs ahead of its devices: its data is newest where it ran once `events` are done, and others may have its compute units.
    pub(in crate::runtime) fn placed_runs_ahead(&self, id: TaskId, events: &[Arc<dyn Event>]) {
        if let Some(assigned) = self.assigned_to(id) {
            assigned.end(Ended::Well(events.to_vec()));
        }
        self.tell(News::Drains(id));
    }

    /// Its body is over, its devices are not done. Told before the graph hears of it.
    pub(in crate::runtime) fn note_draining(&self, id: TaskId) {
        if let Some(Flight::Assigned(task)) = self.places().flights.lock().get_mut(&id) {
            task.phase = Phase::Draining;
        }
    }

    /// Where a task was placed.
    pub(in crate::runtime) fn assigned_to(&self, id: TaskId) -> Option<Arc<Assigned>> {
        match self.places().flights.lock().get(&id) {
            Some(Flight::Assigned(task)) => Some(Arc::clone(&task.assigned)),
            _ => None,
        }
    }

    /// Whether its body is over and its devices are at work: it is too late to cancel it.
    pub(in crate::runtime) fn is_draining(&self, id: TaskId) -> bool {
        let Some(places) = &self.places else {
            return false;
        };
        match places.flights.lock().get(&id) {
            Some(Flight::Assigned(task)) => task.phase == Phase::Draining,
            _ => false,
        }
    }
}

pub(super) fn placed_attrs() -> Attrs {
    Attrs {
        placed: true,
        ..Attrs::default()
    }
}

/// The flight of a task that was never cancelled is missing: a fault of this runtime, reported as the task's error.
fn lost() -> PlacingError {
    PlacingError::Policy {
        policy: "(runtime)".to_owned(),
        fault: "lost track of the task".to_owned(),
    }
}
