//! Tasks that write different elements of overlapping boxes on different devices: one after another.
//!
//! The directory knows boxes. Two tasks that nothing orders may write, say, the even and the odd elements of an array: their elements differ, their boxes
//! do not. At home both write the same bytes and all is well. In two instances the one that ends last would take the other's elements back. So as
//! long as a task that writes is staged, another one is not whose box overlaps, unless both are at home or both use [every element](Operand::exact)
//! of their boxes (then the program has a race of its own). Readers are not concerned: the elements that they are after are not those that change.
//!
//! A task that overwrites a box without reading it, once staged, *claims* the box until it begins: nothing is copied there any more, since nobody would wait for
//! such a copy. A reader that would need one is after other elements (or is not ordered with the task, and sees what it may); an eviction that would need one
//! waits, and is without an object once the task has begun.

use std::sync::atomic::Ordering;

use parla_core::{DeviceId, MachineModel, MemoryId, Region};

use super::Store;
use crate::instance::State;
use crate::{DataError, Operand};

/// An operand of a task that is staged and writes it.
#[derive(Debug)]
pub(crate) struct Writer {
    ticket: Ticket,
    region: Region,
    memory: MemoryId,
    exact: bool,
    // Whether it fetches nothing.
    overwrites: bool,
    // Whether nothing may be copied there.
    claims: bool,
}

/// Tells the tasks that are staged apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ticket(u64);

impl Writer {
    fn disturbs(&self, other: &Self) -> bool {
        self.ticket != other.ticket
            && (self.memory != MachineModel::HOST || other.memory != MachineModel::HOST)
            && !(self.exact && other.exact)
            && self.region.intersection(&other.region).is_some()
    }
}

impl State {
    /// A staged task has ended.
    pub(crate) fn leave_writers(&mut self, ticket: Ticket) {
        self.writers.retain(|writer| writer.ticket != ticket);
    }

    /// A task is staged (`true`), or begins: as to what it overwrites without reading it.
    pub(crate) fn claim(&mut self, ticket: Ticket, claims: bool) {
        for writer in &mut self.writers {
            if writer.ticket == ticket && writer.overwrites {
                writer.claims = claims;
            }
        }
    }

    /// What nothing may be copied to in a memory.
    pub(crate) fn claimed(&self, memory: MemoryId) -> impl Iterator<Item = &Region> {
        let there = self
            .writers
            .iter()
            .filter(move |w| w.claims && w.memory == memory);
        there.map(|writer| &writer.region)
    }

    /// Whether an instance cannot be written back now.
    pub(crate) fn must_stay(&self, sole: &[Region]) -> bool {
        let mut claimed = self.claimed(MachineModel::HOST);
        claimed.any(|region| {
            sole.iter()
                .any(|other| other.intersection(region).is_some())
        })
    }
}

impl Store {
    /// Refuses what one task cannot do on several devices.
    pub(super) fn check_writers(
        &self,
        operands: &[Operand],
        devices: &[DeviceId],
    ) -> Result<(), DataError> {
        let memory = |operand: &Operand| self.model().memory_of(devices[operand.slot]);
        let writers = operands.iter().filter(|operand| operand.access.writes());
        for (i, one) in writers.clone().enumerate() {
            for other in writers.clone().skip(i + 1) {
                if one.array.id() == other.array.id()
                    && memory(one) != memory(other)
                    && let Some(region) = one.region.intersection(&other.region)
                {
                    return Err(DataError::WrittenTwice {
                        array: one.array.name().to_owned(),
                        region,
                    });
                }
            }
        }
        Ok(())
    }

    /// Enters the writers among the operands of a task that is to be staged. `None`, and none is entered: another one has to end first.
    pub(super) fn enter_writers(
        &self,
        operands: &[Operand],
        devices: &[DeviceId],
    ) -> Option<Ticket> {
        let ticket = Ticket(self.tick());
        for (i, operand) in operands.iter().enumerate() {
            let memory = self.model().memory_of(devices[operand.slot]);
            if operand.access.writes() && !enter_writer(operand, memory, ticket) {
                leave_writers(&operands[..i], ticket);
                return None;
            }
        }
        Some(ticket)
    }
}

fn enter_writer(operand: &Operand, memory: MemoryId, ticket: Ticket) -> bool {
    let array = &operand.array.0;
    let writer = Writer {
        ticket,
        region: operand.region.clone(),
        memory,
        exact: operand.exact,
        overwrites: !operand.fetches(),
        claims: false,
    };
    let mut state = array.state.lock();
    if state.writers.iter().any(|other| other.disturbs(&writer)) {
        return false;
    }
    state.writers.push(writer);
    // From here on nobody is counted as a writer at home any more. Those that are may write any box, but all of its elements.
    array.update_host_only(&state);
    let alone = operand.exact
        || memory == MachineModel::HOST
        || array.n_home_writers.load(Ordering::SeqCst) == 0;
    if !alone {
        state.writers.pop();
        array.update_host_only(&state);
    }
    alone
}

/// The task has ended, or is not going to be staged now.
pub(super) fn leave_writers(operands: &[Operand], ticket: Ticket) {
    for operand in operands.iter().filter(|o| o.access.writes()) {
        let array = &operand.array.0;
        let mut state = array.state.lock();
        state.leave_writers(ticket);
        array.update_host_only(&state);
    }
}
