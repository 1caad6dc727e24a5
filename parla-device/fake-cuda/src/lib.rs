//! A CUDA driver of our own, for tests on machines without a GPU: as much of `libcuda.so.1` as Parla uses.
//!
//! Device memory is host memory at addresses that fault when the host's code uses them. Each stream is a thread that takes its
//! time, so that a missing wait is seen. Pageable memory of the host is read at the call and page-locked memory late, as on a real
//! device. The module `config` has the environment variables that describe the machine and make it fail.
//!
//! The same library plays a profiler's (`nvtx`): what `NVTX_INJECTION64_PATH` names.
//!
//! Functions that begin with `fakeCuda` are for tests: they tell what is alive, and run functions of the host as kernels.

mod config;
mod copies;
mod driver;
mod kernels;
mod memory;
mod nvtx;
mod stream;

/// Results of the driver that occur here.
mod status {
    pub(crate) const INVALID_VALUE: i32 = 1;
    pub(crate) const OUT_OF_MEMORY: i32 = 2;
    pub(crate) const NO_DEVICE: i32 = 100;
    pub(crate) const INVALID_DEVICE: i32 = 101;
    pub(crate) const INVALID_CONTEXT: i32 = 201;
    pub(crate) const INVALID_HANDLE: i32 = 400;
    pub(crate) const NOT_FOUND: i32 = 500;
    pub(crate) const NOT_READY: i32 = 600;
    pub(crate) const ILLEGAL_ADDRESS: i32 = 700;
    pub(crate) const ALREADY_REGISTERED: i32 = 712;
    pub(crate) const NOT_REGISTERED: i32 = 713;
    pub(crate) const OUT_OF_RESOURCES: i32 = 701;
    pub(crate) const NOT_SUPPORTED: i32 = 801;
    pub(crate) const CAPTURE_UNSUPPORTED: i32 = 900;
}
