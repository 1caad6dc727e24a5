//! Tasks that write different elements of overlapping boxes on different devices: one after another.
//!
//! The directory knows boxes. Two tasks that nothing orders may write, say, the even and the odd elements of an array: their elements differ, their boxes
//! do not. In one memory both write the same bytes and all is well. In two memories the one that ends last would take the other's elements back. So as
//! long as a task that writes is staged, another one is not whose box overlaps, in another memory, if one of the two does not use [every element](Operand::exact)
//! of its box. Readers are not concerned: the elements that they are after are not those that change.

use std::sync::atomic::Ordering;

use parla_core::{DeviceId, MachineModel, MemoryId, Region};

use super::Store;
use crate::instance::State;
use crate::{DataError, Operand};

/// A task that is staged and writes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Writer {
    region: Region,
    memory: MemoryId,
    exact: bool,
}

impl Writer {
    fn new(operand: &Operand, memory: MemoryId) -> Self {
        Self {
            region: operand.region.clone(),
            memory,
            exact: operand.exact,
        }
    }

    fn disturbs(&self, other: &Self) -> bool {
        self.memory != other.memory
            && !(self.exact && other.exact)
            && self.region.intersection(&other.region).is_some()
    }
}

impl State {
    /// A staged task that writes this operand has ended.
    pub(crate) fn leave_writer(&mut self, operand: &Operand, memory: MemoryId) {
        let writer = Writer::new(operand, memory);
        if let Some(at) = self.writers.iter().position(|other| *other == writer) {
            self.writers.swap_remove(at);
        }
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

    /// Enters the writers among the operands of a task that is to be staged. `false`, and none is entered: another one has to end first.
    pub(super) fn enter_writers(&self, operands: &[Operand], devices: &[DeviceId]) -> bool {
        for (i, operand) in operands.iter().enumerate() {
            if operand.access.writes() && !self.enter_writer(operand, devices) {
                self.leave_writers(&operands[..i], devices);
                return false;
            }
        }
        true
    }

    /// One after another: two of the same task do not [disturb](Writer::disturbs) each other, that was checked.
    fn enter_writer(&self, operand: &Operand, devices: &[DeviceId]) -> bool {
        let array = &operand.array.0;
        let memory = self.model().memory_of(devices[operand.slot]);
        let writer = Writer::new(operand, memory);
        let mut state = array.state.lock();
        if state.writers.iter().any(|other| other.disturbs(&writer)) {
            return false;
        }
        state.writers.push(writer);
        // From here on nobody is counted as a writer at home any more; those that are may write anywhere.
        array.update_host_only(&state);
        let alone = operand.exact
            || memory == MachineModel::HOST
            || array.n_home_writers.load(Ordering::SeqCst) == 0;
        if !alone {
            state.leave_writer(operand, memory);
            array.update_host_only(&state);
        }
        alone
    }

    pub(super) fn leave_writers(&self, operands: &[Operand], devices: &[DeviceId]) {
        for operand in operands.iter().filter(|o| o.access.writes()) {
            let array = &operand.array.0;
            let mut state = array.state.lock();
            state.leave_writer(operand, self.model().memory_of(devices[operand.slot]));
            array.update_host_only(&state);
        }
    }
}
