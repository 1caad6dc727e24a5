//! Simulated GPUs: memory of their own, streams, engines and links with modelled times, faults on request. Kernels are functions of the host.
//!
//! A simulated GPU has three **engines**: one computes, one copies in, one copies out. An operation occupies its engines for the time that the
//! model says, and what it really does (a copy of bytes, the function of a launch) is done meanwhile; the host's processors are free for the
//! rest, so that eight such GPUs make sense on two cores. A copy between two GPUs occupies the source's engine for copies out
//! and the destination's for copies in; a copy inside one its engine for copies in. Work that takes longer than its modelled time ends when it is done.
//!
//! Memory is real memory of the host, filled with `0xDD` when it is handed out so that a missing copy shows. The capacity is only a limit:
//! nothing is allocated up front. What is given back is kept for the next who asks for as much, as GPU runtimes do.

use std::sync::Arc;
use std::time::Duration;

use crate::backend::{Backend, Block, Copy, Device, Event, Place, Stream};
use crate::error::DeviceError;
use crate::heap::Account;
use crate::queue::{Engines, Lane, Operation, Queues, Work};

mod faults;
mod links;
#[cfg(test)]
mod tests;

use faults::{Armed, parse_faults};
pub use faults::{Fault, FaultKind};
pub use links::SimLinks;

/// More simulated GPUs than this are taken for a mistake.
pub const MAX_SIM_GPUS: usize = 32;

/// What memory is filled with when it is handed out.
pub const SIM_FILL: u8 = 0xDD;

const N_ENGINES: usize = 3;
const COMPUTE: usize = 0;
const IN: usize = 1;
const OUT: usize = 2;

/// What the simulated GPUs are like.
#[derive(Clone, Debug, PartialEq)]
pub struct SimOptions {
    /// Bytes of memory of each; as many as there are GPUs, at most [`MAX_SIM_GPUS`].
    pub memory: Vec<u64>,
    /// How long copies take.
    pub links: SimLinks,
    /// Whether operations take the time that the model says; else they are done as fast as possible.
    pub timed: bool,
    /// Whether memory is filled with [`SIM_FILL`] when it is handed out; else it has whatever was there.
    pub fill: bool,
    /// What is to go wrong, each with the index of its device.
    pub faults: Vec<(u32, Fault)>,
    /// Whether bodies only enqueue launches and copies on their streams, as on real GPUs, and never touch arrays themselves: then tasks
    /// run ahead of the devices. For tests of that.
    pub stream_ordered: bool,
}

impl SimOptions {
    /// Bytes of memory of a simulated GPU unless something else is said.
    pub const DEFAULT_MEMORY: u64 = 2 << 30;

    /// So many GPUs with [`DEFAULT_MEMORY`](Self::DEFAULT_MEMORY) each and the default links, timed.
    #[must_use]
    pub fn new(n_devices: usize) -> Self {
        Self {
            memory: vec![Self::DEFAULT_MEMORY; n_devices],
            links: SimLinks::default(),
            timed: true,
            fill: true,
            faults: Vec::new(),
            stream_ordered: false,
        }
    }

    /// Adds what a text such as `gpu:0 alloc=3; gpu:* copy=2+; gpu:1 lose=40` says; the devices must be there already.
    ///
    /// Each rule names a device (`*`: each of them), what goes wrong (`alloc`, `copy` and `launch` fail, `lose` loses the device) and at which one,
    /// counted from 1: allocations, copies and launches each for themselves, for `lose` copies and launches together. With a `+` all later ones fail too.
    ///
    /// # Errors
    /// What is wrong with the text, in words.
    pub fn add_faults(&mut self, text: &str) -> Result<(), String> {
        self.faults.extend(parse_faults(text, self.memory.len())?);
        Ok(())
    }
}

/// GPUs that are made up.
#[derive(Debug)]
pub struct SimBackend {
    // devices[i].index == i
    devices: Vec<Arc<SimDevice>>,
}

/// A GPU that is made up.
#[derive(Debug)]
pub struct SimDevice {
    core: Arc<Core>,
}

/// What a device and its streams share.
#[derive(Debug)]
struct Core {
    index: u32,
    name: String,
    capacity: u64,
    account: Arc<Account>,
    queues: Arc<Queues>,
    faults: Armed,
    world: Arc<World>,
}

/// What all simulated GPUs have in common.
#[derive(Debug)]
struct World {
    n_devices: u32,
    links: SimLinks,
    timed: bool,
    stream_ordered: bool,
    fill: bool,
}

impl SimBackend {
    /// Makes the GPUs. Starts no thread and allocates no memory of theirs.
    ///
    /// # Errors
    /// [`DeviceError::SimulatedGpus`] for too many, or faults of a GPU that is not there.
    pub fn new(options: &SimOptions) -> Result<Self, DeviceError> {
        let n_devices = options.memory.len();
        let refuse = |problem: String| Err(DeviceError::SimulatedGpus { problem });
        if n_devices > MAX_SIM_GPUS {
            return refuse(format!(
                "{n_devices} were requested, expected 0 to {MAX_SIM_GPUS}"
            ));
        }
        if let Some((index, _)) = options.faults.iter().find(|f| f.0 as usize >= n_devices) {
            return refuse(format!("a fault is for gpu:{index} of {n_devices}"));
        }
        let name = |index: usize| format!("gpu:{index}");
        let queues = Queues::new("gpu", (0..n_devices).map(name).collect(), N_ENGINES);
        let queues = Arc::new(queues);
        let world = Arc::new(World {
            n_devices: n_devices as u32,
            links: options.links.clone(),
            timed: options.timed,
            stream_ordered: options.stream_ordered,
            fill: options.fill,
        });
        let device = |(index, &capacity): (u32, &u64)| {
            let name = name(index as usize);
            let core = Arc::new(Core {
                index,
                account: Account::with_pool(&name, capacity),
                name,
                capacity,
                queues: Arc::clone(&queues),
                faults: Armed::default(),
                world: Arc::clone(&world),
            });
            let device = SimDevice { core };
            for (_, fault) in options.faults.iter().filter(|(whose, _)| *whose == index) {
                device.inject(*fault);
            }
            Arc::new(device)
        };
        Ok(Self {
            devices: (0..).zip(&options.memory).map(device).collect(),
        })
    }

    /// The devices, as what they are.
    #[must_use]
    pub fn sim_devices(&self) -> &[Arc<SimDevice>] {
        &self.devices
    }
}

impl Backend for SimBackend {
    fn architecture(&self) -> &'static str {
        "gpu"
    }

    fn devices(&self) -> Vec<Arc<dyn Device>> {
        let devices = self.devices.iter();
        devices.map(|d| Arc::clone(d) as Arc<dyn Device>).collect()
    }

    fn unavailable(&self) -> Option<String> {
        self.devices
            .is_empty()
            .then(|| "0 simulated GPUs were asked for".to_owned())
    }
}

impl SimDevice {
    /// From now on something is to go wrong here; counting begins now.
    pub fn inject(&self, fault: Fault) {
        self.core.faults.add(fault);
    }

    /// The device is lost now: what is outstanding ends, every later call fails.
    pub fn lose(&self, reason: &str) {
        self.core.queues.lose(self.core.index as usize, reason);
    }

    /// How many streams of all simulated GPUs there have been at one time.
    #[must_use]
    pub fn n_pooled_streams(&self) -> usize {
        self.core.queues.n_lanes()
    }
}

impl Device for SimDevice {
    fn index(&self) -> u32 {
        self.core.index
    }

    fn name(&self) -> &str {
        &self.core.name
    }

    fn memory_capacity(&self) -> u64 {
        self.core.capacity
    }

    fn memory_used(&self) -> u64 {
        self.core.account.used()
    }

    fn host_access(&self) -> bool {
        true
    }

    fn stream_ordered(&self) -> bool {
        self.core.world.stream_ordered
    }

    fn allocate(&self, bytes: u64) -> Result<Arc<Block>, DeviceError> {
        self.failure().map_or(Ok(()), Err)?;
        if self.core.faults.strikes(FaultKind::Allocation) {
            return Err(self.core.account.out_of_memory(bytes));
        }
        let fill = self.core.world.fill.then_some(SIM_FILL);
        self.core.account.allocate(bytes, fill)
    }

    fn stream(&self) -> Result<Arc<dyn Stream>, DeviceError> {
        Ok(Arc::new(SimStream {
            lane: self.core.queues.open(self.core.index as usize)?,
            device: Arc::clone(&self.core),
        }))
    }

    fn failure(&self) -> Option<DeviceError> {
        self.core.queues.failure(self.core.index as usize)
    }
}

impl Core {
    fn driver_error(&self, call: &'static str, reason: String) -> DeviceError {
        DeviceError::Driver {
            device: self.name.clone(),
            call,
            reason,
        }
    }

    /// Counts a call that may be meant to fail.
    fn check(&self, call: &'static str, kind: FaultKind) -> Result<(), DeviceError> {
        if self.faults.strikes(kind) {
            return Err(self.driver_error(call, "an injected fault".to_owned()));
        }
        Ok(())
    }

    /// Which simulated GPU a place is on; `None`: in the host's memory.
    fn gpu_of(&self, place: &Place) -> Result<Option<u32>, DeviceError> {
        match place.device {
            None | Some(("cpu", _)) => Ok(None),
            Some(("gpu", index)) if index < self.world.n_devices => Ok(Some(index)),
            Some((architecture, index)) => {
                let reason = format!("{architecture}:{index} is not one of the simulated GPUs");
                Err(self.driver_error("copy", reason))
            }
        }
    }

    /// The engines of a copy and how long it takes.
    fn route(&self, copy: &Copy) -> Result<(Engines, Duration), DeviceError> {
        let from = self.gpu_of(&copy.source)?;
        let to = self.gpu_of(&copy.destination)?;
        if from != Some(self.index) && to != Some(self.index) {
            let reason = "neither side is memory of this device".to_owned();
            return Err(self.driver_error("copy", reason));
        }
        let mut engines = Engines::new();
        if let Some(from) = from.filter(|_| from != to) {
            engines.push(engine(from, OUT));
        }
        if let Some(to) = to {
            engines.push(engine(to, IN));
        }
        let time = self.world.links.between(from, to).transfer_ns(copy.bytes());
        Ok((engines, self.world.time(time)))
    }

    fn push(
        &self,
        lane: &Lane,
        work: Work,
        engines: Engines,
        busy: Duration,
    ) -> Result<(), DeviceError> {
        let loses = self.faults.strikes(FaultKind::Loss).then(|| {
            Box::new(DeviceError::Lost {
                device: self.name.clone(),
                reason: "an injected fault".to_owned(),
            })
        });
        lane.push(Operation {
            work,
            engines,
            busy,
            loses,
        })
    }
}

fn engine(device: u32, kind: usize) -> usize {
    device as usize * N_ENGINES + kind
}

impl World {
    fn time(&self, nanoseconds: u64) -> Duration {
        Duration::from_nanos(if self.timed { nanoseconds } else { 0 })
    }
}

/// A stream of a simulated GPU.
#[derive(Debug)]
struct SimStream {
    lane: Lane,
    device: Arc<Core>,
}

impl Stream for SimStream {
    fn copy(&self, copy: Copy) -> Result<(), DeviceError> {
        let (engines, busy) = self.device.route(&copy)?;
        self.device.check("copy", FaultKind::Copy)?;
        self.device
            .push(&self.lane, Work::Copy(Box::new(copy)), engines, busy)
    }

    fn launch(&self, kernel: Box<dyn FnOnce() + Send>, busy_ns: u64) -> Result<(), DeviceError> {
        self.device.check("launch", FaultKind::Launch)?;
        let engines = Engines::from_slice(&[engine(self.device.index, COMPUTE)]);
        let busy = self.device.world.time(busy_ns);
        self.device
            .push(&self.lane, Work::Kernel(kernel), engines, busy)
    }

    fn record(&self) -> Result<Arc<dyn Event>, DeviceError> {
        self.lane.record()
    }

    fn wait(&self, event: &Arc<dyn Event>) -> Result<(), DeviceError> {
        self.lane.wait(event)
    }

    fn is_idle(&self) -> Result<bool, DeviceError> {
        self.lane.is_idle()
    }
}
