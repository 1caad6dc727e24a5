//! Devices for tests: plain memory of the host, streams that move only when the test says so, faults on demand.

use std::any::Any;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parla_core::lock::{Condvar, Mutex};
use parla_core::{Link, MachineModel, MemoryId};
use parla_device::{
    Backend, Block, Callback, Copy, Device, DeviceError, Event, Machine, Part, Place, Reclaim,
    Stream,
};

/// What all devices of a test share.
#[derive(Debug, Default)]
pub(super) struct World {
    streams: Mutex<Vec<Arc<FakeStream>>>,
    /// Streams move by themselves as far as they can.
    pub(super) eager: AtomicBool,
    /// Counts down to the copy that fails; 0: none.
    pub(super) copies_left: AtomicU64,
    /// Counts down to the allocation that fails; 0: none.
    pub(super) allocations_left: AtomicU64,
    pub(super) n_copies: AtomicU64,
}

#[derive(Debug)]
pub(super) struct Fake {
    me: std::sync::Weak<Fake>,
    architecture: &'static str,
    index: u32,
    name: String,
    capacity: u64,
    /// Less than what it says, if the device is to run out earlier than the books.
    pub(super) real_capacity: AtomicU64,
    used: Arc<AtomicU64>,
    pub(super) stream_ordered: AtomicBool,
    pub(super) lost: AtomicBool,
    world: Arc<World>,
}

#[derive(Debug)]
pub(super) struct Fakes(pub(super) Vec<Arc<Fake>>);

impl Backend for Fakes {
    fn architecture(&self) -> &'static str {
        self.0.first().map_or("gpu", |device| device.architecture)
    }

    fn devices(&self) -> Vec<Arc<dyn Device>> {
        let devices = self.0.iter();
        devices.map(|d| Arc::clone(d) as Arc<dyn Device>).collect()
    }
}

impl World {
    /// A machine with a host and GPUs of these capacities; links cost 1 ns per byte, between GPUs half of that.
    pub(super) fn machine(self: &Arc<Self>, capacities: &[u64]) -> (Arc<Machine>, Fakes) {
        let device = |architecture, index: usize, capacity: u64| {
            Arc::new_cyclic(|me| Fake {
                me: me.clone(),
                architecture,
                index: index as u32,
                name: format!("{architecture}:{index}"),
                capacity,
                real_capacity: AtomicU64::new(capacity),
                used: Arc::default(),
                stream_ordered: AtomicBool::new(false),
                lost: AtomicBool::new(false),
                world: Arc::clone(self),
            })
        };
        let host = Fakes(vec![device("cpu", 0, 1 << 40)]);
        let gpus = capacities.iter().enumerate();
        let gpus = Fakes(gpus.map(|(i, &c)| device("gpu", i, c)).collect());
        let part = |backend, in_host_memory| Part {
            backend,
            n_workers: &[1],
            in_host_memory,
        };
        let link = |from: MemoryId, to: MemoryId| Link {
            latency_ns: 10,
            bytes_per_second: match (from, to) {
                (a, b) if a == b => 1e11,
                (MachineModel::HOST, _) | (_, MachineModel::HOST) => 1e9,
                _ => 2e9,
            },
            direct: true,
        };
        let machine = Machine::assemble(&[part(&host, true), part(&gpus, false)], link);
        (Arc::new(machine), gpus)
    }

    /// Lets the `which`-th stream that has anything to do take one step. `false`: there is none.
    pub(super) fn step(&self, which: usize) -> bool {
        let streams = self.streams.lock().clone();
        let busy: Vec<_> = streams.iter().filter(|s| s.can_move()).collect();
        if busy.is_empty() {
            return false;
        }
        busy[which % busy.len()].step();
        true
    }

    /// How many streams have something to do.
    pub(super) fn n_busy(&self) -> usize {
        self.streams.lock().iter().filter(|s| s.can_move()).count()
    }

    pub(super) fn run_all(&self) {
        while self.step(0) {}
    }
}

/// Whether this is the one that a countdown was set for.
fn is_due(countdown: &AtomicU64) -> bool {
    let next = |n: u64| n.checked_sub(1);
    countdown.fetch_update(Ordering::SeqCst, Ordering::SeqCst, next) == Ok(1)
}

impl Fake {
    fn loss(&self) -> Option<DeviceError> {
        self.lost.load(Ordering::SeqCst).then(|| DeviceError::Lost {
            device: self.name.clone(),
            reason: "the test said so".to_owned(),
        })
    }

    fn check(&self) -> Result<(), DeviceError> {
        self.loss().map_or(Ok(()), Err)
    }
}

impl Device for Fake {
    fn index(&self) -> u32 {
        self.index
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn memory_capacity(&self) -> u64 {
        self.capacity
    }

    fn memory_used(&self) -> u64 {
        self.used.load(Ordering::SeqCst)
    }

    fn host_access(&self) -> bool {
        true
    }

    fn stream_ordered(&self) -> bool {
        self.stream_ordered.load(Ordering::SeqCst)
    }

    fn allocate(&self, bytes: u64) -> Result<Arc<Block>, DeviceError> {
        self.check()?;
        let total = self.real_capacity.load(Ordering::SeqCst);
        let free = total.saturating_sub(self.memory_used());
        if bytes > free || is_due(&self.world.allocations_left) {
            return Err(DeviceError::OutOfMemory {
                device: self.name.clone(),
                requested: bytes,
                free,
                total,
            });
        }
        self.used.fetch_add(bytes, Ordering::SeqCst);
        let memory = vec![0xDD_u8; bytes as usize].into_boxed_slice();
        let address = Box::into_raw(memory).cast::<u8>() as usize;
        let owner = Box::new(Owned(Arc::clone(&self.used)));
        Ok(Arc::new(Block::new(address, bytes, owner)))
    }

    fn stream(&self) -> Result<Arc<dyn Stream>, DeviceError> {
        self.check()?;
        let stream = Arc::new(FakeStream {
            device: self.me.upgrade().unwrap(),
            items: Mutex::default(),
            failed: Mutex::default(),
        });
        self.world.streams.lock().push(Arc::clone(&stream));
        Ok(stream)
    }

    fn failure(&self) -> Option<DeviceError> {
        self.loss()
    }
}

struct Owned(Arc<AtomicU64>);

impl Reclaim for Owned {
    fn reclaim(&self, address: usize, bytes: u64) {
        self.0.fetch_sub(bytes, Ordering::SeqCst);
        let memory = std::ptr::slice_from_raw_parts_mut(address as *mut u8, bytes as usize);
        // SAFETY: it was made by `Box::into_raw` in `allocate`, with this length, and the block's last user is gone.
        drop(unsafe { Box::from_raw(memory) });
    }
}

#[derive(Debug)]
pub(super) struct FakeStream {
    device: Arc<Fake>,
    items: Mutex<VecDeque<Item>>,
    failed: Mutex<Option<DeviceError>>,
}

enum Item {
    Copy(Copy),
    Record(Arc<FakeEvent>),
    Wait(Arc<dyn Event>),
    Launch(Box<dyn FnOnce() + Send>),
}

impl std::fmt::Debug for Item {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Item")
    }
}

impl FakeStream {
    fn can_move(&self) -> bool {
        match self.items.lock().front() {
            None => false,
            Some(Item::Wait(event)) => {
                self.device.loss().is_some() || !matches!(event.is_done(), Ok(false))
            }
            Some(_) => true,
        }
    }

    fn step(&self) {
        let Some(item) = self.items.lock().pop_front() else {
            return;
        };
        let loss = self.device.loss();
        match item {
            Item::Wait(_) => {}
            Item::Launch(kernel) if loss.is_none() => kernel(),
            Item::Launch(_) => {}
            Item::Copy(_) if loss.is_some() => {}
            Item::Copy(_) if is_due(&self.device.world.copies_left) => {
                *self.failed.lock() = Some(DeviceError::Driver {
                    device: self.device.name.clone(),
                    call: "copy",
                    reason: "the test said so".to_owned(),
                });
            }
            Item::Copy(copy) => {
                self.device.world.n_copies.fetch_add(1, Ordering::SeqCst);
                transfer(&copy);
            }
            Item::Record(event) => {
                let failed = self.failed.lock().take();
                event.complete(loss.or(failed).map_or(Ok(()), Err));
            }
        }
    }

    fn push(&self, item: Item) -> Result<(), DeviceError> {
        self.device.check()?;
        self.items.lock().push_back(item);
        if self.device.world.eager.load(Ordering::SeqCst) {
            self.device.world.run_all();
        }
        Ok(())
    }
}

impl Stream for FakeStream {
    fn copy(&self, copy: Copy) -> Result<(), DeviceError> {
        self.push(Item::Copy(copy))
    }

    fn launch(&self, kernel: Box<dyn FnOnce() + Send>, _busy_ns: u64) -> Result<(), DeviceError> {
        self.push(Item::Launch(kernel))
    }

    fn record(&self) -> Result<Arc<dyn Event>, DeviceError> {
        let event = Arc::new(FakeEvent::default());
        self.push(Item::Record(Arc::clone(&event)))?;
        Ok(event)
    }

    fn wait(&self, event: &Arc<dyn Event>) -> Result<(), DeviceError> {
        self.push(Item::Wait(Arc::clone(event)))
    }

    fn is_idle(&self) -> Result<bool, DeviceError> {
        Ok(self.items.lock().is_empty())
    }
}

type Outcome = Result<(), DeviceError>;

#[derive(Default)]
pub(super) struct FakeEvent {
    state: Mutex<(Option<Outcome>, Vec<Callback>)>,
    done: Condvar,
}

impl std::fmt::Debug for FakeEvent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FakeEvent")
    }
}

impl FakeEvent {
    pub(super) fn complete(&self, result: Result<(), DeviceError>) {
        let callbacks = {
            let mut state = self.state.lock();
            state.0 = Some(result.clone());
            std::mem::take(&mut state.1)
        };
        self.done.notify_all();
        for callback in callbacks {
            callback(result.clone());
        }
    }
}

impl Event for FakeEvent {
    fn is_done(&self) -> Result<bool, DeviceError> {
        match &self.state.lock().0 {
            None => Ok(false),
            Some(result) => result.clone().map(|()| true),
        }
    }

    fn synchronize(&self) -> Result<(), DeviceError> {
        let mut state = self.state.lock();
        loop {
            if let Some(result) = &state.0 {
                return result.clone();
            }
            self.done.wait(&mut state);
        }
    }

    fn on_done(&self, callback: Callback) {
        let mut state = self.state.lock();
        let Some(result) = state.0.clone() else {
            state.1.push(callback);
            return;
        };
        drop(state);
        callback(result);
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// The addresses of a place's elements, in C order.
pub(super) fn addresses(place: &Place, shape: &[usize]) -> Vec<usize> {
    let mut all = vec![place.block.address().wrapping_add(place.offset)];
    for (length, stride) in shape.iter().zip(&place.strides) {
        let step = |start: &usize| {
            let start = *start;
            (0..*length)
                .map(move |i| start.wrapping_add_signed(stride.wrapping_mul(i.cast_signed())))
        };
        all = all.iter().flat_map(step).collect();
    }
    all
}

fn transfer(copy: &Copy) {
    let from = addresses(&copy.source, &copy.shape);
    let to = addresses(&copy.destination, &copy.shape);
    for (from, to) in from.into_iter().zip(to) {
        // SAFETY: both are `item` bytes inside their blocks, which the copy keeps alive, and the places of a copy don't overlap.
        unsafe { std::ptr::copy_nonoverlapping(from as *const u8, to as *mut u8, copy.item) };
    }
}

/// Reads a place of `u32` elements.
pub(super) fn read(place: &Place, shape: &[usize]) -> Vec<u32> {
    let addresses = addresses(place, shape).into_iter();
    // SAFETY: each address is that of an element inside the place's block.
    addresses
        .map(|a| unsafe { (a as *const u32).read_unaligned() })
        .collect()
}

/// Writes all elements of a place of `u32`.
pub(super) fn fill(place: &Place, shape: &[usize], value: u32) {
    for address in addresses(place, shape) {
        // SAFETY: each address is that of an element inside the place's block.
        unsafe { (address as *mut u32).write_unaligned(value) };
    }
}
