//! The tasks of random programs: what they use, what they must see, what they write.

use std::collections::BTreeSet;

use super::fake::addresses;
use super::*;

pub(super) const HEIGHT: usize = 6;
pub(super) const WIDTH: usize = 8;
pub(super) const N_ARRAYS: usize = 3;
pub(super) const BYTES: u64 = (HEIGHT * WIDTH * ITEM) as u64;

/// Numbers that look random, by a seed.
pub(super) struct Dice(pub(super) u64);

impl Dice {
    pub(super) fn roll(&mut self, n: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % n
    }

    pub(super) fn region(&mut self) -> Region {
        let mut range = |n: usize| {
            let (a, b) = (self.roll(n + 1), self.roll(n + 1));
            a.min(b)..a.max(b)
        };
        Region::new([range(HEIGHT), range(WIDTH)])
    }
}

/// Values of all elements as a task would see them in the order of the program; `None`: nobody knows.
pub(super) type Values = Vec<Option<u32>>;

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Fate {
    Well,
    Badly,
    NotBegun,
}

#[derive(Debug)]
pub(super) struct Task {
    pub(super) operands: Arc<[Operand]>,
    pub(super) devices: Vec<DeviceId>,
    pub(super) version: u32,
    pub(super) fate: Fate,
    // By operand, by element used.
    pub(super) expected: Vec<Vec<Option<u32>>>,
    pub(super) refused: bool,
    pub(super) state: Stage,
}

#[derive(Debug)]
pub(super) enum Stage {
    Staging(mpsc::Receiver<Result<Staged, DataError>>),
    Staged(Staged),
    Begun(Staged),
    Over,
}

/// Marks what was made of wrong inputs.
pub(super) const TAINT: u32 = 1 << 31;

/// The positions in a box that a task uses.
pub(super) fn used(operand: &Operand) -> Vec<usize> {
    let step = if operand.exact { 1 } else { 2 };
    (0..operand.region.n_elements()).step_by(step).collect()
}

pub(super) fn elements(region: &Region) -> Vec<usize> {
    let ranges: Vec<_> = region.ranges().collect();
    let columns = ranges[1].clone();
    let rows = ranges[0].clone();
    rows.flat_map(|row| columns.clone().map(move |column| row * WIDTH + column))
        .collect()
}

pub(super) fn used_elements(operand: &Operand) -> BTreeSet<usize> {
    let all = elements(&operand.region);
    used(operand).into_iter().map(|i| all[i]).collect()
}

pub(super) fn home_addresses(array: &Array, region: &Region) -> Vec<usize> {
    if region.is_empty() {
        return Vec::new();
    }
    let state = array.0.state.lock();
    addresses(&state.home().place(region, None), &region.shape())
}

/// Looks at what the task reads, then writes what it writes. Returns what was wrong.
/// If something was, the values written are marked with `taint`.
pub(super) fn body(task: &Task, places: &[Place], taint: u32) -> Vec<String> {
    let mut complaints = Vec::new();
    let all = |o: &Operand, place| addresses(place, &o.region.shape());
    for ((o, place), expected) in task.operands.iter().zip(places).zip(&task.expected) {
        let addresses = all(o, place);
        for (i, expected) in used(o).into_iter().zip(expected) {
            // SAFETY: an element of the operand's place.
            let value = unsafe { (addresses[i] as *const u32).read() };
            if expected.is_some_and(|expected| expected != value) {
                complaints.push(format!("{o:?} at {i}: {value}, not {expected:?}"));
            }
        }
    }
    let taint = if complaints.is_empty() { 0 } else { taint };
    for (o, place) in task.operands.iter().zip(places) {
        let addresses = all(o, place);
        for i in used(o).into_iter().filter(|_| o.access.writes()) {
            // SAFETY: an element of the operand's place, which it may write.
            unsafe { (addresses[i] as *mut u32).write(task.version | taint) };
        }
    }
    complaints
}
