//! Copies between instances, in the order that what they read and overwrite demands.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use parla_core::{MachineModel, MemoryId, Region};
use parla_device::{Copy, DeviceError, Stream};
use smallvec::{SmallVec, smallvec};

use super::Store;
use crate::array::Shared;
use crate::directory::{Fetch, InstanceId};
use crate::history::DataEvent;
use crate::instance::{Outstanding, State};
use crate::op::Op;
use crate::{Array, DataError};

impl Store {
    /// Enqueues what has to be copied so that `to` has the newest bytes of `region`. The new work is appended to `ops`, also if it fails half-way: it has
    /// to be [watched](Op::watch) when the lock of the array is gone. Returns the number of bytes.
    pub(super) fn fetch(
        &self,
        array: &Arc<Shared>,
        state: &mut State,
        to: InstanceId,
        region: &Region,
        ops: &mut Vec<Arc<Op>>,
    ) -> Result<u64, DataError> {
        let fetched = self.fetch_known(array, state, to, region, ops);
        if fetched.is_err() {
            state.note(to, Some(region), DataEvent::Refused);
        }
        fetched
    }

    fn fetch_known(
        &self,
        array: &Arc<Shared>,
        state: &mut State,
        to: InstanceId,
        region: &Region,
        ops: &mut Vec<Arc<Op>>,
    ) -> Result<u64, DataError> {
        self.purge_lost(state);
        let invalid = |region: &Region, because: &str| DataError::Invalid {
            array: array.name.clone(),
            region: region.clone(),
            because: because.to_owned(),
        };
        let Some(destination) = state.directory.instance(to) else {
            return Err(invalid(region, "the device it was needed on was lost"));
        };
        let memory = destination.memory;
        let cost = |from: MemoryId, region: &Region| {
            let link = self.model().link(from, memory);
            link.transfer_ns(array.bytes(region))
        };
        let fetches = state.directory.fetches(region, to, cost);
        let mut fetches = fetches.map_err(|p| invalid(&p.region, &p.because))?;
        let is_claimed = |claimed: &Region| {
            let mut fetched = fetches.iter();
            fetched.any(|fetch| fetch.region.intersection(claimed).is_some())
        };
        if state.claimed(memory).any(is_claimed) {
            state.note(to, Some(region), DataEvent::Refused);
        }
        for claimed in state.claimed(memory) {
            let around = |fetch: Fetch| {
                let rest = fetch.region.difference(claimed).into_iter();
                rest.map(move |region| Fetch {
                    region,
                    ..fetch.clone()
                })
            };
            fetches = fetches.into_iter().flat_map(around).collect();
        }
        let mut bytes = 0;
        // Into the host each source has a stream of its own.
        let one_stream =
            |a: &Fetch, b: &Fetch| memory != MachineModel::HOST || a.memory == b.memory;
        fetches.sort_by_key(|fetch| fetch.memory);
        for batch in fetches.chunk_by(one_stream) {
            self.enqueue(array, state, to, memory, batch, ops)?;
            bytes += batch.iter().map(|f| array.bytes(&f.region)).sum::<u64>();
        }
        Ok(bytes)
    }

    fn enqueue(
        &self,
        array: &Arc<Shared>,
        state: &mut State,
        to: InstanceId,
        memory: MemoryId,
        batch: &[Fetch],
        ops: &mut Vec<Arc<Op>>,
    ) -> Result<(), DataError> {
        let stream = if memory == MachineModel::HOST {
            self.stream(batch[0].memory, false)?
        } else {
            self.stream(memory, true)?
        };
        // What the copies read must have been written, what they overwrite must have been read.
        let mut written: Vec<Arc<Op>> = Vec::new();
        let mut first: Vec<Arc<Op>> = Vec::new();
        let mut copies = Vec::new();
        let instance = |id| {
            state
                .get(id)
                .expect("the directory knows only those that exist")
        };
        for fetch in batch {
            let (source, destination) = (instance(fetch.from), instance(to));
            let outstanding = source.before(&fetch.region, false);
            written.extend(outstanding.map(|o| Arc::clone(&o.op)));
            let outstanding = destination.before(&fetch.region, true);
            first.extend(outstanding.map(|o| Arc::clone(&o.op)));
            copies.push(Copy {
                item: array.item,
                shape: fetch.region.shape(),
                source: source.place(&fetch.region, self.machine.key(fetch.memory)),
                destination: destination.place(&fetch.region, self.machine.key(memory)),
            });
        }
        distinct(&mut written);
        first.extend(written.iter().cloned());
        distinct(&mut first);
        for op in &first {
            stream.wait(&op.event)?;
        }
        let mut copied: Result<(), DeviceError> = Ok(());
        for copy in copies {
            copied = stream.copy(copy);
            if copied.is_err() {
                break;
            }
        }
        let event = stream.record();
        let event = match (&copied, event) {
            // The first error says more.
            (Err(error), Err(_)) => return Err(error.clone().into()),
            (_, event) => event?,
        };
        let op = Op::new(
            event,
            Arc::clone(&self.memory(memory).copy_name),
            smallvec![Arc::downgrade(array)],
            self.me.clone(),
            written,
        );
        let account = self.memory(memory);
        for fetch in batch {
            let region = &fetch.region;
            let mut live = Vec::new();
            if copied.is_ok() {
                state.supersede(to, region);
                let (from, source) = (fetch.from, fetch.memory);
                state.note(to, Some(region), DataEvent::Copied { from, source });
                state.directory.copied(region, to);
                if self.keeps_versions() {
                    state.versions.copied(fetch.from, to, region);
                }
                live.push(region.clone());
                let bytes = &account.bytes_from[fetch.memory.0 as usize];
                bytes.fetch_add(array.bytes(region), Ordering::Relaxed);
                account.n_copies.fetch_add(1, Ordering::Relaxed);
            }
            // Copies before the one that failed are under way.
            for (id, write, live) in [(fetch.from, false, Vec::new()), (to, true, live)] {
                if let Some(instance) = state.get_mut(id) {
                    instance.outstanding.push(Outstanding {
                        op: Arc::clone(&op),
                        region: region.clone(),
                        write,
                        live,
                    });
                }
            }
        }
        ops.push(op);
        array.update_host_only(state);
        copied.map_err(DataError::from)
    }

    /// What is on lost devices is lost.
    pub(super) fn purge_lost(&self, state: &mut State) {
        let mut i = 1;
        while let Some(extent) = state.directory.instances().get(i) {
            let id = extent.id;
            let device = self.machine.device(self.machine.owner(extent.memory));
            if let Some(failure) = device.failure() {
                state.note(id, None, DataEvent::Lost);
                state.directory.remove(id, &failure.to_string());
            } else {
                i += 1;
            }
        }
    }

    /// What a memory has of a box was changed by somebody who may not: it is not valid there any more. Where it is valid elsewhere, that is what
    /// readers get from now on.
    pub fn distrust(&self, array: &Array, region: &Region, memory: MemoryId, because: &str) {
        let shared = &array.0;
        let mut state = shared.state.lock();
        let there = state.directory.instances().iter();
        let there = there.filter(|e| e.memory == memory).map(|e| e.id);
        let there: SmallVec<[_; 4]> = there.collect();
        for id in there {
            state.note(id, Some(region), DataEvent::Failed);
            state.directory.forget(region, id, because);
        }
        shared.update_host_only(&state);
    }

    fn stream(&self, memory: MemoryId, inward: bool) -> Result<Arc<dyn Stream>, DeviceError> {
        let mut streams = self.memory(memory).streams.lock();
        let stream = if inward {
            &mut streams.inward
        } else {
            &mut streams.outward
        };
        if let Some(stream) = stream {
            return Ok(Arc::clone(stream));
        }
        let device = self.machine.device(self.machine.owner(memory));
        let made = device.stream()?;
        *stream = Some(Arc::clone(&made));
        Ok(made)
    }
}

/// Leaves one of each.
fn distinct(ops: &mut Vec<Arc<Op>>) {
    ops.sort_by_key(Arc::as_ptr);
    ops.dedup_by(|a, b| Arc::ptr_eq(a, b));
}
