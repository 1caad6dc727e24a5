//! Bringing the data of a placed task to its devices, up to the queue from which a worker takes the task.

use std::collections::hash_map::Entry;
use std::sync::Arc;

use parla_core::{Attrs, Claim, DeviceId, Ready, TaskId};
use parla_data::{DataError, Operand, Order, Staged};
use parla_device::{DeviceError, Stream};
use smallvec::SmallVec;

use super::flight::{Assignment, Flight, Phase, placed_attrs};
use super::{News, Shared};
use crate::Assigned;
use crate::mapper::Placed;
use crate::runtime::{Executor, PlacingError};

impl<E: Executor> Shared<E> {
    /// Brings the data of a task that was placed. Called by who works through the mapper's decisions.
    pub(super) fn stage(&self, placed: Placed) {
        let places = self.places();
        let id = placed.task;
        if let Some(trace) = &self.trace {
            let note = placed.note.as_ref().map(ToString::to_string);
            trace.placed(id, &placed.devices, note.unwrap_or_default());
        }
        let placed = Arc::new(placed);
        let staging = |missing| Flight::Staging(Arc::clone(&placed), missing);
        places.flights.lock().insert(id, staging((0, 0)));
        let room = self.places().room(&placed.devices, &placed.claims);
        if let Some(staged) = self.stage_at_once(&placed.placing.operands, &placed.devices, &room) {
            if self.staged(&placed, Ok(staged)) {
                self.post(News::Staged(id)); // the caller listens to what is posted
            }
            return;
        }
        let missing = places.missing(&placed.placing.operands, &placed.devices);
        if let Some(flight) = places.flights.lock().get_mut(&id) {
            *flight = staging(missing);
        }
        self.join_actors();
        let shared = self.arc();
        let order = Order {
            operands: Arc::clone(&placed.placing.operands),
            devices: placed.devices.clone().into_iter().collect(),
            room,
            again: false,
        };
        let done = move |staged| {
            if shared.staged(&placed, staged) {
                shared.tell(News::Staged(id));
            }
            shared.leave_actors();
        };
        places.store.order(order, Box::new(done));
    }

    /// Without a copy, if none is needed.
    pub(super) fn stage_at_once(
        &self,
        operands: &Arc<[Operand]>,
        devices: &[DeviceId],
        room: &[u64],
    ) -> Option<Staged> {
        if room.iter().any(|bytes| *bytes > 0) {
            return None;
        }
        self.places().store.try_stage(operands, devices)
    }

    pub(in crate::runtime) fn is_stream_ordered(&self, device: DeviceId) -> bool {
        self.places()
            .store
            .machine()
            .device(device)
            .stream_ordered()
    }

    /// Its data is in place, or will never be. Whether the mapper is to hear of it.
    fn staged(&self, placed: &Placed, staged: Result<Staged, DataError>) -> bool {
        let places = self.places();
        let id = placed.task;
        let assigned = staged.map_err(PlacingError::from).and_then(|staged| {
            self.assigned(placed, staged)
                .map_err(|e| PlacingError::Data(e.into()))
        });
        let flight = match assigned {
            Ok(assigned) => Flight::Assigned(Assignment {
                attrs: self.attrs_of(placed),
                assigned: Arc::new(assigned),
                phase: Phase::Staged,
                missing: (0, 0),
                drained: None,
                again: false,
                blocked: None,
                trouble: None,
            }),
            Err(error) => Flight::Refused(error),
        };
        let refused = matches!(flight, Flight::Refused(_));
        let gone = match places.flights.lock().entry(id) {
            Entry::Occupied(mut entry) => {
                entry.insert(flight);
                None
            }
            Entry::Vacant(_) => Some(flight), // cancelled meanwhile
        };
        match gone {
            None if refused => self.queue_refused(id),
            None => return true,
            Some(flight) => drop(flight), // lets go of its data
        }
        false
    }

    fn assigned(&self, placed: &Placed, staged: Staged) -> Result<Assigned, DeviceError> {
        let machine = self.places().store.machine();
        let mut streams: SmallVec<[Option<Arc<dyn Stream>>; 1]> = SmallVec::new();
        for &device in &placed.devices {
            streams.push(if machine.model().device(device).exclusive {
                Some(machine.device(device).stream()?)
            } else {
                None
            });
        }
        let before = self.ahead.events_before(placed.task);
        for stream in streams.iter().flatten() {
            before.iter().try_for_each(|event| stream.wait(event))?;
        }
        let room = self.places().room(&placed.devices, &placed.claims);
        Assigned::new(placed, room, streams, staged)
    }

    /// How the task is queued once it may run.
    fn attrs_of(&self, placed: &Placed) -> Attrs {
        let places = self.places();
        let model = places.store.machine().model();
        let cpu = placed
            .devices
            .iter()
            .position(|d| !model.device(*d).exclusive);
        Attrs {
            priority: 0, // known once it may run
            worker: cpu
                .filter(|_| places.one_worker_per_cpu)
                .and_then(|at| u16::try_from(model.device(placed.devices[at]).index).ok())
                .filter(|&worker| usize::from(worker) < self.seats.len()),
            claim: cpu.map_or(Claim::default(), |at| placed.claims[at]),
            placed: true,
        }
    }

    /// The task will fail as soon as a worker has time for that. It may not be in flight yet: a fault of the policy.
    pub(super) fn refuse(&self, id: TaskId, error: PlacingError) {
        let mut flights = self.places().flights.lock();
        let known = flights.insert(id, Flight::Refused(error));
        drop(flights);
        drop(known); // lets go of its data
        self.queue_refused(id);
    }

    pub(in crate::runtime) fn queue_refused(&self, id: TaskId) {
        self.queue_admitted(Ready {
            id,
            attrs: placed_attrs(),
        });
    }

    /// A task has its compute units: it can run, or its body, which blocked, goes on.
    pub(super) fn queue_runnable(&self, id: TaskId, priority: i32) {
        let (attrs, blocked) = match self.places().flights.lock().get_mut(&id) {
            Some(Flight::Assigned(task)) => {
                task.attrs.priority = priority;
                (task.attrs, task.blocked.take())
            }
            Some(Flight::Refused(_)) => (placed_attrs(), None),
            _ => return, // cancelled meanwhile
        };
        match blocked {
            Some(number) => self.waits.readmit(number),
            None => self.queue_admitted(Ready { id, attrs }),
        }
    }
}
