//! What placed tasks are doing, for people.

use std::sync::Arc;

use parla_core::{DeviceId, MachineModel, MemoryId, TaskId};
use parla_data::Operand;
use rustc_hash::FxHashSet;

use super::flight::{Flight, Missing, Phase};
use super::{Outlook, Places, Shared};
use crate::Assigned;
use crate::runtime::{Executor, Runtime};
use crate::whereabouts::{Resource, Shortage, Whereabouts};

/// How far a placed task is, in one look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlacedState {
    /// Its data is being brought to its devices.
    Staging,
    /// Its data is in place, and its body does not wait for other tasks.
    Placed,
    /// It waits for others.
    Paused,
    /// Its body is over, its devices are at work.
    Draining,
}

impl<E: Executor> Runtime<E> {
    /// How far a task is that has been placed and has not ended; cheap.
    #[must_use]
    pub fn placed_state(&self, id: TaskId) -> Option<PlacedState> {
        let places = self.shared.places.as_ref()?;
        Some(match places.flights.lock().get(&id)? {
            Flight::Staging(..) => PlacedState::Staging,
            Flight::Refused(_) => PlacedState::Placed,
            Flight::Assigned(task) => match task.phase {
                Phase::Staged => PlacedState::Placed,
                Phase::Paused => PlacedState::Paused,
                Phase::Returning => PlacedState::Staging,
                Phase::Draining => PlacedState::Draining,
            },
        })
    }

    /// What a task is doing or waiting for when its body does not run. `None`: it claims nothing and is not placed, has ended, or waits for other tasks.
    #[must_use]
    pub fn whereabouts(&self, id: TaskId) -> Option<Whereabouts> {
        let wants = self.shared.admission.lock().wants(id);
        if wants.is_empty() {
            return self.shared.whereabouts(id);
        }
        Some(Whereabouts::Unadmitted(wants))
    }
}

impl<E: Executor> Shared<E> {
    fn whereabouts(&self, id: TaskId) -> Option<Whereabouts> {
        let places = self.places.as_ref()?;
        let wants = || {
            let wants = places.desk.lock().mapper.wants(id, &Outlook(places));
            self.hear_late_news(); // of those who found the lock taken
            wants
        };
        let flight = match places.flights.lock().get(&id) {
            None => None,
            Some(Flight::Refused(_)) => return None,
            Some(Flight::Staging(placed, missing)) => {
                let room = places.room(&placed.devices, &placed.claims);
                let operands = Arc::clone(&placed.placing.operands);
                let devices = placed.devices.clone();
                Some((Phase::Returning, operands, devices, room, *missing))
            }
            Some(Flight::Assigned(task)) => {
                let Assigned { operands, .. } = &*task.assigned;
                let (devices, room) = (task.assigned.devices.clone(), task.assigned.room.clone());
                Some((
                    task.phase,
                    Arc::clone(operands),
                    devices,
                    room,
                    task.missing,
                ))
            }
        };
        let Some((phase, operands, devices, room, (n_arrays, bytes))) = flight else {
            let ready = self.graph.state(id) == parla_core::TaskState::Ready;
            let known = ready && places.desk.lock().mapper.knows(id);
            self.hear_late_news();
            return known.then(|| Whereabouts::Unplaced(wants()));
        };
        let names = places.names(&devices);
        Some(match phase {
            Phase::Returning => {
                let mut waits = places.conflicts(id, &operands, &devices);
                if waits.is_empty() {
                    waits = places.full_memories(id, &operands, &devices, &room);
                }
                Whereabouts::Staging {
                    devices: names,
                    n_arrays,
                    bytes,
                    waits,
                }
            }
            Phase::Staged => Whereabouts::Placed {
                devices: names,
                waits: wants(),
            },
            Phase::Draining => Whereabouts::Draining { devices: names },
            // It may want its memory again.
            Phase::Paused => {
                let waits = wants();
                if waits.is_empty() {
                    return None;
                }
                Whereabouts::Unplaced(waits)
            }
        })
    }
}

impl Places {
    /// What of a task's data has to be brought.
    pub(super) fn missing(&self, operands: &[Operand], devices: &[DeviceId]) -> Missing {
        let mut arrays = FxHashSet::default();
        let mut bytes = 0;
        for operand in operands {
            let missing = (self.store).missing_bytes(std::slice::from_ref(operand), devices);
            if missing > 0 {
                arrays.insert(operand.array.id());
                bytes += missing;
            }
        }
        (arrays.len(), bytes)
    }

    fn names(&self, devices: &[DeviceId]) -> Vec<String> {
        let model = self.store.machine().model();
        devices
            .iter()
            .map(|device| model.device_text(*device))
            .collect()
    }

    /// The tasks that have their data in place.
    fn in_place(&self, but: TaskId) -> Vec<(TaskId, Arc<Assigned>)> {
        let flights = self.flights.lock();
        let others = flights.iter().filter(|(id, _)| **id != but);
        let mut others: Vec<_> = others
            .filter_map(|(id, flight)| match flight {
                Flight::Assigned(task) => Some((*id, Arc::clone(&task.assigned))),
                _ => None,
            })
            .collect();
        drop(flights);
        others.retain(|(_, assigned)| assigned.is_in_place());
        others.sort_unstable_by_key(|(id, _)| *id);
        others
    }

    /// Parts of arrays that others write and have not let go of.
    fn conflicts(&self, id: TaskId, operands: &[Operand], devices: &[DeviceId]) -> Vec<Shortage> {
        let model = self.store.machine().model();
        let mut found: Vec<Shortage> = Vec::new();
        for (holder, assigned) in self.in_place(id) {
            for theirs in assigned.operands.iter().filter(|o| o.access.writes()) {
                let there = model.memory_of(assigned.devices[theirs.slot]);
                for mine in operands
                    .iter()
                    .filter(|o| o.array.id() == theirs.array.id())
                {
                    let here = model.memory_of(devices[mine.slot]);
                    let both_at_home = (here, there) == (MachineModel::HOST, MachineModel::HOST);
                    let Some(region) = mine.region.intersection(&theirs.region) else {
                        continue;
                    };
                    if !both_at_home {
                        let array = mine.array.name().to_owned();
                        found.push(Shortage {
                            of: Resource::Data { array, region },
                            held_by: vec![(holder, 0)],
                        });
                    }
                }
            }
        }
        found
    }

    /// Memories that have less than the task asks for, with those who use them.
    fn full_memories(
        &self,
        id: TaskId,
        operands: &[Operand],
        devices: &[DeviceId],
        room: &[u64],
    ) -> Vec<Shortage> {
        let model = self.store.machine().model();
        let bytes_in =
            |memory: MemoryId, operands: &[Operand], devices: &[DeviceId], room: &[u64]| {
                let there = |device: DeviceId| model.memory_of(device) == memory;
                let data = operands.iter().filter(|o| there(devices[o.slot]));
                let data = data.map(|o| (o.region.n_elements() * o.array.item()) as u64);
                let room = devices
                    .iter()
                    .zip(room)
                    .filter(|(device, _)| there(**device));
                data.sum::<u64>() + room.map(|(_, bytes)| *bytes).sum::<u64>()
            };
        let mut found = Vec::new();
        for &device in devices.iter().filter(|d| model.device(**d).exclusive) {
            let memory = model.memory_of(device);
            let requested = bytes_in(memory, operands, devices, room);
            let free = self.store.free(memory);
            if requested <= free {
                continue;
            }
            let held = |(id, other): (TaskId, Arc<Assigned>)| {
                let bytes = bytes_in(memory, &other.operands, &other.devices, &other.room);
                (bytes > 0).then_some((id, bytes))
            };
            let held_by: Vec<_> = self.in_place(id).into_iter().filter_map(held).collect();
            let reserved = self.store.held(device);
            if !held_by.is_empty() || reserved > 0 {
                found.push(Shortage {
                    of: Resource::Memory {
                        device: model.device_text(device),
                        requested,
                        free,
                        reserved,
                        capacity: model.memories[memory.0 as usize].capacity,
                    },
                    held_by,
                });
            }
        }
        found
    }
}
