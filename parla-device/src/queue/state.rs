//! What all streams of a backend have in front of them and which engines are busy: events in, effects out, time is an argument.

use std::cmp::{Ordering, Reverse};
use std::collections::{BinaryHeap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use smallvec::SmallVec;

use super::event::{End, QueueEvent};
use crate::backend::{Callback, Copy, Event};
use crate::error::DeviceError;

/// Numbers of engines; empty: the operation occupies none.
pub(crate) type Engines = SmallVec<[usize; 2]>;

/// What an operation really does.
pub(crate) enum Work {
    Copy(Box<Copy>),
    Kernel(Box<dyn FnOnce() + Send>),
}

/// A copy or a launch.
pub(crate) struct Operation {
    pub(crate) work: Work,
    /// What it occupies from its start to its end.
    pub(crate) engines: Engines,
    /// How long it takes at least.
    pub(crate) busy: Duration,
    /// The device is lost when this would start.
    pub(crate) loses: Option<Box<DeviceError>>,
}

impl Operation {
    /// When it ends that started then and whose work took so long.
    pub(super) fn end(starts_at: Instant, busy: Duration, work: Duration) -> Instant {
        // Beyond all time it never ends; no link is that slow.
        starts_at.checked_add(busy.max(work)).unwrap_or(starts_at)
    }
}

/// What is enqueued on a stream.
pub(super) enum Item {
    Operation(Operation),
    Wait(Arc<dyn Event>),
    Record(Arc<QueueEvent>),
}

/// One stream.
pub(super) struct Lane {
    device: usize,
    items: VecDeque<(Item, Instant)>,
    /// What it is busy with: an operation that waits for engines or runs, or an event it waits for.
    ticket: Option<Ticket>,
    /// When, by the model, the last thing on it ended.
    ready_at: Instant,
    /// Why what follows is skipped, up to the next recorded event.
    error: Option<DeviceError>,
    /// Nobody has a handle: the lane can be used again once it is empty.
    abandoned: bool,
}

pub(super) type Ticket = u64;

struct Engine {
    device: usize,
    busy: bool,
    free_at: Instant,
}

/// An operation that may start as soon as its engines are free.
struct Queued {
    lane: usize,
    ticket: Ticket,
    operation: Operation,
    ready_at: Instant,
}

/// What a worker has to do.
pub(super) enum Job {
    Operation {
        lane: usize,
        ticket: Ticket,
        operation: Operation,
        starts_at: Instant,
    },
    Callbacks(Vec<(Callback, Result<(), DeviceError>)>),
}

/// An operation whose work is done before its time is.
pub(super) struct Timer {
    pub(super) at: Instant,
    pub(super) lane: usize,
    pub(super) ticket: Ticket,
    pub(super) engines: Engines,
}

impl PartialEq for Timer {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Timer {}

impl PartialOrd for Timer {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Timer {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.at, self.ticket).cmp(&(other.at, other.ticket))
    }
}

/// What has to be done once the lock is free.
#[derive(Default)]
pub(super) struct Effects {
    pub(super) completed: Vec<(Arc<QueueEvent>, End)>,
    /// Events that lanes wait for.
    pub(super) watches: Vec<(Arc<dyn Event>, usize, Ticket)>,
    /// Dropping these may run code that is not ours.
    pub(super) garbage: Vec<Item>,
}

impl Effects {
    pub(super) fn is_nothing(&self) -> bool {
        self.completed.is_empty() && self.watches.is_empty() && self.garbage.is_empty()
    }
}

pub(super) struct State {
    lanes: Vec<Lane>,
    free: Vec<usize>,
    engines: Vec<Engine>,
    // By device.
    lost: Vec<Option<DeviceError>>,
    // In the order in which they became ready.
    queued: VecDeque<Queued>,
    pub(super) jobs: VecDeque<Job>,
    pub(super) timers: BinaryHeap<Reverse<Timer>>,
    next_ticket: Ticket,
}

impl State {
    /// For some devices with so many engines each; engine `k` of device `d` has the number `d * n_engines + k`.
    pub(super) fn new(n_devices: usize, n_engines: usize, now: Instant) -> Self {
        let engine = |device| Engine {
            device,
            busy: false,
            free_at: now,
        };
        Self {
            lanes: Vec::new(),
            free: Vec::new(),
            engines: (0..n_devices * n_engines)
                .map(|number| engine(number / n_engines))
                .collect(),
            lost: vec![None; n_devices],
            queued: VecDeque::new(),
            jobs: VecDeque::new(),
            timers: BinaryHeap::new(),
            next_ticket: 0,
        }
    }

    pub(super) fn failure(&self, device: usize) -> Option<&DeviceError> {
        self.lost[device].as_ref()
    }

    fn check(&self, device: usize) -> Result<(), DeviceError> {
        self.failure(device).cloned().map_or(Ok(()), Err)
    }

    /// A lane for a stream of this device.
    pub(super) fn open(&mut self, device: usize, now: Instant) -> Result<usize, DeviceError> {
        self.check(device)?;
        let fresh = Lane {
            device,
            items: VecDeque::new(),
            ticket: None,
            ready_at: now,
            error: None,
            abandoned: false,
        };
        if let Some(lane) = self.free.pop() {
            self.lanes[lane] = fresh;
            return Ok(lane);
        }
        self.lanes.push(fresh);
        Ok(self.lanes.len() - 1)
    }

    /// The stream has no handle any more; what is enqueued is still done.
    pub(super) fn abandon(&mut self, lane: usize) {
        self.lanes[lane].abandoned = true;
        self.give_back(lane);
    }

    fn give_back(&mut self, lane: usize) {
        let state = &mut self.lanes[lane];
        if state.abandoned && state.is_idle() {
            state.abandoned = false;
            self.free.push(lane);
        }
    }

    pub(super) fn device_of(&self, lane: usize) -> usize {
        self.lanes[lane].device
    }

    pub(super) fn n_lanes(&self) -> usize {
        self.lanes.len()
    }

    pub(super) fn is_idle(&self, lane: usize) -> Result<bool, DeviceError> {
        self.check(self.lanes[lane].device)?;
        Ok(self.lanes[lane].is_idle())
    }

    /// Enqueues.
    pub(super) fn push(
        &mut self,
        lane: usize,
        item: Item,
        now: Instant,
        effects: &mut Effects,
    ) -> Result<(), DeviceError> {
        if let Err(error) = self.check(self.lanes[lane].device) {
            effects.garbage.push(item);
            return Err(error);
        }
        if let Item::Operation(operation) = &item
            && let Some(error) = self.unusable(operation)
        {
            effects.garbage.push(item);
            return Err(error);
        }
        self.lanes[lane].items.push_back((item, now));
        self.advance(lane, effects);
        self.start(effects);
        Ok(())
    }

    /// The time of an operation is over and its work done.
    pub(super) fn finish(
        &mut self,
        lane: usize,
        ticket: Ticket,
        engines: &[usize],
        end: End,
        effects: &mut Effects,
    ) {
        for &engine in engines {
            self.engines[engine].busy = false;
            self.engines[engine].free_at = end.at;
        }
        self.resume(lane, ticket, end, effects);
    }

    /// What a lane waited for has come about.
    pub(super) fn resume(&mut self, lane: usize, ticket: Ticket, end: End, effects: &mut Effects) {
        let state = &mut self.lanes[lane];
        // A lane of a lost device has been emptied meanwhile.
        if state.ticket == Some(ticket) {
            state.ticket = None;
            state.ready_at = state.ready_at.max(end.at);
            state.error = state.error.take().or(end.result.err());
            self.advance(lane, effects);
        }
        self.start(effects);
    }

    /// Nothing works on this device any more.
    pub(super) fn lose(
        &mut self,
        device: usize,
        error: DeviceError,
        now: Instant,
        effects: &mut Effects,
    ) {
        if self.lost[device].is_some() {
            return;
        }
        self.lost[device] = Some(error.clone());
        for lane in 0..self.lanes.len() {
            if self.lanes[lane].device != device {
                continue;
            }
            self.lanes[lane].ticket = None;
            for (item, _) in std::mem::take(&mut self.lanes[lane].items) {
                match item {
                    Item::Record(event) => {
                        let result = Err(error.clone());
                        effects.completed.push((event, End { result, at: now }));
                    }
                    other => effects.garbage.push(other),
                }
            }
            self.give_back(lane);
        }
        self.start(effects);
    }

    pub(super) fn lose_all(&mut self, error: &DeviceError, now: Instant, effects: &mut Effects) {
        for device in 0..self.lost.len() {
            self.lose(device, error.clone(), now, effects);
        }
    }

    /// Takes what is next on a lane, until it is busy or empty.
    fn advance(&mut self, lane: usize, effects: &mut Effects) {
        let ticket = self.next_ticket;
        loop {
            let state = &mut self.lanes[lane];
            if state.ticket.is_some() {
                return;
            }
            let Some((item, since)) = state.items.pop_front() else {
                return self.give_back(lane);
            };
            state.ready_at = state.ready_at.max(since);
            match item {
                Item::Record(event) => {
                    let result = state.error.take().map_or(Ok(()), Err);
                    let at = state.ready_at;
                    effects.completed.push((event, End { result, at }));
                }
                skipped if state.error.is_some() => effects.garbage.push(skipped),
                Item::Wait(event) => {
                    let ours = event.as_any().downcast_ref::<QueueEvent>();
                    if let Some(end) = ours.and_then(QueueEvent::end) {
                        state.ready_at = state.ready_at.max(end.at);
                        state.error = end.result.err();
                        effects.garbage.push(Item::Wait(event));
                        continue;
                    }
                    self.next_ticket += 1;
                    state.ticket = Some(ticket);
                    effects.watches.push((event, lane, ticket));
                }
                Item::Operation(operation) => {
                    self.next_ticket += 1;
                    state.ticket = Some(ticket);
                    self.queued.push_back(Queued {
                        lane,
                        ticket,
                        ready_at: state.ready_at,
                        operation,
                    });
                }
            }
        }
    }

    /// Starts what can be started. An operation that must wait for an engine is not overtaken on any of its engines.
    fn start(&mut self, effects: &mut Effects) {
        let mut spoken_for = Engines::new();
        let mut k = 0;
        while k < self.queued.len() {
            let queued = &self.queued[k];
            let cancelled = self.lanes[queued.lane].ticket != Some(queued.ticket);
            let engines = &queued.operation.engines;
            let waits = engines
                .iter()
                .any(|engine| self.engines[*engine].busy || spoken_for.contains(engine));
            if waits && !cancelled {
                spoken_for.extend_from_slice(engines);
                k += 1;
                continue;
            }
            let Some(mut queued) = self.queued.remove(k) else {
                return;
            };
            if cancelled {
                effects.garbage.push(Item::Operation(queued.operation));
                continue;
            }
            let Queued { lane, ticket, .. } = queued;
            if let Some(error) = queued.operation.loses.take() {
                effects.garbage.push(Item::Operation(queued.operation));
                // Starts over: every lane of the device changes.
                return self.lose(self.lanes[lane].device, *error, queued.ready_at, effects);
            }
            if let Some(error) = self.unusable(&queued.operation) {
                effects.garbage.push(Item::Operation(queued.operation));
                let (result, at) = (Err(error), queued.ready_at);
                // As above: what follows on the lane may be startable before what follows here.
                return self.resume(lane, ticket, End { result, at }, effects);
            }
            let free_at = |engine: &usize| self.engines[*engine].free_at;
            let engines = queued.operation.engines.iter();
            let starts_at = engines.map(free_at).fold(queued.ready_at, Instant::max);
            for &engine in &queued.operation.engines {
                self.engines[engine].busy = true;
            }
            self.jobs.push_back(Job::Operation {
                lane,
                ticket,
                starts_at,
                operation: queued.operation,
            });
        }
    }

    /// The loss of a device that an operation needs, its own or the other side of a copy.
    fn unusable(&self, operation: &Operation) -> Option<DeviceError> {
        let devices = operation.engines.iter().map(|&e| self.engines[e].device);
        devices
            .filter_map(|device| self.lost[device].clone())
            .next()
    }
}

impl Lane {
    fn is_idle(&self) -> bool {
        self.ticket.is_none() && self.items.is_empty()
    }
}

#[cfg(test)]
mod tests;
