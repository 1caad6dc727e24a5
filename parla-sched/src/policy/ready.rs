//! Ready tasks as policies keep them: in order of service, grouped by what they ask for.
//!
//! Tasks with the same choices form a class: if its first task fits nowhere, none does. So looking for a task for a device costs the number
//! of *different requests* among those that include the device, not the number of ready tasks. Tasks without data are alike if they also run the
//! same kind of body: what is best for one of a class is best for all, and [`InTurn::skip_alike`] leaves the others out.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, btree_map};
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use parla_core::{DeviceId, TaskId};
use rustc_hash::{FxHashMap, FxHasher};
use smallvec::SmallVec;

use super::SchedCx;
use crate::Choice;

/// Order of service: higher priority first, then first come.
type Turn = (Reverse<i32>, u64);

/// The kind of a task's body, if it uses no data; with data no two tasks are alike.
type Alike = Option<Option<Arc<str>>>;

/// Tasks that ask for the same.
#[derive(Debug, Default)]
struct Class {
    choices: Vec<Choice>,
    alike: Alike,
    tasks: BTreeMap<Turn, TaskId>,
}

impl Class {
    fn takes(&self, choices: &[Choice], alike: &Alike) -> bool {
        self.alike == *alike && self.choices == choices
    }

    fn devices(&self) -> impl Iterator<Item = usize> {
        let devices = self.choices.iter().flat_map(|choice| &choice.devices);
        devices.map(|device| device.0 as usize)
    }
}

/// Ready tasks.
#[derive(Debug, Default)]
pub(crate) struct ReadyTasks {
    /// Invariant: a class without tasks is in `free` and nowhere else.
    classes: Vec<Class>,
    free: Vec<usize>,
    /// Classes by the hash of their choices.
    by_choices: FxHashMap<u64, SmallVec<[usize; 1]>>,
    /// Per device, the classes with a choice that includes it.
    by_device: Vec<Vec<usize>>,
    /// Where each task is.
    tasks: FxHashMap<TaskId, (usize, Turn)>,
    arrivals: u64,
}

impl ReadyTasks {
    /// Adds a task behind all of its priority.
    pub(crate) fn push(&mut self, cx: &SchedCx<'_>, task: TaskId) {
        let Some(placing) = cx.task(task) else {
            return;
        };
        let turn = (Reverse(cx.priority(task)), self.arrivals);
        self.arrivals += 1;
        let alike = (!cx.uses_data(task)).then(|| placing.kind.clone());
        let class = self.class_of(&placing.choices, alike);
        self.classes[class].tasks.insert(turn, task);
        self.tasks.insert(task, (class, turn));
    }

    /// Takes a task out, if it is there.
    pub(crate) fn remove(&mut self, task: TaskId) {
        let Some((number, turn)) = self.tasks.remove(&task) else {
            return;
        };
        let class = &mut self.classes[number];
        class.tasks.remove(&turn);
        if !class.tasks.is_empty() {
            return;
        }
        for device in class.devices() {
            self.by_device[device].retain(|&other| other != number);
        }
        let hash = hash_of(&class.choices, &class.alike);
        class.choices.clear();
        if let Some(same) = self.by_choices.get_mut(&hash) {
            same.retain(|other| *other != number);
            if same.is_empty() {
                self.by_choices.remove(&hash);
            }
        }
        self.free.push(number);
    }

    /// The tasks with a choice that includes a device, in order of service; without those classes whose first task is not `wanted`.
    pub(crate) fn in_turn(
        &self,
        device: DeviceId,
        mut wanted: impl FnMut(TaskId) -> bool,
    ) -> InTurn<'_> {
        let mut heads = BinaryHeap::new();
        for &number in self.by_device.get(device.0 as usize).into_iter().flatten() {
            let class = &self.classes[number];
            let mut rest = class.tasks.iter();
            if let Some((&turn, &task)) = rest.next()
                && wanted(task)
            {
                let alike = class.alike.is_some();
                heads.push(Head {
                    turn,
                    task,
                    rest,
                    alike,
                });
            }
        }
        InTurn {
            heads,
            at_first: false,
        }
    }

    fn class_of(&mut self, choices: &[Choice], alike: Alike) -> usize {
        let hash = hash_of(choices, &alike);
        let same = self.by_choices.entry(hash).or_default();
        let known = same
            .iter()
            .find(|&&n| self.classes[n].takes(choices, &alike));
        if let Some(&number) = known {
            return number;
        }
        let number = self.free.pop().unwrap_or_else(|| {
            self.classes.push(Class::default());
            self.classes.len() - 1
        });
        same.push(number);
        let class = &mut self.classes[number];
        class.choices.extend_from_slice(choices);
        class.alike = alike;
        for device in class.devices() {
            if self.by_device.len() <= device {
                self.by_device.resize_with(device + 1, Vec::new);
            }
            if !self.by_device[device].contains(&number) {
                self.by_device[device].push(number);
            }
        }
        number
    }
}

fn hash_of(choices: &[Choice], alike: &Alike) -> u64 {
    let mut hasher = FxHasher::default();
    alike.hash(&mut hasher);
    for choice in choices {
        choice.devices.hash(&mut hasher);
        for claim in &choice.claims {
            (claim.vcus, claim.memory).hash(&mut hasher);
        }
        choice.variant.hash(&mut hasher);
    }
    hasher.finish()
}

/// The next task of a class and those behind it.
struct Head<'a> {
    turn: Turn,
    task: TaskId,
    rest: btree_map::Iter<'a, Turn, TaskId>,
    alike: bool,
}

impl PartialEq for Head<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.turn == other.turn
    }
}
impl Eq for Head<'_> {}
impl PartialOrd for Head<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Head<'_> {
    /// The first in turn is the greatest: the heap gives it first.
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        other.turn.cmp(&self.turn)
    }
}

/// Tasks of several classes, in order of service.
pub(crate) struct InTurn<'a> {
    heads: BinaryHeap<Head<'a>>,
    /// The first of `heads` has been given out.
    at_first: bool,
}

impl InTurn<'_> {
    /// Leaves out all that are like the task that was given out last.
    pub(crate) fn skip_alike(&mut self) {
        if self.at_first && self.heads.peek().is_some_and(|head| head.alike) {
            self.heads.pop();
            self.at_first = false;
        }
    }
}

impl Iterator for InTurn<'_> {
    type Item = TaskId;

    fn next(&mut self) -> Option<TaskId> {
        if std::mem::replace(&mut self.at_first, true) {
            let mut head = self.heads.peek_mut()?;
            if let Some((&turn, &next)) = head.rest.next() {
                (head.turn, head.task) = (turn, next);
            } else {
                std::collections::binary_heap::PeekMut::pop(head);
            }
        }
        self.heads.peek().map(|head| head.task)
    }
}
