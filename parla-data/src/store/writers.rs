//! Tasks that write overlapping boxes: one after another, also where nothing orders them.
//!
//! Tasks that conflict are ordered by their program, so that the second is staged when the first has ended. Three kinds are not: tasks that write different
//! elements of overlapping boxes, say the even and the odd ones (the directory knows boxes; of two instances the one that ends last would take the other's
//! elements back); a task that a body spawns and then waits for, on data that the body itself has in use; and tasks of a program with a race. So as long as a
//! task that writes is staged, another one that uses some of its box elsewhere is not: it waits until the first has ended, or waits for others itself and so lets
//! go of its data. At home all use the same bytes, as they would without devices. Who only reads keeps nobody from writing: what he has in use is his own copy.
//!
//! A task that overwrites a box without reading it, once staged, *claims* the box until it begins: nothing is copied there any more, since nobody would wait for
//! such a copy. A reader that would need one is after other elements (or is not ordered with the task, and sees what it may); an eviction that would need one
//! waits, and is without an object once the task has begun.

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
    // Whether it fetches nothing.
    overwrites: bool,
    // Whether nothing may be copied there.
    claims: bool,
}

/// Tells the tasks that are staged apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ticket(u64);

impl Writer {
    fn disturbs(&self, ticket: Ticket, region: &Region, memory: MemoryId) -> bool {
        self.ticket != ticket
            && (self.memory != MachineModel::HOST || memory != MachineModel::HOST)
            && self.region.intersection(region).is_some()
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

    /// Enters the operands of a task that is to be staged. `None`, and none is entered: another one has to end first.
    pub(super) fn enter_writers(
        &self,
        operands: &[Operand],
        devices: &[DeviceId],
    ) -> Option<Ticket> {
        let ticket = Ticket(self.tick());
        for (i, operand) in operands.iter().enumerate() {
            let memory = self.model().memory_of(devices[operand.slot]);
            if !enter(operand, memory, ticket) {
                leave_writers(&operands[..i], ticket);
                return None;
            }
        }
        Some(ticket)
    }
}

/// Enters an operand, if it writes. `false`, and it is not: a writer disturbs it.
fn enter(operand: &Operand, memory: MemoryId, ticket: Ticket) -> bool {
    let array = &operand.array.0;
    let region = &operand.region;
    let mut state = array.state.lock();
    let mut writers = state.writers.iter();
    if writers.any(|writer| writer.disturbs(ticket, region, memory)) {
        return false;
    }
    if operand.access.writes() {
        state.writers.push(Writer {
            ticket,
            region: region.clone(),
            memory,
            overwrites: !operand.fetches(),
            claims: false,
        });
        array.update_host_only(&state);
    }
    true
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
