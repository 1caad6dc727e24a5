//! Staging what is in place already.

use std::sync::Arc;

use parla_core::{DeviceId, MachineModel, MemoryId};
use parla_device::{Block, Place};

use super::Store;
use super::staged::Staged;
use super::writers::Ticket;
use crate::Operand;
use crate::directory::InstanceId;

impl Store {
    /// Stages without a copy, an allocation or a wait, if none is needed: the fast path.
    #[must_use]
    pub fn try_stage(
        self: &Arc<Self>,
        operands: &Arc<[Operand]>,
        devices: &[DeviceId],
    ) -> Option<Staged> {
        // Without other memories nobody needs to know who writes.
        let only_host = self.model().memories.len() == 1;
        let at_home = |operand: &Operand| {
            operand.array.is_host_only()
                && self.model().memory_of(devices[operand.slot]) == MachineModel::HOST
                && (!operand.access.writes() || only_host && operand.array.home().writable)
        };
        if operands.iter().all(at_home) {
            let mut staged = Staged::new(self, operands, None);
            staged.places.extend(operands.iter().map(home_place));
            return Some(staged);
        }
        let ticket = self.enter_writers(operands, devices)?;
        let mut staged = Staged::new(self, operands, Some(ticket));
        for i in 0..operands.len() {
            let (id, place) = self.try_use(operands, i, devices, ticket)?;
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
        devices: &[DeviceId],
        ticket: Ticket,
    ) -> Option<(InstanceId, Place)> {
        let operand = &operands[i];
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
        let place = instance.place(region, self.machine.key(memory));
        state.note(id, Some(region), operand.asked(false));
        state.claim(ticket, true);
        Some((id, place))
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
