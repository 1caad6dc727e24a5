//! Which operands of a task share an instance.

use parla_core::{DeviceId, MachineModel, MemoryId, Region};
use smallvec::{SmallVec, smallvec};

use super::Store;
use crate::{Array, Operand};

/// Operands that use one instance outside the host: overlapping parts of an array in the same memory must be the same bytes there, as they are in
/// the array.
#[derive(Debug)]
pub(super) struct Group<'a> {
    pub(super) array: &'a Array,
    pub(super) memory: MemoryId,
    /// The smallest box that contains all of them.
    pub(super) hull: Region,
    writes: bool,
    /// Positions in the list of operands.
    pub(super) members: SmallVec<[usize; 2]>,
}

impl Group<'_> {
    pub(super) fn bytes(&self) -> u64 {
        self.array.0.bytes(&self.hull)
    }

    /// Whether the two have to share, or do so without waste.
    fn joins(&self, other: &Self) -> bool {
        if self.array.id() != other.array.id()
            || self.memory != other.memory
            || self.hull.intersection(&other.hull).is_none()
        {
            return false;
        }
        let hull = self.array.0.bytes(&self.hull.hull(&other.hull));
        self.writes || other.writes || hull <= self.bytes().saturating_add(other.bytes())
    }
}

impl Store {
    /// The instances that a task needs outside the host, if it runs on these devices.
    pub(super) fn groups<'a>(
        &self,
        operands: &'a [Operand],
        devices: &[DeviceId],
    ) -> Vec<Group<'a>> {
        let mut groups: Vec<Group<'a>> = Vec::new();
        for (i, operand) in operands.iter().enumerate() {
            let memory = self.model().memory_of(devices[operand.slot]);
            if memory == MachineModel::HOST || operand.region.is_empty() {
                continue;
            }
            let mut group = Group {
                array: &operand.array,
                memory,
                hull: operand.region.clone(),
                writes: operand.access.writes(),
                members: smallvec![i],
            };
            // The hull of two may reach a third.
            while let Some(at) = groups.iter().position(|other| other.joins(&group)) {
                let other = groups.swap_remove(at);
                group.hull = group.hull.hull(&other.hull);
                group.writes |= other.writes;
                group.members.extend(other.members);
            }
            groups.push(group);
        }
        groups
    }
}
