//! The directory against an oracle that gives every element a version.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

/// What is really in memory: for each element the number of its last write, and for each instance what it has of each element.
#[derive(Clone)]
struct Oracle {
    width: usize,
    newest: Vec<u32>,
    // By instance; `None`: no room for the element.
    contents: Vec<(InstanceId, Vec<Option<u32>>)>,
    // Elements that nobody knows any more.
    lost: Vec<bool>,
    clock: u32,
}

/// Elements that were never written or copied.
const GARBAGE: u32 = u32::MAX;

impl Oracle {
    fn new(height: usize, width: usize) -> Self {
        let n = width * height;
        Self {
            width,
            newest: vec![0; n],
            contents: vec![(InstanceId::HOME, vec![Some(0); n])],
            lost: vec![false; n],
            clock: 0,
        }
    }

    fn elements(&self, region: &Region) -> Vec<usize> {
        let ranges: Vec<_> = region.ranges().collect();
        let (rows, columns) = (ranges[0].clone(), ranges[1].clone());
        let width = self.width;
        rows.flat_map(|row| columns.clone().map(move |column| row * width + column))
            .collect()
    }

    fn of(&mut self, id: InstanceId) -> &mut Vec<Option<u32>> {
        let at = self.contents.iter().position(|(other, _)| *other == id);
        &mut self.contents[at.unwrap()].1
    }

    fn add(&mut self, id: InstanceId, region: &Region) {
        let mut contents = vec![None; self.newest.len()];
        for element in self.elements(region) {
            contents[element] = Some(GARBAGE);
        }
        self.contents.push((id, contents));
    }

    fn write(&mut self, id: InstanceId, region: &Region) {
        self.clock += 1;
        for element in self.elements(region) {
            self.newest[element] = self.clock;
            self.lost[element] = false;
            let clock = self.clock;
            self.of(id)[element] = Some(clock);
        }
    }

    fn copy(&mut self, from: InstanceId, to: InstanceId, region: &Region) {
        for element in self.elements(region) {
            let value = self.of(from)[element];
            assert!(value.is_some(), "{from:?} has no room for {region}");
            self.of(to)[element] = value;
        }
    }

    /// Who has the newest version of an element.
    fn holders(&self, element: usize) -> Vec<InstanceId> {
        let newest = Some(self.newest[element]);
        let holds = |(_, contents): &&(InstanceId, Vec<Option<u32>>)| {
            !self.lost[element] && contents[element] == newest
        };
        self.contents
            .iter()
            .filter(holds)
            .map(|(id, _)| *id)
            .collect()
    }

    fn invalidate(&mut self, region: &Region) {
        for element in self.elements(region) {
            self.lost[element] = true;
        }
    }

    fn remove(&mut self, id: InstanceId) -> Vec<usize> {
        let all = 0..self.newest.len();
        let lost: Vec<usize> = all.filter(|&e| self.holders(e) == [id]).collect();
        for &element in &lost {
            self.lost[element] = true;
        }
        self.contents.retain(|(other, _)| *other != id);
        lost
    }
}

/// The directory, and what it says checked against the oracle after each step.
#[derive(Clone)]
struct Pair {
    directory: Directory,
    oracle: Oracle,
}

impl Pair {
    fn new(height: usize, width: usize) -> Self {
        Self {
            directory: Directory::new(&[height, width]),
            oracle: Oracle::new(height, width),
        }
    }

    fn add(&mut self, memory: u32, region: &Region) -> InstanceId {
        let id = self.directory.add(MemoryId(memory), region.clone());
        self.oracle.add(id, region);
        id
    }

    /// The instance that a task uses, as the store chooses it.
    fn instance(&mut self, memory: u32, region: &Region) -> InstanceId {
        if memory == 0 {
            return InstanceId::HOME;
        }
        let found = self.directory.find(MemoryId(memory), region);
        found.unwrap_or_else(|| self.add(memory, region))
    }

    /// Brings a region to an instance; checks that no element travels that was there, and that the newest are there then.
    fn read(&mut self, id: InstanceId, region: &Region) -> bool {
        let cost = |from: MemoryId, _: &Region| u64::from(from.0);
        let missing: Vec<usize> = self
            .oracle
            .elements(region)
            .into_iter()
            .filter(|&e| !self.oracle.holders(e).contains(&id))
            .collect();
        let known = missing.iter().all(|&e| !self.oracle.lost[e]);
        let fetches = match self.directory.fetches(region, id, cost) {
            Err(poisoned) => {
                let elements = self.oracle.elements(&poisoned.region);
                assert!(elements.iter().all(|&e| self.oracle.lost[e]));
                assert!(!known);
                return false;
            }
            Ok(fetches) => fetches,
        };
        assert!(known, "{region} has lost elements");
        let moved: usize = fetches.iter().map(|f| f.region.n_elements()).sum();
        assert_eq!(
            moved,
            missing.len(),
            "more or less moved than what was missing"
        );
        for fetch in fetches {
            for &element in &self.oracle.elements(&fetch.region) {
                let holders = self.oracle.holders(element);
                assert!(holders.contains(&fetch.from), "a stale source");
                let memory = |id: &InstanceId| self.directory.instance(*id).unwrap().memory;
                assert_eq!(
                    holders.iter().map(memory).min(),
                    Some(fetch.memory),
                    "not the cheapest"
                );
            }
            self.oracle.copy(fetch.from, id, &fetch.region);
            self.directory.copied(&fetch.region, id);
        }
        for element in self.oracle.elements(region) {
            assert!(self.oracle.holders(element).contains(&id), "a stale read");
        }
        true
    }

    fn write(&mut self, id: InstanceId, region: &Region) {
        self.oracle.write(id, region);
        self.directory.written(region, id);
    }

    fn remove(&mut self, id: InstanceId) {
        let mut lost = self.oracle.remove(id);
        let sole = self.directory.sole(id);
        let boxes = self.directory.remove(id, "gone");
        assert_eq!(sole, boxes);
        let mut elements: Vec<usize> = boxes.iter().flat_map(|b| self.oracle.elements(b)).collect();
        elements.sort_unstable();
        lost.sort_unstable();
        assert_eq!(elements, lost);
    }

    fn check(&self) {
        self.directory.check().unwrap();
        for (region, holders, because) in self.directory.entries() {
            for element in self.oracle.elements(region) {
                assert_eq!(self.oracle.holders(element), holders, "{region}");
                assert_eq!(self.oracle.lost[element], because.is_some());
            }
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Read(u32, Region),
    InOut(u32, Region),
    Output(u32, Region),
    Fail(u32, Region),
    Remove(usize),
    Distrust(usize, Region),
}

const HEIGHT: usize = 6;
const WIDTH: usize = 8;

fn region() -> impl Strategy<Value = Region> {
    let range = |n: usize| (0..=n, 0..=n).prop_map(|(a, b)| a.min(b)..a.max(b));
    (range(HEIGHT), range(WIDTH)).prop_map(|(rows, columns)| Region::new([rows, columns]))
}

fn step() -> impl Strategy<Value = Step> {
    let memory = 0..5_u32;
    prop_oneof![
        5 => (memory.clone(), region()).prop_map(|(m, r)| Step::Read(m, r)),
        4 => (memory.clone(), region()).prop_map(|(m, r)| Step::InOut(m, r)),
        3 => (memory.clone(), region()).prop_map(|(m, r)| Step::Output(m, r)),
        1 => (memory, region()).prop_map(|(m, r)| Step::Fail(m, r)),
        2 => any::<usize>().prop_map(Step::Remove),
        1 => (any::<usize>(), region()).prop_map(|(i, r)| Step::Distrust(i, r)),
    ]
}

fn apply(pair: &mut Pair, step: Step) {
    match step {
        Step::Read(memory, region) => {
            let id = pair.instance(memory, &region);
            pair.read(id, &region);
        }
        Step::InOut(memory, region) => {
            let id = pair.instance(memory, &region);
            if pair.read(id, &region) {
                pair.write(id, &region);
            }
        }
        Step::Output(memory, region) => {
            let id = pair.instance(memory, &region);
            pair.write(id, &region);
        }
        Step::Fail(memory, region) => {
            pair.instance(memory, &region);
            pair.oracle.invalidate(&region);
            pair.directory.invalidated(&region, "it failed");
        }
        Step::Remove(i) => {
            let n = pair.directory.instances().len();
            if n > 1 {
                let id = pair.directory.instances()[1 + i % (n - 1)].id;
                pair.remove(id);
            }
        }
        Step::Distrust(i, region) => {
            let instances = pair.directory.instances();
            let extent = instances[i % instances.len()].clone();
            let Some(region) = region.intersection(&extent.region) else {
                return;
            };
            for element in pair.oracle.elements(&region) {
                if pair.oracle.holders(element) == [extent.id] {
                    pair.oracle.lost[element] = true;
                }
                pair.oracle.of(extent.id)[element] = Some(GARBAGE);
            }
            pair.directory.forget(&region, extent.id, "its copy failed");
        }
    }
    pair.check();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_read_sees_the_newest_version(steps in prop::collection::vec(step(), 1..40)) {
        let mut pair = Pair::new(HEIGHT, WIDTH);
        for step in steps {
            apply(&mut pair, step);
        }
    }
}

/// What the future of a pair depends on: which versions are the same, not their numbers; where instances are, not their names.
fn signature(pair: &Pair) -> String {
    let name = |id: &InstanceId| {
        let extent = pair.directory.instance(*id).unwrap();
        format!("{}{}", extent.memory.0, extent.region)
    };
    let entries = pair.directory.entries().map(|(region, holders, because)| {
        let holders: Vec<String> = holders.iter().map(name).collect();
        format!("{region} {holders:?} {because:?}")
    });
    let mut entries: Vec<String> = entries.collect();
    entries.sort();
    let instances = pair.directory.instances().iter().map(|e| name(&e.id));
    format!("{entries:?} {:?}", instances.collect::<Vec<_>>())
}

/// All programs of six steps, each a read, a change or a write of one of two overlapping boxes in one of two memories, or the return of everything home.
/// Programs that lead to the same state go on together.
#[test]
fn every_interleaving_of_two_memories_and_two_overlapping_boxes() {
    let boxes = [Region::new([0..1, 0..3]), Region::new([0..1, 2..5])];
    let first = Pair::new(1, 5);
    let mut states = HashMap::from([(signature(&first), (first, 1_usize))]);
    for depth in 1..=6 {
        let mut next = HashMap::new();
        for (pair, n_programs) in states.into_values() {
            let mut reached = Vec::new();
            for memory in 0..2 {
                for region in &boxes {
                    for step in [Step::Read, Step::InOut, Step::Output] {
                        let mut pair = pair.clone();
                        apply(&mut pair, step(memory, region.clone()));
                        reached.push(pair);
                    }
                }
            }
            // What is newest goes home first, then the copies go.
            let mut pair = pair;
            let extents = pair.directory.instances()[1..].to_vec();
            for extent in extents {
                for region in pair.directory.sole(extent.id) {
                    pair.read(InstanceId::HOME, &region);
                }
                pair.remove(extent.id);
            }
            assert!(pair.directory.is_home_only());
            pair.check();
            reached.push(pair);
            for pair in reached {
                next.entry(signature(&pair)).or_insert((pair, 0)).1 += n_programs;
            }
        }
        states = next;
        let n_programs: usize = states.values().map(|(_, n)| n).sum();
        assert_eq!(n_programs, 13_usize.pow(depth));
    }
}

#[test]
fn neighbours_of_the_same_state_become_one_box() {
    let mut directory = Directory::new(&[4, 4]);
    let gpu = directory.add(MemoryId(1), Region::whole(&[4, 4]));
    for row in 0..4 {
        for column in 0..4 {
            let element = Region::new([row..row + 1, column..column + 1]);
            directory.written(&element, gpu);
        }
    }
    assert_eq!(directory.n_parts(), 1);
}

/// Blocks with halos on several devices, step after step, as a stencil does it.
#[test]
fn the_number_of_boxes_does_not_grow_with_the_steps() {
    let n = 64;
    let mut directory = Directory::new(&[n, 8]);
    let blocks = 8;
    let height = n / blocks;
    let rows = |a: usize, b: usize| Region::new([a..b, 0..8]);
    let ids: Vec<InstanceId> = (0..blocks)
        .map(|i| {
            let halo = rows((i * height).max(1) - 1, (i * height + height + 1).min(n));
            directory.add(MemoryId(1 + i as u32), halo)
        })
        .collect();
    let mut most = 0;
    for _ in 0..50 {
        for (i, &id) in ids.iter().enumerate() {
            let halo = directory.instance(id).unwrap().region.clone();
            for fetch in directory.fetches(&halo, id, |_, _| 1).unwrap() {
                directory.copied(&fetch.region, id);
            }
            directory.written(&rows(i * height, (i + 1) * height), id);
            directory.check().unwrap();
            most = most.max(directory.n_parts());
        }
    }
    assert!(most <= 4 * blocks, "{most} boxes");
}

#[test]
fn an_array_without_elements_or_dimensions() {
    let mut empty = Directory::new(&[0, 3]);
    let region = Region::whole(&[0, 3]);
    empty.written(&region, InstanceId::HOME);
    assert_eq!(
        empty.fetches(&region, InstanceId::HOME, |_, _| 0),
        Ok(Vec::new())
    );
    empty.check().unwrap();
    let mut one = Directory::new(&[]);
    let region = Region::whole(&[]);
    let gpu = one.add(MemoryId(1), region.clone());
    assert_eq!(one.fetches(&region, gpu, |_, _| 0).unwrap().len(), 1);
    one.written(&region, gpu);
    assert_eq!(one.n_valid(gpu, &region), 1);
    one.check().unwrap();
}
