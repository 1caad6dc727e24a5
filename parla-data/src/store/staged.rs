//! Operands in place, until the task that uses them has ended.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use parla_core::{MachineModel, MemoryId, Region, TraceUse};
use parla_device::{Event, Place};
use smallvec::SmallVec;

use super::writers::{Ticket, leave_writers};
use super::{Ended, Store};
use crate::array::Shared;
use crate::directory::InstanceId;
use crate::history::DataEvent;
use crate::instance::{Instance, Outstanding, State};
use crate::op::Op;
use crate::{DataError, Operand};

/// Operands in place. They stay there until this is [ended](Staged::end) (or dropped: as [`Ended::NotBegun`]).
#[derive(Debug)]
pub struct Staged {
    store: Arc<Store>,
    operands: Arc<[Operand]>,
    // Under which its writers are entered in the arrays' lists; `None`: nobody needs to know.
    ticket: Option<Ticket>,
    // By operand; pinned unless they are the home. Fewer than operands: those are at home.
    pub(super) instances: SmallVec<[InstanceId; 4]>,
    pub(super) places: Vec<Place>,
    pub(super) events: Vec<(usize, Arc<dyn Event>)>,
    // What the body's streams wait for and may still fail.
    pub(super) inputs: Vec<Arc<Op>>,
    // By operand: what of it has no valid contents. It is written, but not made valid by that, unless all of it is.
    pub(super) lost: Vec<(usize, Region, Arc<str>)>,
    // What is reserved beyond the operands.
    pub(super) extra: SmallVec<[(MemoryId, u64); 1]>,
    begun: bool,
    ended: bool,
    // By operand, once it has begun, if a record is kept.
    uses: Vec<TraceUse>,
}

impl Staged {
    /// The writers among the operands were entered by the caller.
    pub(super) fn new(
        store: &Arc<Store>,
        operands: &Arc<[Operand]>,
        ticket: Option<Ticket>,
    ) -> Self {
        Self {
            store: Arc::clone(store),
            operands: Arc::clone(operands),
            ticket,
            instances: SmallVec::new(),
            places: Vec::with_capacity(operands.len()),
            events: Vec::new(),
            inputs: Vec::new(),
            lost: Vec::new(),
            extra: SmallVec::new(),
            begun: false,
            ended: false,
            uses: Vec::new(),
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
        if self.store.keeps_versions() {
            self.uses = self.look();
        }
        for (i, (operand, id)) in uses(&self.operands, &self.instances).enumerate() {
            let array = &operand.array.0;
            if !operand.access.writes() || self.ticket.is_none() && operand.array.is_host_only() {
                continue;
            }
            let mut state = array.state.lock();
            for region in self.kept(i) {
                state.written(&region, id);
                self.store.outdated(array, &mut state, &region);
            }
            if let Some(ticket) = self.ticket {
                state.claim(ticket, false);
            }
            array.update_host_only(&state);
        }
        // Copies of what is now written here are of no use any more.
        self.store.given_back();
    }

    /// What the body found when it began, by operand: empty before, and if [no record](Store::keep_versions) is kept.
    #[must_use]
    pub fn uses(&self) -> &[TraceUse] {
        &self.uses
    }

    /// Writes down what each operand finds, and then that it writes.
    fn look(&self) -> Vec<TraceUse> {
        let mut all = Vec::with_capacity(self.operands.len());
        for (i, (operand, id)) in uses(&self.operands, &self.instances).enumerate() {
            let array = &operand.array.0;
            let state = array.state.lock();
            let access = operand.access;
            // What is lost nobody reads.
            let kept = self.kept(i).into_iter().filter(|_| access.reads());
            let finds = kept.flat_map(|kept| state.versions.find(id, &kept));
            let finds = finds.collect();
            all.push(TraceUse {
                array: array.id.0,
                name: array.name.clone(),
                region: operand.region.clone(),
                access,
                exact: operand.exact,
                memory: state
                    .get(id)
                    .map_or(MachineModel::HOST, |instance| instance.memory),
                finds,
                writes: access.writes().then(Store::next_version),
            });
        }
        self.write_versions(&all, false);
        all
    }

    /// Enters the versions of what the body writes, or has written: but where another one at home, a child, has written since.
    fn write_versions(&self, all: &[TraceUse], ended: bool) {
        for ((operand, id), one) in uses(&self.operands, &self.instances).zip(all) {
            if let Some(version) = one.writes {
                let versions = &mut operand.array.0.state.lock().versions;
                if ended {
                    versions.finished(id, &operand.region, version - 1, version);
                } else {
                    versions.wrote(id, &operand.region, version - 1);
                }
            }
        }
    }

    /// What of an operand has valid contents, or is overwritten.
    fn kept(&self, operand: usize) -> Vec<Region> {
        let lost = self.lost.iter().filter(|(i, ..)| *i == operand);
        without(
            &self.operands[operand].region,
            lost.map(|(_, region, _)| region),
        )
    }

    /// Why a box of an operand cannot be read, if so it is: what the task waited for failed while it wrote there.
    #[must_use]
    pub fn lost(&self, operand: usize, region: &Region) -> Option<DataError> {
        // Those of others may have other dimensions.
        let mut lost = self.lost.iter().filter(|(i, ..)| *i == operand);
        let found = lost.find_map(|(_, lost, because)| {
            let common = lost.intersection(region)?;
            Some((common, because))
        });
        let (region, because) = found?;
        Some(DataError::Invalid {
            array: self.operands[operand].array.name().to_owned(),
            region,
            because: because.to_string(),
        })
    }

    /// The body is about to overwrite all of a box of an operand: what it had lost there does not matter any more.
    pub fn overwritten(&mut self, operand: usize, region: &Region) {
        let lost = std::mem::take(&mut self.lost);
        let (mine, others): (Vec<_>, Vec<_>) = lost.into_iter().partition(|(i, ..)| *i == operand);
        if mine.is_empty() {
            self.lost = others;
            return;
        }
        let rest = mine.into_iter().flat_map(|(i, lost, because)| {
            let rest = lost.difference(region).into_iter();
            rest.map(move |rest| (i, rest, Arc::clone(&because)))
        });
        self.lost = rest.chain(others).collect();
        let id = self.instances.get(operand).copied();
        let array = &self.operands[operand].array.0;
        let mut state = array.state.lock();
        state.written(region, id.unwrap_or(InstanceId::HOME));
        self.store.outdated(array, &mut state, region);
        array.update_host_only(&state);
    }

    /// Where nothing is fetched nothing may be copied from now on, until the body begins.
    pub(super) fn claim(&self) {
        for operand in self.operands.iter().filter(|o| !o.fetches()) {
            if let Some(ticket) = self.ticket {
                operand.array.0.state.lock().claim(ticket, true);
            }
        }
    }

    /// The body has ended.
    pub fn end(mut self, how: Ended) {
        self.ended(how);
    }

    fn ended(&mut self, how: Ended) {
        self.ended = true;
        // Whoever is given the memory of an instance needs all of it.
        self.places.clear();
        let how = match how {
            Ended::NotBegun if self.begun => {
                Ended::Badly("the task that was writing it was given up".to_owned())
            }
            Ended::Badly(_) if !self.begun => Ended::NotBegun,
            how => how,
        };
        if matches!(how, Ended::Well(_)) && !self.uses.is_empty() {
            self.write_versions(&self.uses, true);
        }
        let ops = match &how {
            Ended::Well(events) => self.ops(events),
            _ => Vec::new(),
        };
        let instances = std::mem::take(&mut self.instances);
        let mut unused = Vec::new();
        for (i, (operand, id)) in uses(&self.operands, &instances).enumerate() {
            let array = &operand.array.0;
            let quiet = ops.is_empty() && !matches!(how, Ended::Badly(_));
            if self.ticket.is_none() && quiet && operand.array.is_host_only() {
                continue;
            }
            let mut state = array.state.lock();
            leave(&mut state, operand, &self.kept(i), id, &how, &ops);
            if operand.access.writes() {
                self.store.outdated(array, &mut state, &operand.region);
            }
            if let Some(instance) = state.get_mut(id) {
                instance.stamp = self.store.tick();
            }
            self.store.unpin(array, &mut state, id);
            unused.extend(superseded(&mut state));
            array.update_host_only(&state);
        }
        // Only now: all that it wrote has been written down.
        if let Some(ticket) = self.ticket {
            leave_writers(&self.operands, ticket);
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
        if !self.ended {
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

/// What is left of a box without others.
pub(super) fn without<'a>(
    region: &Region,
    others: impl Iterator<Item = &'a Region>,
) -> Vec<Region> {
    let mut rest = vec![region.clone()];
    for other in others {
        rest = rest
            .iter()
            .flat_map(|part| part.difference(other))
            .collect();
    }
    rest
}

/// Writes down in one array how a body left an operand.
fn leave(
    state: &mut State,
    operand: &Operand,
    kept: &[Region],
    id: InstanceId,
    how: &Ended,
    ops: &[Arc<Op>],
) {
    let region = &operand.region;
    let writes = operand.access.writes();
    match how {
        Ended::NotBegun => return,
        Ended::Badly(because) => {
            if writes {
                state.note(id, Some(region), DataEvent::Spoilt);
                state.supersede(id, region);
                state.directory.invalidated(region, because);
            }
            return;
        }
        Ended::Well(_) => {}
    }
    let kept: Vec<Region> = match id {
        _ if !writes => Vec::new(),
        // At home others may write, too, a child of the body, say: what one of them spoilt is not made valid by the end of a body that may not know.
        InstanceId::HOME => kept
            .iter()
            .flat_map(|kept| state.directory.known(kept))
            .collect(),
        _ => kept.to_vec(),
    };
    // Once more: a copy that was made while the body ran is of no use.
    for region in &kept {
        state.written(region, id);
    }
    let Some(instance) = state.get_mut(id) else {
        return;
    };
    for op in ops {
        instance.outstanding.push(Outstanding {
            op: Arc::clone(op),
            region: region.clone(),
            write: writes,
            live: kept.clone(),
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
