//! The exported functions.

use std::cell::RefCell;
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::mem::ManuallyDrop;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use cudarc::driver::sys::{
    CUDA_MEMCPY2D, CUDA_MEMCPY3D, CUDA_MEMCPY3D_PEER, CUmemAccessDesc, CUmemPoolProps, CUmemorytype,
};

use crate::config::{Kind, Outcome, config, next, skips_wait};
use crate::copies::{Rows, Side};
use crate::kernels::{Kernel, NAMES};
use crate::memory::{self, Device, devices};
use crate::status;
use crate::stream::{Event, Stream, Work, n_live};

thread_local! {
    static CONTEXTS: RefCell<Vec<usize>> = const { RefCell::new(Vec::new()) };
}

type Outcomes = Result<(), i32>;

fn code(outcome: Outcomes) -> i32 {
    outcome.err().unwrap_or(0)
}

/// The device whose context is current.
fn current() -> Result<&'static Device, i32> {
    let top = CONTEXTS
        .with_borrow(|stack| stack.last().copied())
        .unwrap_or(0);
    let device = Device::of(top).ok_or(status::INVALID_CONTEXT)?;
    if device.retained.load(Ordering::SeqCst) == 0 {
        return Err(status::INVALID_CONTEXT);
    }
    device.check().map(|()| device)
}

/// The stream of a handle, for work: its context must be the current one.
unsafe fn stream_for_work(handle: *mut c_void) -> Result<ManuallyDrop<Arc<Stream>>, i32> {
    let device = current()?;
    // SAFETY: passed on from the caller.
    let stream = unsafe { stream(handle) }?;
    if std::ptr::eq(stream.device, device) {
        Ok(stream)
    } else {
        Err(status::INVALID_HANDLE)
    }
}

unsafe fn stream(handle: *mut c_void) -> Result<ManuallyDrop<Arc<Stream>>, i32> {
    if handle.is_null() {
        return Err(status::INVALID_HANDLE);
    }
    // SAFETY: handles of streams are made by `cuStreamCreate` from an `Arc` whose count they hold.
    Ok(ManuallyDrop::new(unsafe {
        Arc::from_raw(handle.cast::<Stream>())
    }))
}

unsafe fn event(handle: *mut c_void) -> Result<ManuallyDrop<Arc<Event>>, i32> {
    if handle.is_null() {
        return Err(status::INVALID_HANDLE);
    }
    // SAFETY: handles of events are made by `cuEventCreate` from an `Arc` whose count they hold.
    Ok(ManuallyDrop::new(unsafe {
        Arc::from_raw(handle.cast::<Event>())
    }))
}

unsafe fn put<T>(out: *mut T, value: T) -> Outcomes {
    if out.is_null() {
        return Err(status::INVALID_VALUE);
    }
    // SAFETY: the caller passes a place for the value.
    unsafe { out.write(value) };
    Ok(())
}

fn device(ordinal: c_int) -> Result<&'static Device, i32> {
    usize::try_from(ordinal)
        .ok()
        .and_then(|i| devices().get(i))
        .ok_or(status::INVALID_DEVICE)
}

/// Defines exported functions whose bodies give a `Result`. What callers promise is what NVIDIA's documentation demands of them.
macro_rules! export {
    ($($name:ident($($argument:ident: $kind:ty),*) $body:block)*) => {$(
        #[unsafe(no_mangle)]
        unsafe extern "C" fn $name($($argument: $kind),*) -> c_int {
            let perform = move || -> Outcomes { $body };
            code(perform())
        }
    )*};
}

export! {
    cuInit(_flags: c_uint) {
        if config().n_devices == 0 { Err(status::NO_DEVICE) } else { Ok(()) }
    }
    cuDriverGetVersion(out: *mut c_int) {
        // SAFETY: the caller's promise.
        unsafe { put(out, config().version) }
    }
    cuDeviceGetCount(out: *mut c_int) {
        // SAFETY: the caller's promise.
        unsafe { put(out, config().n_devices as c_int) }
    }
    cuDeviceGet(out: *mut c_int, ordinal: c_int) {
        device(ordinal)?;
        // SAFETY: the caller's promise.
        unsafe { put(out, ordinal) }
    }
    cuDeviceGetName(out: *mut c_char, length: c_int, ordinal: c_int) {
        device(ordinal)?;
        let name = b"Parla's fake GPU\0";
        if (length as usize) < name.len() {
            return Err(status::INVALID_VALUE);
        }
        // SAFETY: the caller's buffer has `length` bytes.
        unsafe { out.cast::<u8>().copy_from(name.as_ptr(), name.len()) };
        Ok(())
    }
    cuDeviceTotalMem_v2(out: *mut usize, ordinal: c_int) {
        device(ordinal)?;
        // SAFETY: the caller's promise.
        unsafe { put(out, config().memory as usize) }
    }
    cuDeviceGetAttribute(out: *mut c_int, attribute: c_int, ordinal: c_int) {
        device(ordinal)?;
        let value = match attribute {
            11 => c_int::MAX, // the largest pitch
            41 | 115 => 1, // unified addressing, memory pools
            _ => 0,
        };
        // SAFETY: the caller's promise.
        unsafe { put(out, value) }
    }
    cuDeviceCanAccessPeer(out: *mut c_int, from: c_int, to: c_int) {
        let (from, to) = (device(from)?, device(to)?);
        // SAFETY: the caller's promise.
        unsafe { put(out, c_int::from(config().peer && from.ordinal != to.ordinal)) }
    }
    cuDevicePrimaryCtxRetain(out: *mut usize, ordinal: c_int) {
        let device = device(ordinal)?;
        device.retained.fetch_add(1, Ordering::SeqCst);
        // SAFETY: the caller's promise.
        unsafe { put(out, device.handle()) }
    }
    cuDevicePrimaryCtxRelease_v2(ordinal: c_int) {
        device(ordinal)?.retained.fetch_sub(1, Ordering::SeqCst);
        Ok(())
    }
    cuCtxPushCurrent_v2(context: usize) {
        Device::of(context).ok_or(status::INVALID_CONTEXT)?;
        CONTEXTS.with_borrow_mut(|stack| stack.push(context));
        Ok(())
    }
    cuCtxPopCurrent_v2(out: *mut usize) {
        let top = CONTEXTS.with_borrow_mut(Vec::pop).ok_or(status::INVALID_CONTEXT)?;
        // SAFETY: the caller's promise; null is allowed here.
        if out.is_null() { Ok(()) } else { unsafe { put(out, top) } }
    }
    cuCtxSetCurrent(context: usize) {
        CONTEXTS.with_borrow_mut(|stack| {
            stack.pop();
            if context != 0 {
                stack.push(context);
            }
        });
        Ok(())
    }
    cuCtxGetCurrent(out: *mut usize) {
        let top = CONTEXTS.with_borrow(|stack| stack.last().copied()).unwrap_or(0);
        // SAFETY: the caller's promise.
        unsafe { put(out, top) }
    }
    cuStreamCreate(out: *mut *const c_void, _flags: c_uint) {
        let stream = Stream::start(current()?);
        // SAFETY: the caller's promise.
        unsafe { put(out, Arc::into_raw(stream).cast()) }
    }
    cuStreamDestroy_v2(handle: *mut c_void) {
        // SAFETY: the caller gives the handle back: what is dropped at the end is its count.
        let stream = ManuallyDrop::into_inner(unsafe { stream(handle) }?);
        stream.close();
        Ok(())
    }
    cuStreamQuery(handle: *mut c_void) {
        // SAFETY: the caller's handle is of a live stream.
        let stream = unsafe { stream_for_work(handle) }?;
        if stream.is_idle() { stream.device.check() } else { Err(status::NOT_READY) }
    }
    cuStreamSynchronize(handle: *mut c_void) {
        // SAFETY: the caller's handle is of a live stream.
        let stream = unsafe { stream_for_work(handle) }?;
        stream.synchronize();
        stream.device.check()
    }
    cuStreamWaitEvent(handle: *mut c_void, waited: *mut c_void, _flags: c_uint) {
        // SAFETY: the caller's handles are of a live stream and event.
        let (stream, event) = unsafe { (stream_for_work(handle)?, event(waited)?) };
        if !skips_wait() {
            stream.push(Work::Wait(Arc::clone(&event), event.last()));
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
        // SAFETY: the caller's handle is of a live event.
        let event = unsafe { event(handle) }?;
        event.device.check()?;
        if event.is_done() { Ok(()) } else { Err(status::NOT_READY) }
    }
    cuEventSynchronize(handle: *mut c_void) {
        // SAFETY: the caller's handle is of a live event.
        let event = unsafe { event(handle) }?;
        event.wait(event.last());
        event.device.check()
    }
    cuMemPoolCreate(out: *mut *const Device, properties: *const CUmemPoolProps) {
        // SAFETY: the caller's promise.
        let ordinal = unsafe { (*properties).location.id };
        let device = device(ordinal)?;
        device.check()?;
        // SAFETY: the caller's promise. A pool is nothing but its device.
        unsafe { put(out, device) }
    }
    cuMemPoolDestroy(_pool: *const Device) { Ok(()) }
    cuMemPoolTrimTo(_pool: *const Device, _bytes: usize) { Ok(()) }
    cuMemPoolSetAttribute(_pool: *const Device, _attribute: c_int, _value: *mut c_void) { Ok(()) }
    cuMemPoolSetAccess(_pool: *const Device, _access: *const CUmemAccessDesc, _n: usize) {
        if config().peer { Ok(()) } else { Err(status::INVALID_DEVICE) }
    }
    cuMemAllocFromPoolAsync(out: *mut u64, bytes: usize, _pool: *const Device, handle: *mut c_void) {
        // SAFETY: the caller's handle is of a live stream.
        let stream = unsafe { stream_for_work(handle) }?;
        if bytes == 0 {
            return Err(status::INVALID_VALUE);
        }
        if next(Kind::Alloc) != Outcome::Good {
            return Err(status::OUT_OF_MEMORY);
        }
        let address = stream.device.allocate(bytes as u64)?;
        stream.push(Work::Fill(address, 0xDD, bytes as u64));
        // SAFETY: the caller's promise.
        unsafe { put(out, address) }
    }
    cuMemFreeAsync(address: u64, handle: *mut c_void) {
        // SAFETY: the caller's handle is of a live stream.
        unsafe { stream_for_work(handle) }?.push(Work::Free(address));
        Ok(())
    }
    cuMemGetInfo_v2(free: *mut usize, total: *mut usize) {
        let used = current()?.used.load(Ordering::SeqCst);
        // SAFETY: the caller's promise.
        unsafe { put(free, (config().memory - used) as usize)?; put(total, config().memory as usize) }
    }
    cuMemHostAlloc(out: *mut usize, bytes: usize, _flags: c_uint) {
        current()?;
        // SAFETY: the caller's promise.
        unsafe { put(out, memory::allocate_pinned(bytes)) }
    }
    cuMemFreeHost(address: usize) { memory::free_pinned(address) }
    cuMemHostRegister_v2(address: usize, bytes: usize, _flags: c_uint) {
        current()?;
        memory::register(address, bytes)
    }
    cuMemHostUnregister(address: usize) { memory::unregister(address) }
    cuMemHostGetDevicePointer_v2(out: *mut u64, address: usize, _flags: c_uint) {
        if !memory::is_pinned(address as u64, 1) {
            return Err(status::INVALID_VALUE);
        }
        // SAFETY: the caller's promise.
        unsafe { put(out, address as u64) }
    }
    cuMemcpyHtoDAsync_v2(to: u64, from: *const c_void, bytes: usize, handle: *mut c_void) {
        // SAFETY: passed on from the caller.
        unsafe { copy(Rows::line(to, from as u64, bytes as u64), handle) }
    }
    cuMemcpyDtoHAsync_v2(to: *mut c_void, from: u64, bytes: usize, handle: *mut c_void) {
        // SAFETY: passed on from the caller.
        unsafe { copy(Rows::line(to as u64, from, bytes as u64), handle) }
    }
    cuMemcpyDtoDAsync_v2(to: u64, from: u64, bytes: usize, handle: *mut c_void) {
        // SAFETY: passed on from the caller.
        unsafe { copy(Rows::line(to, from, bytes as u64), handle) }
    }
    cuMemcpyPeerAsync(to: u64, _there: usize, from: u64, _here: usize, bytes: usize, handle: *mut c_void) {
        // SAFETY: passed on from the caller.
        unsafe { copy(Rows::line(to, from, bytes as u64), handle) }
    }
    cuMemcpy2DAsync_v2(what: *const CUDA_MEMCPY2D, handle: *mut c_void) {
        // SAFETY: the caller's promise.
        let c = unsafe { &*what };
        let rows = Rows {
            source: side(c.srcMemoryType, c.srcHost as u64, c.srcDevice, [c.srcXInBytes, c.srcY, 0], c.srcPitch, 0),
            destination: side(c.dstMemoryType, c.dstHost as u64, c.dstDevice, [c.dstXInBytes, c.dstY, 0], c.dstPitch, 0),
            width: c.WidthInBytes as u64,
            height: c.Height as u64,
            depth: 1,
        };
        // SAFETY: passed on from the caller.
        unsafe { copy(rows, handle) }
    }
    cuMemcpy3DAsync_v2(what: *const CUDA_MEMCPY3D, handle: *mut c_void) {
        // SAFETY: the caller's promise.
        let c = unsafe { &*what };
        let rows = Rows {
            source: side(c.srcMemoryType, c.srcHost as u64, c.srcDevice, [c.srcXInBytes, c.srcY, c.srcZ], c.srcPitch, c.srcHeight),
            destination: side(c.dstMemoryType, c.dstHost as u64, c.dstDevice, [c.dstXInBytes, c.dstY, c.dstZ], c.dstPitch, c.dstHeight),
            width: c.WidthInBytes as u64,
            height: c.Height as u64,
            depth: c.Depth as u64,
        };
        // SAFETY: passed on from the caller.
        unsafe { copy(rows, handle) }
    }
    cuMemcpy3DPeerAsync(what: *const CUDA_MEMCPY3D_PEER, handle: *mut c_void) {
        // SAFETY: the caller's promise.
        let c = unsafe { &*what };
        let rows = Rows {
            source: side(c.srcMemoryType, c.srcHost as u64, c.srcDevice, [c.srcXInBytes, c.srcY, c.srcZ], c.srcPitch, c.srcHeight),
            destination: side(c.dstMemoryType, c.dstHost as u64, c.dstDevice, [c.dstXInBytes, c.dstY, c.dstZ], c.dstPitch, c.dstHeight),
            width: c.WidthInBytes as u64,
            height: c.Height as u64,
            depth: c.Depth as u64,
        };
        // SAFETY: passed on from the caller.
        unsafe { copy(rows, handle) }
    }
    cuGetErrorName(error: c_int, out: *mut *const c_char) {
        // SAFETY: the caller's promise.
        unsafe { put(out, texts(error).0.as_ptr()) }
    }
    cuGetErrorString(error: c_int, out: *mut *const c_char) {
        // SAFETY: the caller's promise.
        unsafe { put(out, texts(error).1.as_ptr()) }
    }
    cuGetExportTable(_out: *mut *const c_void, _table: *const c_void) { Err(status::NOT_FOUND) }
    cuGetProcAddress_v2(
        _name: *const c_char, out: *mut *const c_void, _version: c_int, _flags: u64, _status: *mut c_int
    ) {
        // SAFETY: the caller's promise. Who asks in this way does without.
        unsafe { put(out, std::ptr::null()) }?;
        Err(status::NOT_FOUND)
    }
    cuCtxSynchronize() { current().map(drop) }
    cuMemAlloc_v2(out: *mut u64, bytes: usize) {
        let address = current()?.allocate(bytes as u64)?;
        // SAFETY: the caller's promise.
        unsafe { put(out, address) }
    }
    cuMemFree_v2(address: u64) { current()?.free(address) }
    cuPointerGetAttribute(out: *mut c_void, attribute: c_int, address: u64) {
        let (start, length) = memory::pinned_around(address as usize).ok_or(status::INVALID_VALUE)?;
        // SAFETY: the caller passes a place for a value of the attribute's type.
        unsafe {
            match attribute {
                // The kind of memory (the host's); where it begins; its size.
                2 => put(out.cast::<c_uint>(), 1),
                11 => put(out.cast::<usize>(), start),
                12 => put(out.cast::<usize>(), length),
                _ => Err(status::INVALID_VALUE),
            }
        }
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
    // Runs a function of the host as a kernel.
    fakeCudaLaunch(handle: *mut c_void, kernel: Option<unsafe extern "C" fn(*mut c_void)>, argument: *mut c_void) {
        // SAFETY: the caller's handle is of a live stream.
        let stream = unsafe { stream(handle) }?;
        stream.device.check()?;
        stream.push(Work::Call(kernel.ok_or(status::INVALID_VALUE)?, argument as usize));
        Ok(())
    }
    // Makes the stream's context unusable once it gets there.
    fakeCudaCrash(handle: *mut c_void) {
        // SAFETY: the caller's handle is of a live stream.
        unsafe { stream(handle) }?.push(Work::Illegal);
        Ok(())
    }
    // Where kernels find the bytes of a device.
    fakeCudaResolve(address: u64, bytes: u64, out: *mut *mut u8) {
        // SAFETY: the caller's promise.
        unsafe { put(out, memory::resolve(address, bytes)?) }
    }
    // What is alive: streams, events, pieces of device memory, pieces of page-locked memory, contexts.
    fakeCudaLive(out: *mut [u64; 5]) {
        let (streams, events) = n_live();
        let contexts = devices().iter().filter(|device| device.retained.load(Ordering::SeqCst) > 0);
        let counts = [streams, events, memory::n_allocations(), memory::n_pinned(), contexts.count()];
        // SAFETY: the caller's promise.
        unsafe { put(out, counts.map(|count| count as u64)) }
    }
}

fn side(
    kind: CUmemorytype,
    host: u64,
    device: u64,
    at: [usize; 3],
    pitch: usize,
    height: usize,
) -> Side {
    let start = if kind == CUmemorytype::CU_MEMORYTYPE_HOST {
        host
    } else {
        device
    };
    let [x, y, z] = at.map(|at| at as u64);
    let (pitch, slice) = (pitch as u64, (pitch * height) as u64);
    Side {
        address: start + z * slice + y * pitch + x,
        pitch,
        slice,
    }
}

unsafe fn copy(rows: Rows, handle: *mut c_void) -> Outcomes {
    // SAFETY: the caller's handle is of a live stream.
    let stream = unsafe { stream_for_work(handle) }?;
    if !rows.is_sane() {
        return Err(status::INVALID_VALUE);
    }
    match next(Kind::Copy) {
        Outcome::Refused => return Err(status::INVALID_VALUE),
        Outcome::Illegal => stream.push(Work::Illegal),
        Outcome::Good => {}
    }
    if rows.is_pageable(&rows.source) {
        stream.push(Work::CopyOf(rows.gather()?, rows));
    } else {
        stream.push(Work::Copy(rows));
    }
    if rows.is_pageable(&rows.destination) {
        stream.synchronize();
    }
    Ok(())
}

fn texts(error: c_int) -> (&'static CStr, &'static CStr) {
    match error {
        0 => (c"CUDA_SUCCESS", c"no error"),
        status::INVALID_VALUE => (c"CUDA_ERROR_INVALID_VALUE", c"invalid argument"),
        status::OUT_OF_MEMORY => (c"CUDA_ERROR_OUT_OF_MEMORY", c"out of memory"),
        status::NO_DEVICE => (
            c"CUDA_ERROR_NO_DEVICE",
            c"no CUDA-capable device is detected",
        ),
        status::INVALID_CONTEXT => (c"CUDA_ERROR_INVALID_CONTEXT", c"invalid device context"),
        status::INVALID_HANDLE => (c"CUDA_ERROR_INVALID_HANDLE", c"invalid resource handle"),
        status::NOT_READY => (c"CUDA_ERROR_NOT_READY", c"device not ready"),
        status::ILLEGAL_ADDRESS => (
            c"CUDA_ERROR_ILLEGAL_ADDRESS",
            c"an illegal memory access was encountered",
        ),
        status::OUT_OF_RESOURCES => (
            c"CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES",
            c"too many resources requested for launch",
        ),
        _ => (c"CUDA_ERROR_UNKNOWN", c"unknown error"),
    }
}
