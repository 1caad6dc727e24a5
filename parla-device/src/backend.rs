//! The contract between the runtime and whatever can run tasks and hold arrays.
//!
//! A **backend** is one way of reaching devices (the host's CPUs; a GPU vendor's driver; simulated GPUs), found by a probe of its
//! own. A **device** is one place where a task can run, with memory of its own or a share of some. A **stream** is a queue of
//! work for a device that is done in order; an **event** is a point in it. A **block** is a piece of memory.
//!
//! What every backend keeps; `conformance` tests all of it on each:
//!
//! * **Probing never panics, and touches nothing.** It starts no thread, creates no context, prints
//!   nothing. A backend whose hardware or library is absent has no devices, which is no error; an error
//!   is a request of the user that cannot be met, and names the request.
//! * **Devices are fixed after the probe.** Their order, indices, names and capacities do not change while
//!   the backend lives; `devices()[i].index() == i`.
//! * **Names are unique** and read `architecture:index`, as in `cpu:0`: they are what errors and traces
//!   show.
//! * **Capacities are what this process may use**, not what the machine has, and several devices on one
//!   memory share it: their capacities never add up to more than there is.
//! * **The caller validates requests** (capacities, ranges inside blocks) before it makes them. A device reports what
//!   the hardware or the system refused, and never decides where work goes or what to evict.
//! * **Streams are first in, first out**; two streams of one device overlap. Nothing blocks the caller except the methods that say so.
//! * **Whatever a stream still needs stays alive**: a copy holds its blocks until it is done, so a block may be dropped at any time.
//! * **A lost device stays lost**: the first error that leaves its context unusable is what every later call on it returns
//!   ([`DeviceError::Lost`]); events that were outstanding end with it, their callbacks run. Nothing waits for ever.
//! * **Other failures stay on their stream**: where an awaited event ended in an error, a copy's other device was lost, or a function panicked,
//!   the stream skips what follows up to the next event recorded on it, which reports the error; then it goes on. Whoever needs to know records an event.
//! * **Callbacks of events** run on a thread of the backend, never on the caller of a copy; they may call any method here, and must not block.
//!
//! The traits are object-safe, since a dynamic call costs far less than anything it starts.

use std::any::Any;
use std::fmt::Debug;
use std::sync::Arc;

use smallvec::SmallVec;

use crate::DeviceError;

/// One way of reaching devices. The module documentation has the contract.
pub trait Backend: Send + Sync + Debug {
    /// The architecture of all devices here, in lower case, as users write it in placements: `cpu`, `gpu`.
    fn architecture(&self) -> &'static str;

    /// The devices, in the order of their indices; empty when the hardware is absent.
    fn devices(&self) -> Vec<Arc<dyn Device>>;

    /// Why there are no devices, for people; `None` if there are some.
    fn unavailable(&self) -> Option<String> {
        None
    }
}

/// One place where tasks run. The module documentation has the contract.
pub trait Device: Send + Sync + Debug {
    /// The position among the devices of this architecture, from 0.
    fn index(&self) -> u32;

    /// The name shown to users, such as `cpu:0`.
    fn name(&self) -> &str;

    /// What its vendor calls it, such as `NVIDIA H100 PCIe`; the name if nobody does.
    fn model(&self) -> &str {
        self.name()
    }

    /// The bytes that tasks and arrays on this device may use, all of them together.
    fn memory_capacity(&self) -> u64;

    /// The bytes allocated here at this moment through [`allocate`](Self::allocate).
    fn memory_used(&self) -> u64;

    /// Whether code of the host may read and write this device's memory at its address (CPUs, simulated GPUs).
    fn host_access(&self) -> bool;

    /// Whether bodies only enqueue their work on the streams they are given, so that it is enough when their inputs are ready in the
    /// order of the stream (real GPUs). Otherwise a body touches its inputs itself, and they must be there before it starts.
    fn stream_ordered(&self) -> bool;

    /// The number that the vendor's libraries know the physical device by (CUDA's ordinal), if there is one.
    fn ordinal(&self) -> Option<i32> {
        None
    }

    /// The ordinal of the device, this one or another of the same vendor, whose memory has this address. `None`: the vendor knows of none.
    fn ordinal_of(&self, _address: usize) -> Option<i32> {
        None
    }

    /// Makes the vendor's context of this device the calling thread's current one, for libraries that use whatever is current; the contexts that
    /// the thread had before, the current one last. `None`: there is no such thing, or it cannot be made so.
    fn make_current(&self) -> Option<Vec<usize>> {
        None
    }

    /// Gives the same thread the contexts that it had before [`make_current`](Self::make_current), and no others.
    fn restore_current(&self, _before: &[usize]) {}

    /// Blocks until a stream of the vendor's, which another library made, has done what is on it; `stream` is its handle.
    ///
    /// # Errors
    /// [`DeviceError::Lost`]; what the driver says.
    fn synchronize_raw(&self, _stream: usize) -> Result<(), DeviceError> {
        Ok(())
    }

    /// Allocates uninitialised memory, aligned to 256 bytes. May block for as long as the system's allocator does.
    ///
    /// # Errors
    /// [`DeviceError::OutOfMemory`] with the numbers; [`DeviceError::Lost`]; what the driver says.
    fn allocate(&self, bytes: u64) -> Result<Arc<Block>, DeviceError>;

    /// Gives memory that nobody uses, and that is kept here for later, back to the system: for libraries that allocate from that
    /// themselves. May wait until what was dropped so far is free.
    fn release_unused(&self) {}

    /// A new stream, from a pool: dropping it gives it back.
    ///
    /// # Errors
    /// [`DeviceError::Lost`]; what the driver says.
    fn stream(&self) -> Result<Arc<dyn Stream>, DeviceError>;

    /// The error that left this device unusable, if it is.
    fn failure(&self) -> Option<DeviceError> {
        None
    }

    /// Makes known memory of the host that copies to and from this device will use (page-locks it where that pays). Never fails:
    /// copies from memory that is not pinned are slower, not wrong.
    fn pin_host(&self, _block: &Arc<Block>) {}
}

/// A queue of work for one device. The module documentation has the contract.
pub trait Stream: Send + Sync + Debug {
    /// The handle that the vendor's libraries know it by (CUDA's `CUstream`), if there is one.
    fn raw(&self) -> Option<usize> {
        None
    }

    /// Enqueues a copy. One side at least is this stream's device's memory; the other any block of the same process.
    ///
    /// # Errors
    /// [`DeviceError::Lost`]; what the driver says.
    fn copy(&self, copy: Copy) -> Result<(), DeviceError>;

    /// Enqueues a function of the host, which occupies the device's compute engine while it runs, and for `busy_ns` nanoseconds
    /// at least (simulated devices; others ignore the time). The host's processors are free for the rest of that time.
    ///
    /// # Errors
    /// [`DeviceError::Lost`]; what the driver says.
    fn launch(&self, kernel: Box<dyn FnOnce() + Send>, busy_ns: u64) -> Result<(), DeviceError>;

    /// Enqueues a kernel that does nothing for `ns` nanoseconds, during which the GPU, simulated or real, runs no other one and the host's processors
    /// are free. Streams of the host ignore the time. The first time on a real GPU the kernel is loaded, for which the driver may wait until the GPU
    /// has done what it was given.
    ///
    /// # Errors
    /// [`DeviceError::Lost`]; what the driver says.
    fn occupy(&self, ns: u64) -> Result<(), DeviceError> {
        self.launch(Box::new(|| {}), ns)
    }

    /// An event that is done when everything enqueued so far is.
    ///
    /// # Errors
    /// [`DeviceError::Lost`]; what the driver says.
    fn record(&self) -> Result<Arc<dyn Event>, DeviceError>;

    /// What is enqueued from now on waits for the event, which may be of any stream of any backend. Does not block.
    ///
    /// # Errors
    /// [`DeviceError::Lost`]; what the driver says.
    fn wait(&self, event: &Arc<dyn Event>) -> Result<(), DeviceError>;

    /// Blocks until everything enqueued so far is done.
    ///
    /// # Errors
    /// What went wrong on the device meanwhile.
    fn synchronize(&self) -> Result<(), DeviceError> {
        self.record()?.synchronize()
    }

    /// Whether nothing is outstanding. `false` may be out of date at once.
    ///
    /// # Errors
    /// What went wrong on the device meanwhile.
    fn is_idle(&self) -> Result<bool, DeviceError>;
}

/// What to call when an event is done.
pub type Callback = Box<dyn FnOnce(Result<(), DeviceError>) + Send>;

/// A point in a stream. The module documentation has the contract.
pub trait Event: Send + Sync + Debug {
    /// Whether everything before it is done. If so, copies before it hold no memory any more, and so after the other two ways to learn that.
    ///
    /// # Errors
    /// What went wrong on the device meanwhile.
    fn is_done(&self) -> Result<bool, DeviceError>;

    /// Blocks until it is done.
    ///
    /// # Errors
    /// What went wrong on the device meanwhile.
    fn synchronize(&self) -> Result<(), DeviceError>;

    /// Calls `callback` once it is done, on a thread of the backend, or here and now if it is done already.
    fn on_done(&self, callback: Callback);

    /// For backends that recognise their own events.
    fn as_any(&self) -> &dyn Any;
}

/// Who gets a block's memory back.
pub trait Reclaim: Send + Sync {
    /// The block's last user is gone.
    fn reclaim(&self, address: usize, bytes: u64);
}

/// A piece of memory; given back when the last reference goes.
pub struct Block {
    address: usize,
    bytes: u64,
    owner: Box<dyn Reclaim>,
}

impl Block {
    /// Memory of a backend.
    #[must_use]
    pub fn new(address: usize, bytes: u64, owner: Box<dyn Reclaim>) -> Self {
        Self {
            address,
            bytes,
            owner,
        }
    }

    /// Memory of the host that belongs to somebody else, kept alive by `owner`.
    #[must_use]
    pub fn foreign(address: usize, bytes: u64, owner: impl Any + Send + Sync) -> Self {
        Self::new(address, bytes, Box::new(KeptAlive(Box::new(owner))))
    }

    /// Where it begins, in the address space of its device.
    #[must_use]
    pub fn address(&self) -> usize {
        self.address
    }

    /// Its size.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        self.owner.reclaim(self.address, self.bytes);
    }
}

impl Debug for Block {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Block({:#x}, {} bytes)", self.address, self.bytes)
    }
}

/// Keeps foreign memory alive; dropping it is all there is to do.
struct KeptAlive(
    #[expect(dead_code, reason = "it is there to be dropped")] Box<dyn Any + Send + Sync>,
);

impl Reclaim for KeptAlive {
    fn reclaim(&self, _address: usize, _bytes: u64) {}
}

/// Where the elements of a box are: the first at `offset` bytes into the block, the others `strides` bytes apart, which may be
/// negative or zero (a source only).
#[derive(Clone, Debug)]
pub struct Place {
    /// The memory.
    pub block: Arc<Block>,
    /// Bytes from the block's beginning to the first element.
    pub offset: usize,
    /// Bytes from one element to the next along each dimension.
    pub strides: SmallVec<[isize; 4]>,
    /// The device whose memory it is; `None`: the host's.
    pub device: Option<DeviceKey>,
}

/// Tells devices apart, whatever their backend: the architecture's name and the index.
pub type DeviceKey = (&'static str, u32);

/// A copy of a box of elements from one place to another. The places do not overlap.
#[derive(Clone, Debug)]
pub struct Copy {
    /// Bytes per element.
    pub item: usize,
    /// Number of elements along each dimension.
    pub shape: SmallVec<[usize; 4]>,
    /// From where.
    pub source: Place,
    /// To where.
    pub destination: Place,
}

impl Copy {
    /// Number of bytes that travel.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.shape.iter().product::<usize>() as u64 * self.item as u64
    }
}
