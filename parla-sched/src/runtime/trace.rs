//! The record of what happened, in one list in order of time.

use std::time::Instant;

use parla_core::lock::Mutex;
use parla_core::{Claim, DeviceId, TaskId, TraceEvent, TraceRecord, TraceUse};

pub(super) struct Trace {
    start: Instant,
    /// One list under one lock: the order of the records is an order in which the events can have happened.
    records: Mutex<Vec<TraceRecord>>,
}

impl Trace {
    pub(super) fn start() -> Self {
        Self {
            start: Instant::now(),
            records: Mutex::new(Vec::new()),
        }
    }

    pub(super) fn records(&self) -> Vec<TraceRecord> {
        self.records.lock().clone()
    }

    pub(super) fn spawned(
        &self,
        task: TaskId,
        parent: Option<TaskId>,
        dependencies: &[TaskId],
        claim: Claim,
    ) {
        self.add(
            task,
            TraceEvent::Spawned,
            None,
            dependencies.to_vec(),
            claim,
            0,
        );
        if parent.is_some() {
            // It may no longer be the last one, but nothing is spawned twice.
            let mut records = self.records.lock();
            if let Some(record) = records.iter_mut().rev().find(|r| r.task == task) {
                record.parent = parent;
            }
        }
    }

    /// What a body found when it began or went on.
    pub(super) fn uses(&self, task: TaskId, uses: Vec<TraceUse>) {
        if uses.is_empty() {
            return;
        }
        let mut records = self.records.lock();
        let is_start = |r: &&mut TraceRecord| {
            r.task == task && matches!(r.event, TraceEvent::Running | TraceEvent::Resumed)
        };
        if let Some(record) = records.iter_mut().rev().find(is_start) {
            record.uses.extend(uses); // a wait that was over at once is no new start
        }
    }

    pub(super) fn placed(&self, task: TaskId, devices: &[DeviceId], note: String) {
        self.push(task, TraceEvent::Placed, None, Vec::new(), 0);
        // The record may no longer be the last one, but no task is placed twice.
        let mut records = self.records.lock();
        let is_it = |r: &&mut TraceRecord| r.task == task && r.event == TraceEvent::Placed;
        if let Some(record) = records.iter_mut().rev().find(is_it) {
            record.devices = devices.to_vec();
            record.note = note;
        }
    }

    pub(super) fn push(
        &self,
        task: TaskId,
        event: TraceEvent,
        worker: Option<u16>,
        tasks: Vec<TaskId>,
        held_ns: u64,
    ) {
        self.add(task, event, worker, tasks, Claim::default(), held_ns);
    }

    fn add(
        &self,
        task: TaskId,
        event: TraceEvent,
        worker: Option<u16>,
        tasks: Vec<TaskId>,
        claim: Claim,
        held_ns: u64,
    ) {
        let mut records = self.records.lock();
        let time_ns = u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        records.push(TraceRecord {
            task,
            event,
            time_ns,
            worker: worker.map(u32::from),
            tasks,
            parent: None,
            uses: Vec::new(),
            devices: Vec::new(),
            note: String::new(),
            claim,
            held_ns,
        });
    }
}
