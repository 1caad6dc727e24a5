//! Who of the staged tasks gets compute units next: the rules of the runtime's admission, over several devices.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use parla_core::{Claim, DeviceId, Ledger, TaskId, Vcus};
use smallvec::SmallVec;

use super::PATIENCE;

/// Order of service: those that were suspended first (they hold memory), then higher priority, then first come.
pub(super) type UnitsTurn = (Reverse<bool>, Reverse<i32>, u64);

/// What a task wants of each device, all at once. Empty: it is runnable as soon as it is staged.
pub(super) type Needs = SmallVec<[(DeviceId, Vcus); 1]>;

/// Those that want the same: if the first cannot have it, none can.
#[derive(Debug, Default)]
struct Class {
    waiting: BTreeMap<UnitsTurn, TaskId>,
    /// How many later tasks got units of these devices before the first of this class.
    passed_over: u32,
}

/// Staged tasks that want compute units.
#[derive(Debug, Default)]
pub(super) struct Units {
    classes: BTreeMap<Needs, Class>,
    arrivals: u64,
}

impl Units {
    /// Adds a task behind all of its priority; returns its turn, by which it can be [removed](Self::remove).
    pub(super) fn push(
        &mut self,
        task: TaskId,
        priority: i32,
        resumed: bool,
        needs: Needs,
    ) -> UnitsTurn {
        let turn = (Reverse(resumed), Reverse(priority), self.arrivals);
        self.arrivals += 1;
        let class = self.classes.entry(needs).or_default();
        class.waiting.insert(turn, task);
        turn
    }

    /// Takes a task out.
    pub(super) fn remove(&mut self, turn: UnitsTurn, needs: &Needs) {
        if let Some(class) = self.classes.get_mut(needs) {
            if class.first() == Some(turn) {
                class.passed_over = 0;
            }
            class.waiting.remove(&turn);
            if class.waiting.is_empty() {
                self.classes.remove(needs);
            }
        }
    }

    pub(super) fn len(&self) -> usize {
        self.classes.values().map(|class| class.waiting.len()).sum()
    }

    /// Grants the next task what it wants, if there is one whose turn it is.
    pub(super) fn grant(&mut self, ledgers: &mut [Ledger]) -> Option<(UnitsTurn, TaskId)> {
        let (turn, needs) = self.next_that_fits(ledgers)?;
        let class = self.classes.get_mut(&needs)?;
        let task = class.waiting.remove(&turn)?;
        class.passed_over = 0;
        if class.waiting.is_empty() {
            self.classes.remove(&needs);
        }
        for (other, class) in &mut self.classes {
            if overlap(other, &needs) && class.first().is_some_and(|first| first < turn) {
                class.passed_over = class.passed_over.saturating_add(1);
            }
        }
        for &(device, vcus) in &needs {
            let granted = ledgers[device.0 as usize].try_claim(&units(vcus));
            debug_assert!(granted, "it fitted a moment ago");
        }
        Some((turn, task))
    }

    /// The first in order of service that fits, unless one before it has waited too long for one of the same devices.
    fn next_that_fits(&self, ledgers: &[Ledger]) -> Option<(UnitsTurn, Needs)> {
        let heads = || {
            self.classes
                .iter()
                .filter_map(|(needs, class)| Some((class.first()?, needs, class.passed_over)))
        };
        let starved: SmallVec<[(UnitsTurn, &Needs); 2]> = heads()
            .filter(|&(_, needs, passed_over)| passed_over >= PATIENCE && !fits(needs, ledgers))
            .map(|(turn, needs, _)| (turn, needs))
            .collect();
        heads()
            .filter(|&(turn, needs, _)| {
                let barred =
                    |&(reserved, other): &(_, &Needs)| reserved < turn && overlap(other, needs);
                fits(needs, ledgers) && !starved.iter().any(barred)
            })
            .min_by_key(|&(turn, ..)| turn)
            .map(|(turn, needs, _)| (turn, needs.clone()))
    }
}

impl Class {
    fn first(&self) -> Option<UnitsTurn> {
        self.waiting.first_key_value().map(|(&turn, _)| turn)
    }
}

/// A claim on compute units alone.
pub(super) fn units(vcus: Vcus) -> Claim {
    Claim { vcus, memory: 0 }
}

fn fits(needs: &Needs, ledgers: &[Ledger]) -> bool {
    needs
        .iter()
        .all(|&(device, vcus)| ledgers[device.0 as usize].fits(&units(vcus)))
}

fn overlap(a: &Needs, b: &Needs) -> bool {
    a.iter().any(|(x, _)| b.iter().any(|(y, _)| x == y))
}
