//! Streams, events, kernels.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::mem::ManuallyDrop;
use std::sync::Arc;

use super::{CAPABILITY, Outcomes, code, current, entered, may_call, permitted, put};
use crate::config::{Kind, Outcome, config, next, skips_wait};
use crate::kernels::{Kernel, NAMES};
use crate::memory::{Device, is_reachable};
use crate::status;
use crate::stream::{Event, Stream, Work, synchronize_all};

/// The stream of a handle, for work: its context must be the current one.
///
/// # Safety
/// As `stream`.
pub(super) unsafe fn stream_for_work(
    handle: *mut c_void,
) -> Result<ManuallyDrop<Arc<Stream>>, i32> {
    let device = current()?;
    // SAFETY: passed on from the caller.
    let stream = unsafe { stream(handle) }?;
    if std::ptr::eq(stream.device, device) {
        Ok(stream)
    } else {
        Err(status::INVALID_HANDLE)
    }
}

/// # Safety
/// A handle of `cuStreamCreate` that was not given back, or null.
pub(super) unsafe fn stream(handle: *mut c_void) -> Result<ManuallyDrop<Arc<Stream>>, i32> {
    if handle.is_null() {
        return Err(status::INVALID_HANDLE);
    }
    // SAFETY: handles of streams are made by `cuStreamCreate` from an `Arc` whose count they hold.
    Ok(ManuallyDrop::new(unsafe {
        Arc::from_raw(handle.cast::<Stream>())
    }))
}

/// # Safety
/// A handle of `cuEventCreate` that was not given back, or null.
unsafe fn event(handle: *mut c_void) -> Result<ManuallyDrop<Arc<Event>>, i32> {
    if handle.is_null() {
        return Err(status::INVALID_HANDLE);
    }
    // SAFETY: handles of events are made by `cuEventCreate` from an `Arc` whose count they hold.
    Ok(ManuallyDrop::new(unsafe {
        Arc::from_raw(handle.cast::<Event>())
    }))
}

export! {
    cuStreamCreate(out: *mut *const c_void, flags: c_uint) {
        if flags > 1 {
            return Err(status::INVALID_VALUE);
        }
        let device = current()?;
        if next(Kind::Stream) != Outcome::Good {
            return Err(status::OUT_OF_MEMORY);
        }
        let stream = Stream::start(device);
        // SAFETY: the caller's promise.
        unsafe { put(out, Arc::into_raw(stream).cast()) }
    }
    cuStreamDestroy_v2(handle: *mut c_void) {
        entered()?;
        // SAFETY: the caller gives the handle back: what is dropped at the end is its count.
        let stream = ManuallyDrop::into_inner(unsafe { stream(handle) }?);
        stream.close();
        Ok(())
    }
    cuStreamQuery(handle: *mut c_void) {
        permitted()?;
        // SAFETY: the caller's handle is of a live stream.
        let stream = unsafe { stream_for_work(handle) }?;
        if stream.is_idle() { stream.device.check() } else { Err(status::NOT_READY) }
    }
    cuStreamSynchronize(handle: *mut c_void) {
        permitted()?;
        // The default streams, on which nobody puts anything here.
        if matches!(handle as usize, 1 | 2) {
            return current()?.check();
        }
        // SAFETY: the caller's handle is of a live stream.
        let stream = unsafe { stream_for_work(handle) }?;
        stream.synchronize();
        stream.device.check()
    }
    cuStreamWaitEvent(handle: *mut c_void, waited: *mut c_void, flags: c_uint) {
        if flags > 1 {
            return Err(status::INVALID_VALUE);
        }
        // SAFETY: the caller's handles are of a live stream and event.
        let (stream, event) = unsafe { (stream_for_work(handle)?, event(waited)?) };
        if !skips_wait() && let Some(mark) = event.last() {
            stream.push(Work::Wait(mark));
        }
        Ok(())
    }
    cuStreamWaitValue32_v2(handle: *mut c_void, address: u64, value: c_uint, flags: c_uint) {
        // SAFETY: the caller's handle is of a live stream.
        let stream = unsafe { stream_for_work(handle) }?;
        if flags != 0 || !address.is_multiple_of(4) || !is_reachable(address, stream.device) {
            return Err(status::INVALID_VALUE);
        }
        stream.push(Work::WaitValue(address, value));
        Ok(())
    }
    cuLaunchHostFunc(handle: *mut c_void, function: Option<unsafe extern "C" fn(*mut c_void)>, argument: *mut c_void) {
        // SAFETY: the caller's handle is of a live stream.
        let stream = unsafe { stream_for_work(handle) }?;
        let function = function.ok_or(status::INVALID_VALUE)?;
        match next(Kind::Launch) {
            Outcome::Refused => return Err(status::OUT_OF_RESOURCES),
            Outcome::Illegal => stream.push(Work::Illegal),
            Outcome::Good => {}
        }
        stream.push(Work::Call(function, argument as usize));
        Ok(())
    }
    cuEventCreate(out: *mut *const c_void, flags: c_uint) {
        // Between processes (4) only without time (2).
        if flags > 7 || flags & 6 == 4 {
            return Err(status::INVALID_VALUE);
        }
        let event = Event::new(current()?);
        // SAFETY: the caller's promise.
        unsafe { put(out, Arc::into_raw(event).cast()) }
    }
    cuEventDestroy_v2(handle: *mut c_void) {
        entered()?;
        // SAFETY: the caller gives the handle back: what is dropped at the end is its count.
        drop(ManuallyDrop::into_inner(unsafe { event(handle) }?));
        Ok(())
    }
    cuEventRecord(recorded: *mut c_void, handle: *mut c_void) {
        // SAFETY: the caller's handles are of a live stream and event.
        let (stream, event) = unsafe { (stream_for_work(handle)?, event(recorded)?) };
        if !std::ptr::eq(stream.device, event.device) {
            return Err(status::INVALID_HANDLE);
        }
        stream.record(&event);
        Ok(())
    }
    cuEventQuery(handle: *mut c_void) {
        entered()?;
        permitted()?;
        // SAFETY: the caller's handle is of a live event.
        let event = unsafe { event(handle) }?;
        event.device.check()?;
        if event.is_done() { Ok(()) } else { Err(status::NOT_READY) }
    }
    cuEventSynchronize(handle: *mut c_void) {
        entered()?;
        permitted()?;
        // SAFETY: the caller's handle is of a live event.
        let event = unsafe { event(handle) }?;
        if let Some(mark) = event.last() {
            mark.wait();
        }
        event.device.check()
    }
    cuModuleLoadData(out: *mut usize, image: *const c_char) {
        let device = current()?;
        permitted()?;
        synchronize_all(device);
        // SAFETY: the caller passes PTX, which ends in a zero.
        let text = unsafe { CStr::from_ptr(image) }.to_string_lossy();
        // SAFETY: the caller's promise.
        unsafe { put(out, Module::load(&text, device)?) }
    }
    cuModuleGetFunction(out: *mut usize, module: *const Module, name: *const c_char) {
        // SAFETY: the caller passes a text and a module, which stays for ever.
        let (name, module) = unsafe { (CStr::from_ptr(name).to_string_lossy(), &*module) };
        synchronize_all(module.device);
        // SAFETY: the caller's promise.
        unsafe { put(out, module.function(&name)?) }
    }
    cuLaunchKernel(
        function: *const Function, gx: c_uint, gy: c_uint, gz: c_uint, bx: c_uint, by: c_uint, bz: c_uint,
        shared: c_uint, handle: *mut c_void, arguments: *const *const c_void, extra: *const c_void
    ) {
        let threads = u64::from(bx) * u64::from(by) * u64::from(bz);
        let blocks = u64::from(gx) * u64::from(gy) * u64::from(gz);
        if blocks == 0 || !(1..=1024).contains(&threads) || shared > 48 << 10 || !extra.is_null() {
            return Err(status::INVALID_VALUE);
        }
        if function.is_null() {
            return Err(status::INVALID_HANDLE);
        }
        // SAFETY: the caller's handle is of a live stream, the function stays for ever.
        let (stream, function) = unsafe { (stream_for_work(handle)?, &*function) };
        if !std::ptr::eq(stream.device, function.device) {
            return Err(status::INVALID_HANDLE);
        }
        // SAFETY: the arguments are those of the kernel.
        let kernel = unsafe { Kernel::new(function.kernel, arguments)? };
        match next(Kind::Launch) {
            Outcome::Refused => return Err(status::OUT_OF_RESOURCES),
            Outcome::Illegal => stream.push(Work::Illegal),
            Outcome::Good => {}
        }
        stream.push(Work::Launch(kernel));
        Ok(())
    }
}

/// PTX in a context. Modules and functions are never unloaded.
struct Module {
    device: &'static Device,
    /// Numbers of the kernels in it.
    kernels: Vec<usize>,
}

/// A kernel in a context.
struct Function {
    device: &'static Device,
    kernel: usize,
}

impl Module {
    /// Reads PTX; the handle.
    fn load(text: &str, device: &'static Device) -> Result<usize, i32> {
        let number = |directive: &str| -> Option<c_int> {
            let line = text.lines().find_map(|line| line.strip_prefix(directive))?;
            let digits: String = line.chars().filter(char::is_ascii_digit).collect();
            digits.parse().ok()
        };
        let (Some(version), Some(target)) = (number(".version "), number(".target sm_")) else {
            return Err(status::INVALID_PTX);
        };
        // PTX 7.0 came with CUDA 11.0, 8.0 with 12.0, and so on; earlier ones with earlier drivers.
        if version > config().version / 100 - 40 + config().version % 1000 / 10 {
            return Err(status::UNSUPPORTED_PTX);
        }
        if target > CAPABILITY {
            return Err(status::NO_BINARY);
        }
        let has = |name: &str| text.contains(&format!(".entry {name}("));
        let kernels = (0..NAMES.len()).filter(|&i| has(NAMES[i])).collect();
        Ok(Box::into_raw(Box::new(Self { device, kernels })) as usize)
    }

    /// The handle of a kernel.
    fn function(&self, name: &str) -> Result<usize, i32> {
        let mut kernels = self.kernels.iter();
        let kernel = *kernels
            .find(|&&kernel| NAMES[kernel] == name)
            .ok_or(status::NOT_FOUND)?;
        let device = self.device;
        Ok(Box::into_raw(Box::new(Function { device, kernel })) as usize)
    }
}
