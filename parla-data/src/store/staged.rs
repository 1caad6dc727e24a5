//! Operands in place, until the task that uses them has ended.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use parla_core::{DeviceId, MachineModel, MemoryId};
use parla_device::{Block, Event, Place};
use smallvec::SmallVec;

use super::{Ended, Store};
use crate::Operand;
use crate::array::Shared;
use crate::directory::InstanceId;
use crate::instance::{Instance, Outstanding, State};
use crate::op::Op;

/// Operands in place. They stay there until this is [ended](Staged::end) (or dropped: as [`Ended::NotBegun`]).
#[derive(Debug)]
pub struct Staged {
    store: Arc<Store>,
    operands: Arc<[Operand]>,
    // By operand; pinned unless they are the home. Fewer than operands: those are at home.
    pub(super) instances: SmallVec<[InstanceId; 4]>,
    pub(super) places: Vec<Place>,
    pub(super) events: Vec<(usize, Arc<dyn Event>)>,
    // What the body's streams wait for and may still fail.
    pub(super) inputs: Vec<Arc<Op>>,
    // What is reserved beyond the operands.
    pub(super) extra: SmallVec<[(MemoryId, u64); 1]>,
    begun: bool,
}

impl Staged {
    pub(super) fn new(store: &Arc<Store>, operands: &Arc<[Operand]>) -> Self {
        Self {
            store: Arc::clone(store),
            operands: Arc::clone(operands),
            instances: SmallVec::new(),
            places: Vec::with_capacity(operands.len()),
            events: Vec::new(),
            inputs: Vec::new(),
            extra: SmallVec::new(),
            begun: false,
        }
    }

    /// For each operand, where the first element of its region is on its device, with the strides there.
    #[must_use]
    pub fn places(&self) -> &[Place] {
        &self.places
    }

    /// What the body's streams have to wait for: copies under way to a stream-ordered device; by slot.
    #[must_use]
    pub fn events(&self) -> &[(usize, Arc<dyn Event>)] {
        &self.events
    }

    /// The body is about to start: from now on what it writes is newest on its device, and nowhere else.
    pub fn begin(&mut self) {
        self.begun = true;
        for (operand, id) in uses(&self.operands, &self.instances) {
            let array = &operand.array.0;
            if operand.access.writes() && !(id == InstanceId::HOME && operand.array.is_host_only())
            {
                let mut state = array.state.lock();
                state.written(&operand.region, id);
                array.update_host_only(&state);
            }
        }
    }

    /// The body has ended.
    pub fn end(mut self, how: Ended) {
        self.ended(how);
    }

    fn ended(&mut self, how: Ended) {
        let how = match how {
            Ended::NotBegun if self.begun => {
                Ended::Badly("the task that was writing it was given up".to_owned())
            }
            Ended::Badly(_) if !self.begun => Ended::NotBegun,
            how => how,
        };
        let ops = match &how {
            Ended::Well(events) => self.ops(events),
            _ => Vec::new(),
        };
        let instances = std::mem::take(&mut self.instances);
        let mut unused = Vec::new();
        for (operand, id) in uses(&self.operands, &instances) {
            let array = &operand.array.0;
            let quiet = ops.is_empty() && !matches!(how, Ended::Badly(_));
            if id == InstanceId::HOME && quiet && operand.array.is_host_only() {
                continue;
            }
            let mut state = array.state.lock();
            leave(&mut state, operand, id, &how, &ops);
            if id != InstanceId::HOME
                && let Some(instance) = state.get_mut(id)
            {
                instance.pins -= 1;
                instance.stamp = self.store.tick();
            }
            unused.extend(superseded(&mut state));
            array.update_host_only(&state);
        }
        for (memory, bytes) in self.extra.drain(..) {
            let reserved = &self.store.memory(memory).reserved;
            reserved.fetch_sub(bytes, Ordering::SeqCst);
        }
        for instance in unused {
            instance.release();
        }
        for op in &ops {
            op.watch();
        }
        self.places.clear();
        self.inputs.clear();
        self.store.given_back();
    }

    /// What the body left to its devices, as work that the instances it used depend on.
    fn ops(&self, events: &[Arc<dyn Event>]) -> Vec<Arc<Op>> {
        // Also if the body put nothing on a stream, what it wrote is worth no more than what it read.
        let inputs = self.inputs.iter().map(|op| &op.event);
        let events: Vec<_> = if events.is_empty() {
            inputs.collect()
        } else {
            events.iter().collect()
        };
        if events.is_empty() {
            return Vec::new();
        }
        let mut arrays: SmallVec<[&Arc<Shared>; 4]> = SmallVec::new();
        arrays.extend(self.operands.iter().map(|operand| &operand.array.0));
        arrays.sort_by_key(|array| array.id);
        arrays.dedup_by_key(|array| array.id);
        let what: Arc<str> = Arc::from("the work of the task that wrote it failed");
        let op = |event: &Arc<dyn Event>| {
            Op::new(
                Arc::clone(event),
                Arc::clone(&what),
                arrays.iter().map(|array| Arc::downgrade(array)).collect(),
                Arc::downgrade(&self.store),
                self.inputs.clone(),
            )
        };
        events.into_iter().map(op).collect()
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if !self.instances.is_empty()
            || !self.extra.is_empty()
            || self.begun && !self.places.is_empty()
        {
            self.ended(Ended::NotBegun);
        }
    }
}

fn uses<'a>(
    operands: &'a [Operand],
    instances: &'a [InstanceId],
) -> impl Iterator<Item = (&'a Operand, InstanceId)> {
    let instances = instances.iter().copied();
    let instances = instances.chain(std::iter::repeat(InstanceId::HOME));
    operands.iter().zip(instances)
}

/// Writes down in one array how a body left an operand.
fn leave(state: &mut State, operand: &Operand, id: InstanceId, how: &Ended, ops: &[Arc<Op>]) {
    let region = &operand.region;
    let writes = operand.access.writes();
    match how {
        Ended::NotBegun => return,
        Ended::Badly(because) => {
            if writes {
                state.supersede(id, region);
                state.directory.invalidated(region, because);
            }
            return;
        }
        // Once more: a copy that was made while the body ran is of no use.
        Ended::Well(_) if writes => state.written(region, id),
        Ended::Well(_) => {}
    }
    let Some(instance) = state.get_mut(id) else {
        return;
    };
    for op in ops {
        instance.outstanding.push(Outstanding {
            op: Arc::clone(op),
            region: region.clone(),
            write: writes,
            live: if writes {
                vec![region.clone()]
            } else {
                Vec::new()
            },
        });
    }
}

/// Takes out the instances that hold nothing, are not used, and lie inside another one of the same memory, which serves the same requests.
fn superseded(state: &mut State) -> impl Iterator<Item = Instance> + use<> {
    let mut taken = Vec::new();
    let mut i = 1;
    while let Some(instance) = state.instances.get(i) {
        let larger = |other: &Instance| {
            other.memory == instance.memory
                && other.id != instance.id
                && state.directory.instance(other.id).is_some()
                && other.region.contains(&instance.region)
        };
        let empty = || state.directory.n_valid(instance.id, &instance.region) == 0;
        if instance.is_idle() && state.instances.iter().any(larger) && empty() {
            let id = instance.id;
            taken.extend(state.take(id, "it is gone"));
        } else {
            i += 1;
        }
    }
    taken.into_iter()
}

impl Store {
    /// Stages without a copy, an allocation or a wait, if none is needed: the fast path.
    #[must_use]
    pub fn try_stage(
        self: &Arc<Self>,
        operands: &Arc<[Operand]>,
        devices: &[DeviceId],
    ) -> Option<Staged> {
        let mut staged = Staged::new(self, operands);
        let all_home = operands.iter().all(|operand| {
            operand.array.is_host_only()
                && self.model().memory_of(devices[operand.slot]) == MachineModel::HOST
                && (operand.array.home().writable || !operand.access.writes())
        });
        if all_home {
            for operand in operands.iter() {
                let place = home_place(operand);
                staged.places.push(place);
            }
            return Some(staged);
        }
        for (i, operand) in operands.iter().enumerate() {
            let (id, place) = self.try_use(operands, i, operand, devices)?;
            staged.instances.push(id);
            staged.places.push(place);
        }
        Some(staged)
    }

    /// Pins an instance that has all that an operand needs.
    fn try_use(
        &self,
        operands: &[Operand],
        i: usize,
        operand: &Operand,
        devices: &[DeviceId],
    ) -> Option<(InstanceId, Place)> {
        let memory = self.model().memory_of(devices[operand.slot]);
        let region = &operand.region;
        let writes = operand.access.writes();
        if writes && !operand.array.home().writable {
            return None;
        }
        if region.is_empty() {
            return Some((InstanceId::HOME, self.empty_place(operand, memory)));
        }
        // Parts of one array may have to share an instance: that takes the long way.
        let same = |other: &Operand| other.array.id() == operand.array.id();
        if memory != MachineModel::HOST && operands[..i].iter().any(same) {
            return None;
        }
        let mut state = operand.array.0.state.lock();
        self.purge_lost(&mut state);
        let id = if memory == MachineModel::HOST {
            InstanceId::HOME
        } else {
            state.directory.find(memory, region)?
        };
        let there = state.directory.n_valid(id, region) == region.n_elements();
        let instance = state.get_mut(id)?;
        if operand.fetches() && !there
            || instance.before(region, writes).next().is_some()
            || id != InstanceId::HOME && !instance.is_of(&self.me)
        {
            return None;
        }
        if id != InstanceId::HOME {
            instance.pins += 1;
            instance.stamp = self.tick();
        }
        Some((id, instance.place(region, self.machine.key(memory))))
    }

    /// Where nothing is.
    pub(super) fn empty_place(&self, operand: &Operand, memory: MemoryId) -> Place {
        if memory == MachineModel::HOST {
            return home_place(operand);
        }
        let item = isize::try_from(operand.array.item()).unwrap_or(isize::MAX);
        Place {
            // Aligned like any other, and not null.
            block: Arc::new(Block::foreign(256, 0, ())),
            offset: 0,
            strides: operand.array.shape().iter().map(|_| item).collect(),
            device: self.machine.key(memory),
        }
    }
}

/// Where an operand is at home.
#[inline]
fn home_place(operand: &Operand) -> Place {
    let home = operand.array.home();
    let mut offset = home.offset;
    if !operand.region.is_empty() {
        for (range, stride) in operand.region.ranges().zip(&home.strides) {
            offset = offset.wrapping_add_signed(stride.wrapping_mul(range.start.cast_signed()));
        }
    }
    Place {
        block: Arc::clone(&home.block),
        offset,
        strides: home.strides.clone(),
        device: None,
    }
}
