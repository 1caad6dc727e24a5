//! Streams, events, kernels.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::mem::ManuallyDrop;
use std::sync::Arc;

use super::{Outcomes, code, current, entered, permitted, put};
use crate::config::{Kind, Outcome, next, skips_wait};
use crate::kernels::{Kernel, NAMES};
use crate::status;
use crate::stream::{Event, Stream, Work};

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
    cuStreamCreate(out: *mut *const c_void, _flags: c_uint) {
        let stream = Stream::start(current()?);
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
    cuStreamWaitEvent(handle: *mut c_void, waited: *mut c_void, _flags: c_uint) {
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
        if flags != 0 {
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
    cuEventCreate(out: *mut *const c_void, _flags: c_uint) {
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
    cuModuleLoadData(out: *mut usize, _image: *const c_void) {
        current()?;
        // SAFETY: the caller's promise. All modules are the same.
        unsafe { put(out, 1) }
    }
    cuModuleGetFunction(out: *mut usize, _module: usize, name: *const c_char) {
        // SAFETY: the caller passes a text.
        let name = unsafe { CStr::from_ptr(name) }.to_string_lossy();
        let known = NAMES.iter().position(|known| *known == name).ok_or(status::NOT_FOUND)?;
        // SAFETY: the caller's promise.
        unsafe { put(out, known + 1) }
    }
    cuLaunchKernel(
        function: usize, _gx: c_uint, _gy: c_uint, _gz: c_uint, _bx: c_uint, _by: c_uint, _bz: c_uint,
        _shared: c_uint, handle: *mut c_void, arguments: *const *const c_void, _extra: *const c_void
    ) {
        // SAFETY: the caller's handle is of a live stream, and the arguments are those of the kernel.
        let (stream, kernel) = unsafe { (stream_for_work(handle)?, Kernel::new(function, arguments)?) };
        match next(Kind::Launch) {
            Outcome::Refused => return Err(status::OUT_OF_RESOURCES),
            Outcome::Illegal => stream.push(Work::Illegal),
            Outcome::Good => {}
        }
        stream.push(Work::Launch(kernel));
        Ok(())
    }
}
