//! The topology as the hwloc library reports it.
//!
//! Of the `hwloc2` crate only the calls below are sound: its object names, its `Display` of objects, its
//! lookup of NUMA nodes and I/O devices, and bitmaps that outlive their topology are not. It also describes
//! hwloc's objects by a struct whose fields line up on 64-bit targets alone. So everything is copied into
//! plain data here, and NUMA nodes are those that the PUs name.

use std::collections::BTreeMap;

use hwloc2::{Bitmap, ObjectType, Topology};

use super::Pu;

/// All PUs in hwloc's order, which puts neighbours next to each other; `None` when hwloc fails.
pub(super) fn read_pus() -> Option<Vec<Pu>> {
    let topology = Topology::new()?;
    let packages = objects_of_pus(&topology, &ObjectType::Package, ObjectNames::Os);
    let cores = objects_of_pus(&topology, &ObjectType::Core, ObjectNames::Position);
    let caches = objects_of_pus(&topology, &ObjectType::L3Cache, ObjectNames::Position);
    let n_cores = u32::try_from(cores.len()).ok()?;
    let pus = topology.objects_with_type(&ObjectType::PU).ok()?;
    let pus = (0_u32..).zip(pus).map(|(position, pu)| {
        let os_index = pu.os_index();
        Pu {
            os_index,
            // A PU outside of all cores is a core of its own; names below `n_cores` are taken.
            core: cores.get(&os_index).copied().unwrap_or(n_cores + position),
            package: packages.get(&os_index).copied(),
            nodes: pu.nodeset().map(members).unwrap_or_default(),
            l3: caches.get(&os_index).copied(),
        }
    });
    Some(pus.collect())
}

/// How to call the objects of a type.
#[derive(Clone, Copy)]
enum ObjectNames {
    /// By the operating system's number, which is only unique for packages and PUs.
    Os,
    /// By the position among the objects of its type.
    Position,
}

/// For each PU the name of the object of this type that holds it; empty when there are no such objects.
fn objects_of_pus(
    topology: &Topology,
    kind: &ObjectType,
    names: ObjectNames,
) -> BTreeMap<u32, u32> {
    let mut object_of = BTreeMap::new();
    let objects = topology.objects_with_type(kind).unwrap_or_default();
    for (position, object) in (0_u32..).zip(objects) {
        let name = match names {
            ObjectNames::Os => object.os_index(),
            ObjectNames::Position => position,
        };
        for pu in object.cpuset().map(members).unwrap_or_default() {
            object_of.insert(pu, name);
        }
    }
    object_of
}

/// The numbers in a set, ascending. The set borrows from the topology, which the callers above keep alive.
fn members(set: Bitmap) -> Vec<u32> {
    // hwloc counts the members of an infinite set ("all, however many there are") as -1.
    let n_members = usize::try_from(set.weight()).unwrap_or(0);
    set.into_iter().take(n_members).collect()
}
