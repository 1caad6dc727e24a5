//! A CUDA driver of our own, for tests on machines without a GPU: as much of `libcuda.so.1` as Parla uses.
//!
//! Device memory is host memory at addresses that fault when the host's code uses them. Each stream is a thread that takes its
//! time, so that a missing wait is seen. Pageable memory of the host is read at the call and page-locked memory late, as on a real
//! device. The module `config` has the environment variables that describe the machine and make it fail.
//!
//! What NVIDIA's reference forbids, or leaves open, goes wrong here. A program that uses this driver is therefore known to keep these rules:
//!
//! * `cuInit` comes first. A fork does not call the driver (the process is aborted).
//! * Work is enqueued with the stream's own context current. Handles belong to the context that they were made in.
//! * A function that a stream calls does not use the driver (`CUDA_ERROR_NOT_PERMITTED`) and waits for no other such function: they are
//!   called one at a time.
//! * What frees page-locked memory, or device memory without a stream, and what loads kernels, waits for all of the context's streams: nobody does
//!   so who has to go on for these streams to end.
//! * What was freed to a pool stays with it. The card, and with it every other library, has it again when the pool is trimmed after
//!   its stream was waited for (or holds more than its threshold then).
//! * Kernels use memory of other cards' pools only after `cuMemPoolSetAccess`. Copies between cards name both contexts, and the functions for
//!   copies inside a card or with the host get no other addresses.
//! * Pitches and heights of boxes are at least what is copied of them. No copy overlaps itself.
//! * PTX is text that ends in a zero, for an interface and a GPU that are not newer than the driver and the device, and has the kernels
//!   that are asked for; a launch has at least one block and thread, and at most 1024 threads in a block.
//! * Flags are those that exist; sizes of page-locked memory are not 0.
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
mod pool;
mod stream;

/// Results of the driver that occur here.
mod status {
    pub(crate) const INVALID_VALUE: i32 = 1;
    pub(crate) const OUT_OF_MEMORY: i32 = 2;
    pub(crate) const NOT_INITIALIZED: i32 = 3;
    pub(crate) const NO_DEVICE: i32 = 100;
    pub(crate) const INVALID_DEVICE: i32 = 101;
    pub(crate) const INVALID_CONTEXT: i32 = 201;
    pub(crate) const NO_BINARY: i32 = 209;
    pub(crate) const INVALID_PTX: i32 = 218;
    pub(crate) const UNSUPPORTED_PTX: i32 = 222;
    pub(crate) const INVALID_HANDLE: i32 = 400;
    pub(crate) const NOT_FOUND: i32 = 500;
    pub(crate) const NOT_READY: i32 = 600;
    pub(crate) const ILLEGAL_ADDRESS: i32 = 700;
    pub(crate) const ALREADY_REGISTERED: i32 = 712;
    pub(crate) const NOT_REGISTERED: i32 = 713;
    pub(crate) const OUT_OF_RESOURCES: i32 = 701;
    pub(crate) const NOT_PERMITTED: i32 = 800;
    pub(crate) const NOT_SUPPORTED: i32 = 801;
    pub(crate) const CAPTURE_UNSUPPORTED: i32 = 900;
}
