//! Which version of an array's elements each instance has: a record of what was really written and copied, for traces. Nothing is decided by it; the
//! directory must be right without.

use parla_core::Region;

use crate::directory::InstanceId;

/// The number of a write; the numbers grow. 0: the contents with which the array came.
pub(crate) type Version = u64;

/// The versions in the instances of one array.
#[derive(Debug, Default)]
pub(crate) struct Versions {
    /// Disjoint boxes per instance; the rest of the home has version 0, that of others none.
    boxes: Vec<(InstanceId, Region, Version)>,
}

impl Versions {
    /// What an instance has in a box.
    pub(crate) fn find(&self, id: InstanceId, region: &Region) -> Vec<(Region, Option<Version>)> {
        let mut rest = vec![region.clone()];
        let mut found = Vec::new();
        for (_, known, version) in self.boxes.iter().filter(|(other, ..)| *other == id) {
            if let Some(common) = known.intersection(region) {
                rest = rest.iter().flat_map(|r| r.difference(&common)).collect();
                found.push((common, Some(*version)));
            }
        }
        let unwritten = (id == InstanceId::HOME).then_some(0);
        found.extend(rest.into_iter().map(|region| (region, unwritten)));
        found.retain(|(region, _)| !region.is_empty());
        found
    }

    fn clear(&mut self, id: InstanceId, region: &Region) {
        let mut boxes = Vec::with_capacity(self.boxes.len());
        for (other, known, version) in self.boxes.drain(..) {
            if other == id && known.intersection(region).is_some() {
                let rest = known.difference(region).into_iter();
                boxes.extend(rest.map(|rest| (id, rest, version)));
            } else {
                boxes.push((other, known, version));
            }
        }
        self.boxes = boxes;
    }

    /// Somebody wrote a box of an instance.
    pub(crate) fn wrote(&mut self, id: InstanceId, region: &Region, version: Version) {
        self.clear(id, region);
        self.boxes.push((id, region.clone(), version));
    }

    /// What has one version in a box of an instance has another from now on.
    pub(crate) fn finished(
        &mut self,
        id: InstanceId,
        region: &Region,
        before: Version,
        version: Version,
    ) {
        let found = self.find(id, region).into_iter();
        for (region, _) in found.filter(|(_, known)| *known == Some(before)) {
            self.wrote(id, &region, version);
        }
    }

    /// A box was copied from one instance to another.
    pub(crate) fn copied(&mut self, from: InstanceId, to: InstanceId, region: &Region) {
        let found = self.find(from, region);
        self.clear(to, region);
        let known = found.into_iter();
        let known = known.filter_map(|(region, version)| Some((to, region, version?)));
        self.boxes.extend(known);
    }

    /// An instance is gone.
    pub(crate) fn forget(&mut self, id: InstanceId) {
        self.boxes.retain(|(other, ..)| *other != id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOME: InstanceId = InstanceId::HOME;
    const COPY: InstanceId = InstanceId(7);

    fn part(range: std::ops::Range<usize>) -> Region {
        Region::new([range])
    }

    fn found(versions: &Versions, id: InstanceId) -> Vec<(Region, Option<Version>)> {
        let mut found = versions.find(id, &part(0..10));
        found.sort();
        found
    }

    #[test]
    fn a_copy_has_what_its_source_had() {
        let mut versions = Versions::default();
        assert_eq!(found(&versions, HOME), [(part(0..10), Some(0))]);
        assert_eq!(found(&versions, COPY), [(part(0..10), None)]);
        versions.wrote(HOME, &part(2..5), 1);
        versions.copied(HOME, COPY, &part(0..4));
        versions.wrote(HOME, &part(3..4), 2);
        let at_home = [
            (part(0..2), Some(0)),
            (part(2..3), Some(1)),
            (part(3..4), Some(2)),
            (part(4..5), Some(1)),
            (part(5..10), Some(0)),
        ];
        assert_eq!(found(&versions, HOME), at_home);
        let in_the_copy = [
            (part(0..2), Some(0)),
            (part(2..4), Some(1)),
            (part(4..10), None),
        ];
        assert_eq!(found(&versions, COPY), in_the_copy);
        versions.copied(COPY, HOME, &part(3..10));
        assert_eq!(
            versions.find(HOME, &part(3..5)),
            [(part(3..4), Some(1)), (part(4..5), Some(0))],
            "what is not known there is as it was in the beginning"
        );
        versions.forget(COPY);
        assert_eq!(found(&versions, COPY), [(part(0..10), None)]);
    }
}
