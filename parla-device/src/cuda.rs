//! The GPUs of NVIDIA, through the driver that is found at run time, if there is one.
//!
//! Built on the driver's own functions with a context that CuPy, PyTorch and Numba share (the primary one), made when the first
//! memory or stream is asked for. What is where:
//!
//! * `driver`: the functions, and which errors leave a context unusable.
//! * `physical`: a card with its context, its pools of streams and events, and whether it is lost.
//! * `device`: a logical GPU, with a memory pool of its own; several may share a card (`PARLA_VIRTUAL_GPUS`).
//! * `stream`, `event`, `completion`: the queue, the points in it, and the one thread that notices them.
//! * `upstream`: what a stream relies on beyond its own card. `words`: how it waits for events of other backends.
//! * `shape`: boxes as the driver's copies of one to three dimensions. `staging`: copies from and to memory of the host that is not
//!   page-locked, through pieces that are; `pack` is the host's part of it, `crew` the threads that do it. `occupy`: a kernel that takes a given time. `pinning`: memory of the host that becomes page-locked.
//!
//! Nothing here calls the user's code from a thread of the driver, except functions given to [`Stream::launch`](crate::Stream::launch).

mod completion;
mod crew;
mod device;
mod driver;
mod event;
mod occupy;
mod options;
mod pack;
mod physical;
mod pinning;
mod shape;
mod staging;
mod stream;
mod upstream;
mod words;

use std::sync::Arc;

pub use options::CudaOptions;

use parla_core::Link;

use crate::backend::{Backend, Device};
use device::CudaDevice;
use driver::Driver;
use physical::Physical;

/// The GPUs that NVIDIA's driver offers; none where there is no driver.
#[derive(Debug)]
pub struct CudaBackend {
    // devices[i].index == i
    devices: Vec<Arc<CudaDevice>>,
    unavailable: Option<String>,
}

impl CudaBackend {
    /// Looks for a driver and its devices. Makes no context, starts no thread, prints nothing, never fails:
    /// [`unavailable`](Backend::unavailable) says why there are none.
    #[must_use]
    pub fn probe(options: &CudaOptions) -> Self {
        match Self::find(options) {
            Ok(devices) => Self {
                devices,
                unavailable: None,
            },
            Err(why) => Self {
                devices: Vec::new(),
                unavailable: Some(why),
            },
        }
    }

    fn find(options: &CudaOptions) -> Result<Vec<Arc<CudaDevice>>, String> {
        let driver = Driver::get()?;
        let mut cards = Vec::new();
        for ordinal in 0..driver.count()? {
            // A card without memory pools (older than Pascal) is left out, as is one that does not tell its memory.
            if let Some(card) = Physical::find(driver, ordinal) {
                cards.push(Arc::new(card));
            }
        }
        if cards.is_empty() {
            return Err("no CUDA device with memory pools".to_owned());
        }
        Ok(device::divide(&cards, options))
    }

    /// What a copy costs between the memories of two devices, `None` being the host's. Typical numbers, not measured ones.
    #[must_use]
    pub fn link(&self, from: Option<u32>, to: Option<u32>) -> Link {
        let device = |index: u32| self.devices.get(index as usize);
        let (latency_ns, bytes_per_second, direct) = match (from, to) {
            (None, None) => (500, 10e9, true),
            (Some(from), Some(to)) => match (device(from), device(to)) {
                (Some(from), Some(to)) if from.shares_card(to) => (5_000, 1000e9, true),
                (Some(from), Some(to)) if from.reaches(to) => (10_000, 50e9, true),
                _ => (30_000, 12e9, false),
            },
            _ => (10_000, 24e9, true),
        };
        Link {
            latency_ns,
            bytes_per_second,
            direct,
        }
    }
}

impl Backend for CudaBackend {
    fn architecture(&self) -> &'static str {
        device::ARCHITECTURE
    }

    fn devices(&self) -> Vec<Arc<dyn Device>> {
        self.devices
            .iter()
            .map(|device| Arc::clone(device) as Arc<dyn Device>)
            .collect()
    }

    fn unavailable(&self) -> Option<String> {
        self.unavailable.clone()
    }
}
