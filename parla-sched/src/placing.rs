//! Tasks that a policy places: where they may run, what data they use; and where they were placed.

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use parla_core::lock::Mutex;
use parla_core::{Access, Claim, DeviceId, Region, TraceUse};
use parla_data::{DataError, Ended, Operand, Staged};
use parla_device::{DeviceError, Event, Place, Stream};
use smallvec::SmallVec;

use crate::mapper::Placed;

/// One way to run a task: one device, or several different ones together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The devices, at least one, all different.
    pub devices: SmallVec<[DeviceId; 1]>,
    /// What it holds of each of them: memory from its placement to its end, compute units while it runs.
    pub claims: SmallVec<[Claim; 1]>,
    /// Which of the body's variants runs there; 0 where there is only one.
    pub variant: u32,
}

/// When the dependents of a task whose body has returned go on, as long as its devices have not done all that it gave them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Runahead {
    /// At once, in the order of the streams, where their devices can do that; otherwise as for `Blocking`.
    #[default]
    NonBlocking,
    /// When the devices are done.
    Blocking,
    /// At once, and whoever uses the results synchronises.
    User,
}

/// Where a task may run and what data it uses.
#[derive(Clone, Debug)]
pub struct Placing {
    /// Its ways to run, at least one, in the user's order of preference.
    pub choices: Vec<Choice>,
    /// The arrays it uses; `slot` counts the devices of the choice.
    pub operands: Arc<[Operand]>,
    /// When its dependents go on.
    pub runahead: Runahead,
    /// Names bodies that take about the same time on the same devices and amounts of data, the same in every run: a function and where it is written,
    /// say. `None`: nothing is learned from it.
    pub kind: Option<Arc<str>>,
}

/// Where a task was placed.
#[derive(Debug)]
pub struct Assigned {
    /// Which of the choices.
    pub choice: usize,
    /// The devices.
    pub devices: SmallVec<[DeviceId; 1]>,
    /// One stream per device that has streams of its own; on it the body's work goes.
    pub streams: SmallVec<[Option<Arc<dyn Stream>>; 1]>,
    /// Which variant of the body runs.
    pub variant: u32,
    /// The arrays it uses.
    pub operands: Arc<[Operand]>,
    /// When its dependents go on.
    pub runahead: Runahead,
    /// Bytes that it claims of the memory of each device.
    pub(crate) room: SmallVec<[u64; 2]>,
    /// Its operands, in place, until it ends or waits. Nothing else here keeps memory of a device alive: whoever is given it next needs all of it.
    staged: Mutex<Option<Staged>>,
    started: OnceLock<Instant>,
    drained: OnceLock<Instant>,
}

impl Assigned {
    /// # Errors
    /// What a device says of the wait for copies that are under way.
    pub(crate) fn new(
        placed: &Placed,
        room: SmallVec<[u64; 2]>,
        streams: SmallVec<[Option<Arc<dyn Stream>>; 1]>,
        staged: Staged,
    ) -> Result<Self, DeviceError> {
        wait_for_copies(&staged, &streams)?;
        Ok(Self {
            choice: placed.choice,
            devices: placed.devices.clone(),
            streams,
            variant: placed.variant,
            operands: Arc::clone(&placed.placing.operands),
            runahead: placed.placing.runahead,
            room,
            staged: Mutex::new(Some(staged)),
            started: OnceLock::new(),
            drained: OnceLock::new(),
        })
    }

    /// The same with its operands in place again, after it was [paused](Self::pause).
    ///
    /// # Errors
    /// What a device says of the wait for copies that are under way.
    pub(crate) fn staged_again(&self, staged: Staged) -> Result<Self, DeviceError> {
        wait_for_copies(&staged, &self.streams)?;
        Ok(Self {
            choice: self.choice,
            devices: self.devices.clone(),
            streams: self.streams.clone(),
            variant: self.variant,
            operands: Arc::clone(&self.operands),
            runahead: self.runahead,
            room: self.room.clone(),
            staged: Mutex::new(Some(staged)),
            started: self.started.clone(),
            drained: OnceLock::new(),
        })
    }

    /// Whether it holds anything of a memory: data, or room that it claims.
    fn holds_memory(&self) -> bool {
        !self.operands.is_empty() || self.room.iter().any(|bytes| *bytes > 0)
    }

    /// The body waits for others, who may change what it uses and need the memory: lets go of its operands, at what it has given to its
    /// streams so far, and of the room that it claims.
    pub(crate) fn pause(&self) -> Result<(), DeviceError> {
        if !self.holds_memory() {
            return Ok(());
        }
        match self.outstanding() {
            Ok(events) => {
                self.end(Ended::Well(events));
                Ok(())
            }
            Err(error) => {
                self.end(Ended::Badly(error.to_string()));
                Err(error)
            }
        }
    }

    /// Events after all that its streams have not done yet.
    fn outstanding(&self) -> Result<Vec<Arc<dyn Event>>, DeviceError> {
        let mut events = Vec::new();
        for stream in self.streams.iter().flatten() {
            if !stream.is_idle()? {
                events.push(stream.record()?);
            }
        }
        Ok(events)
    }

    /// Its operands when it goes on: what it has written before it must find again.
    pub(crate) fn operands_again(&self) -> Arc<[Operand]> {
        let again = |operand: &Operand| Operand {
            access: if operand.access == Access::Output {
                Access::InOut
            } else {
                operand.access
            },
            ..operand.clone()
        };
        self.operands.iter().map(again).collect()
    }

    /// Whether what it holds of memories is in place.
    pub(crate) fn is_in_place(&self) -> bool {
        self.staged.lock().is_some()
    }

    /// Whether it was paused.
    pub(crate) fn is_paused(&self) -> bool {
        self.holds_memory() && self.staged.lock().is_none()
    }

    /// For each operand, where the first element of its region is; empty while the task waits, and after its end.
    #[must_use]
    pub fn places(&self) -> Vec<Place> {
        let staged = self.staged.lock();
        let places = staged.as_ref().map(Staged::places);
        places.unwrap_or_default().to_vec()
    }

    /// Where the first element of an operand's region is. `None` while the task waits, and after its end.
    #[must_use]
    pub fn place(&self, operand: usize) -> Option<Place> {
        self.staged.lock().as_ref()?.places().get(operand).cloned()
    }

    /// Why the body cannot look at a box of an operand, if so it is: it has no valid contents since a task failed that it waited for.
    #[must_use]
    pub fn lost(&self, operand: usize, region: &Region) -> Option<DataError> {
        self.staged.lock().as_ref()?.lost(operand, region)
    }

    /// The body is about to overwrite all of a box of an operand.
    pub fn overwrites(&self, operand: usize, region: &Region) {
        if let Some(staged) = &mut *self.staged.lock() {
            staged.overwritten(operand, region);
        }
    }

    /// The body is about to start, or to go on with its operands in place again.
    pub(crate) fn begin(&self) {
        let _ = self.started.set(Instant::now()); // the first start counts
        if let Some(staged) = &mut *self.staged.lock() {
            staged.begin();
        }
    }

    /// What the body found when it began, for a trace.
    pub(crate) fn uses(&self) -> Vec<TraceUse> {
        let staged = self.staged.lock();
        staged
            .as_ref()
            .map_or_else(Vec::new, |staged| staged.uses().to_vec())
    }

    /// Its devices have done what the body gave them.
    pub(crate) fn devices_done(&self) {
        let _ = self.drained.set(Instant::now()); // once, unless it is run again
    }

    /// When its devices had done what the body gave them, if it gave them anything.
    pub(crate) fn drained_at(&self) -> Option<Instant> {
        self.drained.get().copied()
    }

    /// Nanoseconds from the start of the body, but not before `since`, to the end of what it gave to its devices, or to now.
    pub(crate) fn busy_ns(&self, since: Option<Instant>) -> u64 {
        let Some(&started) = self.started.get() else {
            return 0;
        };
        let end = self.drained_at().unwrap_or_else(Instant::now);
        let busy = end.saturating_duration_since(since.map_or(started, |since| since.max(started)));
        u64::try_from(busy.as_nanos()).unwrap_or(u64::MAX)
    }

    /// The body has ended and its devices are done.
    pub(crate) fn end(&self, how: Ended) {
        let staged = self.staged.lock().take();
        if let Some(staged) = staged {
            staged.end(how);
        }
    }
}

fn wait_for_copies(
    staged: &Staged,
    streams: &[Option<Arc<dyn Stream>>],
) -> Result<(), DeviceError> {
    for (slot, event) in staged.events() {
        match &streams[*slot] {
            Some(stream) => stream.wait(event)?,
            None => event.synchronize()?,
        }
    }
    Ok(())
}
