//! The record of what happened, in one list in order of time.

use std::time::Instant;

use parla_core::lock::Mutex;
use parla_core::{Claim, DeviceId, TaskId, TraceEvent, TraceRecord};

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

    pub(super) fn spawned(&self, task: TaskId, dependencies: &[TaskId], claim: Claim) {
        self.add(
            task,
            TraceEvent::Spawned,
            None,
            dependencies.to_vec(),
            claim,
            0,
        );
    }

    pub(super) fn placed(&self, task: TaskId, devices: &[DeviceId]) {
        self.push(task, TraceEvent::Placed, None, Vec::new(), 0);
        // The record may no longer be the last one, but no task is placed twice.
        let mut records = self.records.lock();
        let is_it = |r: &&mut TraceRecord| r.task == task && r.event == TraceEvent::Placed;
        if let Some(record) = records.iter_mut().rev().find(is_it) {
            record.devices = devices.to_vec();
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
            devices: Vec::new(),
            claim,
            held_ns,
        });
    }
}
