//! What bodies cost, learned from those that have ended: means and spreads by kind of body, variant, class of devices and size.
//!
//! Pure: no clock, no file. The mapper tells it how long bodies took; policies ask through [`View::exec_ns`](crate::policy::View::exec_ns). What it
//! has learned lives as long as the runtime; keeping it in a file between runs is a later step, and what the keys are made of (names and
//! numbers that are the same in every run) is chosen with that in mind.
//!
//! The mean is the plain one over the first [`MEMORY`] bodies and from then on a running one in which a new body counts `1 / MEMORY`: an outlier
//! fades, and a change of speed is followed. The spread is the mean distance from the mean, over the same bodies.

use std::sync::Arc;

use parla_core::{DeviceId, MachineModel};
use rustc_hash::FxHashMap;
use smallvec::SmallVec;

/// How many bodies a mean looks back on.
pub const MEMORY: u64 = 16;

/// Kinds beyond so many are not learned: who makes functions without end would fill the memory.
const MAX_KINDS: usize = 1 << 14;

/// What is known of the time of a body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Estimate {
    /// Bodies that were measured.
    pub n: u64,
    /// Their mean time, in nanoseconds.
    pub mean_ns: u64,
    /// How far they are from it on average, in nanoseconds.
    pub spread_ns: u64,
}

impl Estimate {
    fn add(&mut self, exec_ns: u64) {
        self.n += 1;
        let weight = self.n.min(MEMORY);
        let mean = towards(self.mean_ns, exec_ns, weight);
        // Half of the way has been made: the distance of the new one is taken from both means.
        let distance = (exec_ns.abs_diff(self.mean_ns) / 2) + exec_ns.abs_diff(mean) / 2;
        if self.n > 1 {
            self.spread_ns = towards(self.spread_ns, distance, weight);
        }
        self.mean_ns = mean;
    }
}

/// `mean` with `new`, which counts `1 / weight`.
fn towards(mean: u64, new: u64, weight: u64) -> u64 {
    if new >= mean {
        mean + (new - mean) / weight
    } else {
        mean - (mean - new) / weight
    }
}

/// The architectures of a choice's devices, in order, as numbers of this model.
type Class = SmallVec<[u16; 2]>;

#[derive(Debug)]
struct Row {
    variant: u32,
    class: Class,
    size: u32,
    estimate: Estimate,
}

/// The times of bodies.
#[derive(Debug, Default)]
pub struct CostModel {
    /// By device, which architecture: the first device that has it.
    architectures: Vec<u16>,
    /// By kind; a kind has few rows.
    kinds: FxHashMap<Arc<str>, Vec<Row>>,
}

impl CostModel {
    /// One that knows nothing yet.
    #[must_use]
    pub fn new(machine: &MachineModel) -> Self {
        let devices = &machine.devices;
        let first = |device: &parla_core::DeviceModel| {
            let same = |other: &parla_core::DeviceModel| other.architecture == device.architecture;
            let at = devices.iter().position(same).unwrap_or(0);
            u16::try_from(at).unwrap_or(u16::MAX)
        };
        Self {
            architectures: devices.iter().map(first).collect(),
            kinds: FxHashMap::default(),
        }
    }

    /// A body of this kind and variant that used so many bytes of arrays ran on these devices for so long.
    pub fn learn(
        &mut self,
        kind: &Arc<str>,
        variant: u32,
        devices: &[DeviceId],
        bytes: u64,
        exec_ns: u64,
    ) {
        let n_kinds = self.kinds.len();
        let (class, size) = (self.class(devices), bucket(bytes));
        let rows = match self.kinds.get_mut(kind) {
            Some(rows) => rows,
            None if n_kinds >= MAX_KINDS => return,
            None => self.kinds.entry(Arc::clone(kind)).or_default(),
        };
        let known = rows
            .iter()
            .position(|row| row.variant == variant && row.size == size && row.class == class);
        let at = known.unwrap_or_else(|| {
            rows.push(Row {
                variant,
                class,
                size,
                estimate: Estimate::default(),
            });
            rows.len() - 1
        });
        rows[at].estimate.add(exec_ns);
    }

    /// What such a body takes. `None`: none has ended yet.
    #[must_use]
    pub fn estimate(
        &self,
        kind: &str,
        variant: u32,
        devices: &[DeviceId],
        bytes: u64,
    ) -> Option<Estimate> {
        let rows = self.kinds.get(kind)?;
        let (class, size) = (self.class(devices), bucket(bytes));
        rows.iter()
            .find(|row| row.variant == variant && row.size == size && row.class == class)
            .map(|row| row.estimate)
    }

    fn class(&self, devices: &[DeviceId]) -> Class {
        let architecture = |device: &DeviceId| {
            let known = self.architectures.get(device.0 as usize);
            known.copied().unwrap_or(u16::MAX)
        };
        devices.iter().map(architecture).collect()
    }
}

/// Sizes that differ by less than a factor of two share their times.
fn bucket(bytes: u64) -> u32 {
    bytes.checked_ilog2().map_or(0, |log| log + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::conformance::programs::machine;

    const GPU: &[DeviceId] = &[DeviceId(1)];
    const OTHER_GPU: &[DeviceId] = &[DeviceId(2)];
    const CPU: &[DeviceId] = &[DeviceId(0)];

    fn model() -> (CostModel, Arc<str>) {
        (
            CostModel::new(&machine(&[2], &[100, 100])),
            Arc::from("solve"),
        )
    }

    fn mean(costs: &CostModel, variant: u32, devices: &[DeviceId], bytes: u64) -> Option<u64> {
        let estimate = costs.estimate("solve", variant, devices, bytes);
        estimate.map(|estimate| estimate.mean_ns)
    }

    #[test]
    fn times_are_kept_apart_by_all_that_they_depend_on() {
        let (mut costs, solve) = model();
        assert_eq!(mean(&costs, 0, GPU, 1000), None);
        costs.learn(&solve, 0, GPU, 1000, 10);
        costs.learn(&solve, 0, OTHER_GPU, 900, 20);
        assert_eq!(
            mean(&costs, 0, GPU, 1000),
            Some(15),
            "devices of one architecture are alike, and sizes that are close"
        );
        costs.learn(&solve, 0, CPU, 1000, 500);
        costs.learn(&solve, 1, GPU, 1000, 70);
        costs.learn(&solve, 0, GPU, 5000, 90);
        costs.learn(&solve, 0, &[GPU[0], OTHER_GPU[0]], 1000, 8);
        let found = [
            mean(&costs, 0, GPU, 1000),
            mean(&costs, 0, CPU, 1000),
            mean(&costs, 1, GPU, 1000),
            mean(&costs, 0, GPU, 5000),
            mean(&costs, 0, &[OTHER_GPU[0], GPU[0]], 1000),
        ];
        assert_eq!(found, [Some(15), Some(500), Some(70), Some(90), Some(8)]);
        assert_eq!(mean(&costs, 1, CPU, 1000), None);
        assert_eq!(costs.estimate("other", 0, GPU, 1000), None);
    }

    #[test]
    fn a_change_of_speed_is_followed_and_an_outlier_fades() {
        let (mut costs, solve) = model();
        (0..100).for_each(|_| costs.learn(&solve, 0, GPU, 0, 1000));
        costs.learn(&solve, 0, GPU, 0, 1_000_000);
        let after_one = mean(&costs, 0, GPU, 0).unwrap();
        assert!((50_000..100_000).contains(&after_one), "{after_one}");
        (0..100).for_each(|_| costs.learn(&solve, 0, GPU, 0, 4000));
        let estimate = costs.estimate("solve", 0, GPU, 0).unwrap();
        assert!((3900..4200).contains(&estimate.mean_ns), "{estimate:?}");
        assert_eq!(estimate.n, 201);
    }

    #[test]
    fn the_spread_is_that_of_the_times() {
        let (mut costs, solve) = model();
        (0..200).for_each(|i| costs.learn(&solve, 0, GPU, 0, if i % 2 == 0 { 900 } else { 1100 }));
        let estimate = costs.estimate("solve", 0, GPU, 0).unwrap();
        assert!((80..=120).contains(&estimate.spread_ns), "{estimate:?}");
        (0..200).for_each(|_| costs.learn(&solve, 0, CPU, 0, 1000));
        assert_eq!(costs.estimate("solve", 0, CPU, 0).unwrap().spread_ns, 0);
    }

    #[test]
    fn functions_without_end_do_not_fill_the_memory() {
        let (mut costs, _) = model();
        for number in 0..MAX_KINDS + 10 {
            let kind: Arc<str> = number.to_string().into();
            costs.learn(&kind, 0, GPU, 0, 5);
        }
        assert_eq!(costs.kinds.len(), MAX_KINDS);
        assert!(costs.estimate("7", 0, GPU, 0).is_some());
    }
}
