//! The one kernel that Parla brings along: it takes a given time. Models of programs are made of it (`parla.sim.kernel`, `parla.graphs`).

use std::ptr;

use super::driver::{Driver, Failure, Handle, check};

const IMAGE: &str = concat!(include_str!("occupy.ptx"), "\0");

/// The kernel, for the current context. It stays loaded as long as the context.
pub(super) fn load(driver: &Driver) -> Result<Handle, Failure> {
    let (mut module, mut kernel) = (0, 0);
    // SAFETY: a context is current; a text that ends in a zero; each writes one handle.
    unsafe {
        check(
            "cuModuleLoadData",
            (driver.module_load)(&raw mut module, IMAGE.as_ptr().cast()),
        )?;
        check(
            "cuModuleGetFunction",
            (driver.module_function)(&raw mut kernel, module, c"spin".as_ptr()),
        )?;
    }
    Ok(kernel)
}

/// Threads of a block: a part of what any multiprocessor holds.
const BLOCK: u32 = 256;
/// Attributes of devices.
const N_MULTIPROCESSORS: i32 = 16;
const THREADS_PER_MULTIPROCESSOR: i32 = 39;

/// The blocks that fill a card, so that another kernel begins when this one ends.
pub(super) fn blocks(driver: &Driver, ordinal: i32) -> u32 {
    let [processors, threads] = [N_MULTIPROCESSORS, THREADS_PER_MULTIPROCESSOR]
        .map(|attribute| u32::try_from(driver.attribute(attribute, ordinal)).unwrap_or(0));
    (processors * (threads / BLOCK)).max(1)
}

/// Enqueues it, in so many blocks.
pub(super) fn launch(
    driver: &Driver,
    kernel: Handle,
    blocks: u32,
    stream: Handle,
    ns: u64,
) -> Result<(), Failure> {
    let arguments = [(&raw const ns).cast()];
    // SAFETY: `kernel` takes one number of 64 bits, which the driver copies during the call.
    check("cuLaunchKernel", unsafe {
        (driver.launch_kernel)(
            kernel,
            blocks,
            1,
            1,
            BLOCK,
            1,
            1,
            0,
            stream,
            arguments.as_ptr(),
            ptr::null(),
        )
    })
}
