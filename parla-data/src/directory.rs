//! The directory of one array: which of its instances hold the newest bytes of which boxes. Pure: no lock, no clock, no memory.
//!
//! # The protocol
//! An array has **instances**: its *home* (the user's own buffer, all of it) and dense copies of boxes of it in other memories, any number per memory,
//! overlapping or not. The directory divides the array into disjoint boxes and knows for each the *holders*: the instances that have its newest bytes.
//! No holder: nobody knows the contents any more, and there is a reason. A task uses instances in five steps:
//!
//! 1. **Hold.** For each operand an instance in its device's memory that has room for its box, found or allocated, and pinned. Overlapping operands of a task in
//!    one memory share one instance.
//! 2. **Fetch.** For each box of an operand that is read and that the instance does not hold ([`fetches`](Directory::fetches)): a copy from the holder
//!    that is cheapest to reach, and from now on the instance is a holder, too ([`copied`](Directory::copied)). What is written without being read fetches nothing.
//! 3. **Begin.** When the body starts, the instance becomes the only holder of what it writes ([`written`](Directory::written)).
//! 4. **End.** Well: once more `written`, so that a copy made while the body ran counts for nothing. Badly: no holder ([`invalidated`](Directory::invalidated)).
//! 5. **Give up.** An instance that nobody has pinned can go, the least recently used first; what it holds alone goes home before.
//!
//! *Holder* means: has the newest bytes **once all that is outstanding on it has ended**. Each instance lists its outstanding work (copies into it and
//! out of it, and what bodies left on streams), with the box and whether it is a write. Work on a box comes after all listed work on it that conflicts: a
//! stream waits for the events, or the body is not started before. So two tasks that need the same copy share it though it is still under way.
//!
//! # Why a read sees the newest version
//! Give every write of an element the next number, its *version*; the newest is that of the last write in the order of the program (the runtime orders
//! conflicting tasks). Claim: *if an instance holds an element and nothing outstanding there writes it, its bytes there have the newest version.*
//!
//! * At first only the home holds anything, and it has version 0 of everything.
//! * `written` leaves one holder, whose bytes the body changes to the new version. It was pinned from `Hold` on, so it cannot have gone. No copy overwrites
//!   them later: what was outstanding then had to end before the body started, what came afterwards was copied *to instances that did not hold the element*,
//!   and this one does, from `Begin` on. Between `Fetch` and `Begin` an operand that is read holds its box too; one that is not read
//!   *claims* it, and nothing is copied to a claimed box.
//! * `copied` adds a holder, whose bytes come from a holder, after all writes outstanding there and before any later one: by the claim for the source they
//!   have the newest version when the copy ends. If a write begins meanwhile, the copy is not a holder any more when it ends.
//! * Work that fails takes back only what rests on it: each outstanding write knows the part of its box that was not replaced by a later write or
//!   copy, and only there the instance is no holder any more ([`forget`](Directory::forget)). Whatever was made of its result fails with it.
//! * `remove` takes holders away, and adds none. What an instance held alone was copied home before; where that was not possible
//!   (its device is lost) the box has no holder.
//!
//! A task that reads an element has, after `Fetch`, an instance that holds it (or it is refused: no holder), and its body starts after the writes outstanding
//! there. By the claim it sees the newest version. Nothing is moved that is there: a box is fetched only if the instance does not hold it, and
//! from the same memory if another instance there does.
//!
//! Boxes of the same state that make up a box are merged after each step, so that their number follows the pattern of use, not its length.

use std::sync::Arc;

use parla_core::{MachineModel, MemoryId, Region};
use smallvec::{SmallVec, smallvec};

/// Names one instance of an array: a copy of a box of it in some memory. Never used twice for the same array.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InstanceId(pub u32);

impl InstanceId {
    /// The array's own place in the host's memory, which has all of its elements.
    pub const HOME: Self = Self(0);
}

/// Which instances hold the newest bytes of a box, in ascending order; none: nobody knows them any more.
type Holders = SmallVec<[InstanceId; 3]>;

/// A box all of whose elements are newest in the same instances.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Part {
    region: Region,
    holders: Holders,
    // Why there is no holder; `None` as long as there is one.
    because: Option<Arc<str>>,
}

impl Part {
    fn same_state(&self, other: &Self) -> bool {
        self.holders == other.holders && self.because == other.because
    }
}

/// What the directory knows of an instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Its name.
    pub id: InstanceId,
    /// Where it is.
    pub memory: MemoryId,
    /// Which elements it has room for.
    pub region: Region,
}

/// A box to be copied so that an instance has its newest bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetch {
    /// What is copied.
    pub region: Region,
    /// The instance it is copied from.
    pub from: InstanceId,
    /// The memory that instance is in.
    pub memory: MemoryId,
}

/// A box that has no valid contents, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Poisoned {
    /// The part of the request that is affected.
    pub region: Region,
    /// What happened to it.
    pub because: Arc<str>,
}

/// Where the newest bytes of one array are.
#[derive(Clone, Debug)]
pub struct Directory {
    whole: Region,
    // Disjoint, none empty, together `whole`.
    parts: Vec<Part>,
    // In ascending order; the first is the home.
    instances: Vec<Extent>,
    next: u32,
}

impl Directory {
    /// Everything is at home.
    #[must_use]
    pub fn new(shape: &[usize]) -> Self {
        let whole = Region::whole(shape);
        let home = Extent {
            id: InstanceId::HOME,
            memory: MachineModel::HOST,
            region: whole.clone(),
        };
        let part = Part {
            region: whole.clone(),
            holders: smallvec![InstanceId::HOME],
            because: None,
        };
        Self {
            parts: if whole.is_empty() {
                Vec::new()
            } else {
                vec![part]
            },
            whole,
            instances: vec![home],
            next: 1,
        }
    }

    /// The instances, the home first.
    #[must_use]
    pub fn instances(&self) -> &[Extent] {
        &self.instances
    }

    /// An instance.
    #[must_use]
    pub fn instance(&self, id: InstanceId) -> Option<&Extent> {
        let at = self.instances.binary_search_by_key(&id, |e| e.id).ok()?;
        self.instances.get(at)
    }

    /// Number of boxes it keeps apart.
    #[must_use]
    pub fn n_parts(&self) -> usize {
        self.parts.len()
    }

    /// Adds an instance with room for `region`, which holds nothing yet.
    pub fn add(&mut self, memory: MemoryId, region: Region) -> InstanceId {
        let id = InstanceId(self.next);
        self.next += 1;
        self.instances.push(Extent { id, memory, region });
        id
    }

    /// The instance in `memory` that is best used for `region`: of those that have room for all of it the one with the most valid elements of it, of
    /// equals the largest.
    #[must_use]
    pub fn find(&self, memory: MemoryId, region: &Region) -> Option<InstanceId> {
        let fits = |e: &&Extent| e.memory == memory && e.region.contains(region);
        let mut candidates = self.instances.iter().filter(fits);
        let first = candidates.next()?;
        let Some(second) = candidates.next() else {
            return Some(first.id);
        };
        let rank = |e: &&Extent| (self.n_valid(e.id, region), e.region.n_elements());
        let all = [first, second].into_iter().chain(candidates);
        all.max_by_key(rank).map(|e| e.id)
    }

    /// How many elements of `region` are newest in an instance.
    #[must_use]
    pub fn n_valid(&self, id: InstanceId, region: &Region) -> usize {
        self.count(region, |part| part.holders.contains(&id))
    }

    /// How many elements of `region` are newest somewhere in `memory`.
    #[must_use]
    pub fn n_valid_in(&self, memory: MemoryId, region: &Region) -> usize {
        let there = |id: &InstanceId| self.memory_of(*id) == Some(memory);
        self.count(region, |part| part.holders.iter().any(there))
    }

    fn count(&self, region: &Region, wanted: impl Fn(&Part) -> bool) -> usize {
        let parts = self.parts.iter().filter(|part| wanted(part));
        parts
            .filter_map(|part| part.region.intersection(region))
            .map(|common| common.n_elements())
            .sum()
    }

    fn memory_of(&self, id: InstanceId) -> Option<MemoryId> {
        self.instance(id).map(|e| e.memory)
    }

    /// Whether there is nothing but the home, and all of it is newest there.
    #[must_use]
    pub fn is_home_only(&self) -> bool {
        self.instances.len() == 1 && self.parts.iter().all(|part| !part.holders.is_empty())
    }

    /// What has to be copied so that `to` has the newest bytes of `region`, each box from where `cost` (of a copy of that box from that memory) is
    /// lowest.
    ///
    /// # Errors
    /// The first box that has no valid contents.
    pub fn fetches(
        &self,
        region: &Region,
        to: InstanceId,
        cost: impl Fn(MemoryId, &Region) -> u64,
    ) -> Result<Vec<Fetch>, Poisoned> {
        let mut fetches = Vec::new();
        for part in &self.parts {
            if part.holders.contains(&to) {
                continue;
            }
            let Some(common) = part.region.intersection(region) else {
                continue;
            };
            let sources = part.holders.iter().filter_map(|&id| self.instance(id));
            let Some(source) = sources.min_by_key(|e| (cost(e.memory, &common), e.id)) else {
                return Err(Poisoned {
                    region: common,
                    because: part.because.clone().unwrap_or_else(|| Arc::from("unknown")),
                });
            };
            fetches.push(Fetch {
                region: common,
                from: source.id,
                memory: source.memory,
            });
        }
        Ok(fetches)
    }

    /// How many elements of `region` are not in `memory`, and the sum of the costs of copying them there from where that is cheapest.
    pub fn missing(
        &self,
        region: &Region,
        memory: MemoryId,
        cost: impl Fn(MemoryId, &Region) -> u64,
    ) -> (usize, u64) {
        let (mut n_elements, mut sum) = (0, 0_u64);
        for part in &self.parts {
            let Some(common) = part.region.intersection(region) else {
                continue;
            };
            let mut sources = SmallVec::<[MemoryId; 4]>::new();
            sources.extend(part.holders.iter().filter_map(|&id| self.memory_of(id)));
            if !sources.contains(&memory) {
                n_elements += common.n_elements();
                let cheapest = sources.iter().map(|&from| cost(from, &common)).min();
                sum = sum.saturating_add(cheapest.unwrap_or(0));
            }
        }
        (n_elements, sum)
    }

    /// The boxes of `region` that have valid contents: what can be fetched of it.
    #[must_use]
    pub fn known(&self, region: &Region) -> Vec<Region> {
        let parts = self.parts.iter().filter(|part| !part.holders.is_empty());
        parts
            .filter_map(|part| part.region.intersection(region))
            .collect()
    }

    /// The boxes of `region` that have none, and why.
    #[must_use]
    pub fn lost(&self, region: &Region) -> Vec<(Region, Arc<str>)> {
        let lost = |part: &Part| {
            let because = part.because.clone()?;
            Some((part.region.intersection(region)?, because))
        };
        self.parts.iter().filter_map(lost).collect()
    }

    /// The newest bytes of `region` are in `to`, too.
    pub fn copied(&mut self, region: &Region, to: InstanceId) {
        debug_assert!(self.instance(to).is_some_and(|e| e.region.contains(region)));
        self.update(region, |part| {
            debug_assert!(!part.holders.is_empty(), "copied from nowhere");
            if let Err(at) = part.holders.binary_search(&to) {
                part.holders.insert(at, to);
            }
        });
    }

    /// `region` was changed in `at`: no other instance is valid there any more.
    pub fn written(&mut self, region: &Region, at: InstanceId) {
        debug_assert!(self.instance(at).is_some_and(|e| e.region.contains(region)));
        self.replace(region, smallvec![at], None);
    }

    /// Nobody knows the contents of `region` any more.
    pub fn invalidated(&mut self, region: &Region, because: &str) {
        self.replace(region, Holders::new(), Some(Arc::from(because)));
    }

    /// What `at` has of `region` is not to be trusted. Returns the boxes that nobody knows any more.
    pub fn forget(&mut self, region: &Region, at: InstanceId, because: &str) -> Vec<Region> {
        let alone = |part: &&Part| part.holders.as_slice() == [at];
        let lost = self.parts.iter().filter(alone);
        let lost = lost
            .filter_map(|part| part.region.intersection(region))
            .collect();
        let because: Arc<str> = Arc::from(because);
        self.update(region, |part| {
            let before = part.holders.len();
            part.holders.retain(|id| *id != at);
            if part.holders.is_empty() && before > 0 {
                part.because = Some(because.clone());
            }
        });
        lost
    }

    /// An instance is gone. Returns the boxes that nobody knows any more: those of [`sole`](Self::sole).
    pub fn remove(&mut self, id: InstanceId, because: &str) -> Vec<Region> {
        debug_assert_ne!(id, InstanceId::HOME, "the home stays");
        let Some(extent) = self.instance(id) else {
            return Vec::new();
        };
        let region = extent.region.clone();
        let lost = self.forget(&region, id, because);
        self.instances.retain(|e| e.id != id);
        lost
    }

    /// The boxes that are newest in this instance and nowhere else.
    #[must_use]
    pub fn sole(&self, id: InstanceId) -> Vec<Region> {
        let alone = |part: &&Part| part.holders.as_slice() == [id];
        let parts = self.parts.iter().filter(alone);
        parts.map(|part| part.region.clone()).collect()
    }

    /// For each box, the instances where it is newest, or why there is none.
    pub fn entries(&self) -> impl Iterator<Item = (&Region, &[InstanceId], Option<&str>)> {
        self.parts
            .iter()
            .map(|part| (&part.region, &part.holders[..], part.because.as_deref()))
    }

    /// Gives all of `region` one state: one box, however many there were.
    fn replace(&mut self, region: &Region, holders: Holders, because: Option<Arc<str>>) {
        let Some(region) = region.intersection(&self.whole) else {
            return;
        };
        let new = Part {
            region,
            holders,
            because,
        };
        let mut pieces = Vec::new();
        let mut i = 0;
        while i < self.parts.len() {
            let part = &self.parts[i];
            if part.region == new.region && part.same_state(&new) {
                return;
            }
            if part.region.intersection(&new.region).is_none() {
                i += 1;
                continue;
            }
            let old = self.parts.swap_remove(i);
            for region in old.region.difference(&new.region) {
                pieces.push(Part {
                    region,
                    ..old.clone()
                });
            }
        }
        pieces.push(new);
        self.insert(pieces);
    }

    /// Changes the state of all elements of `region`, box by box.
    fn update(&mut self, region: &Region, change: impl Fn(&mut Part)) {
        let mut pieces = Vec::new();
        let mut i = 0;
        while i < self.parts.len() {
            let part = &self.parts[i];
            let Some(common) = part.region.intersection(region) else {
                i += 1;
                continue;
            };
            let mut inner = part.clone();
            change(&mut inner);
            if inner.same_state(part) {
                i += 1;
                continue;
            }
            let old = self.parts.swap_remove(i);
            for region in old.region.difference(&common) {
                pieces.push(Part {
                    region,
                    ..old.clone()
                });
            }
            inner.region = common;
            pieces.push(inner);
        }
        self.insert(pieces);
    }

    /// Adds boxes, each merged with neighbours of the same state as long as the result is a box.
    fn insert(&mut self, pieces: Vec<Part>) {
        for mut piece in pieces {
            let mut i = 0;
            while i < self.parts.len() {
                let part = &self.parts[i];
                if part.same_state(&piece) && adjacent(&part.region, &piece.region) {
                    piece.region = piece.region.hull(&part.region);
                    self.parts.swap_remove(i);
                    i = 0;
                } else {
                    i += 1;
                }
            }
            self.parts.push(piece);
        }
    }

    /// Whether everything that must be true of a directory is.
    ///
    /// # Errors
    /// What is not.
    pub fn check(&self) -> Result<(), String> {
        let mut n = 0;
        for (i, part) in self.parts.iter().enumerate() {
            let region = &part.region;
            n += region.n_elements();
            if region.is_empty() || !self.whole.contains(region) {
                return Err(format!("{region} is empty or outside {}", self.whole));
            }
            if let Some(other) = self.parts[..i]
                .iter()
                .find(|other| other.region.intersection(region).is_some())
            {
                return Err(format!("{region} overlaps {}", other.region));
            }
            if part.holders.is_empty() != part.because.is_some() {
                return Err(format!(
                    "{region}: a reason or a holder, not both: {part:?}"
                ));
            }
            if !part.holders.is_sorted() {
                return Err(format!("{region}: unordered {:?}", part.holders));
            }
            for &id in &part.holders {
                let Some(extent) = self.instance(id) else {
                    return Err(format!("{region} is in {id:?}, which does not exist"));
                };
                if !extent.region.contains(region) {
                    return Err(format!("{region} is not inside {extent:?}"));
                }
            }
        }
        if n != self.whole.n_elements() {
            return Err(format!("{n} elements of {}", self.whole));
        }
        Ok(())
    }
}

/// Whether two disjoint boxes make up a box.
fn adjacent(a: &Region, b: &Region) -> bool {
    let mut touching = false;
    for (a, b) in a.ranges().zip(b.ranges()) {
        if a == b {
            continue;
        }
        if touching || (a.end != b.start && b.end != a.start) {
            return false;
        }
        touching = true;
    }
    touching
}

#[cfg(test)]
mod tests;
