//! Memory of devices and of the host, and copies.

use std::ffi::{c_int, c_uint, c_void};
use std::mem::ManuallyDrop;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use cudarc::driver::sys::{
    CUDA_MEMCPY3D, CUDA_MEMCPY3D_PEER, CUmemAccessDesc, CUmemAllocationType, CUmemLocation,
    CUmemLocationType, CUmemPoolProps, CUmemorytype,
};

use super::streams::stream_for_work;
use super::{Outcomes, code, current, device, entered, may_call, permitted, put};
use crate::config::{Kind, Outcome, config, next};
use crate::copies::{Rows, Side};
use crate::memory::{self, Device};
use crate::pool::Pool;
use crate::status;
use crate::stream::{Work, synchronize_all};

/// The rows that a description of a box means, within a device or between two.
macro_rules! boxed {
    ($what:expr) => {{
        let c = $what;
        Rows {
            source: side(
                c.srcMemoryType,
                c.srcHost as u64,
                c.srcDevice,
                [c.srcXInBytes, c.srcY, c.srcZ],
                c.srcPitch,
                c.srcHeight,
            ),
            destination: side(
                c.dstMemoryType,
                c.dstHost as u64,
                c.dstDevice,
                [c.dstXInBytes, c.dstY, c.dstZ],
                c.dstPitch,
                c.dstHeight,
            ),
            width: c.WidthInBytes as u64,
            height: c.Height as u64,
            depth: c.Depth as u64,
        }
    }};
}

export! {
    cuMemPoolCreate(out: *mut *const Pool, properties: *const CUmemPoolProps) {
        // SAFETY: the caller's promise.
        let (location, kind) = unsafe { ((*properties).location, (*properties).allocType) };
        if kind != CUmemAllocationType::CU_MEM_ALLOCATION_TYPE_PINNED {
            return Err(status::INVALID_VALUE);
        }
        let device = located(location)?;
        device.check()?;
        // SAFETY: the caller's promise.
        unsafe { put(out, Arc::into_raw(Pool::new(device))) }
    }
    cuMemPoolDestroy(handle: *const Pool) {
        // SAFETY: the caller gives the handle back: what is dropped at the end is its count.
        let pool = unsafe { Arc::from_raw(handle) };
        pool.destroy();
        Ok(())
    }
    cuMemPoolTrimTo(handle: *const Pool, bytes: usize) {
        // SAFETY: the caller's handle is of a live pool.
        unsafe { pool(handle) }?.trim(bytes as u64);
        Ok(())
    }
    cuMemPoolSetAttribute(handle: *const Pool, attribute: c_int, value: *mut c_void) {
        // SAFETY: the caller's handle is of a live pool.
        let pool = unsafe { pool(handle) }?;
        match attribute {
            // What may be used again when: numbers of 32 bits.
            1..=3 => {}
            // SAFETY: a number of 64 bits.
            4 => pool.set_threshold(unsafe { value.cast::<u64>().read() }),
            _ => return Err(status::INVALID_VALUE),
        }
        Ok(())
    }
    cuMemPoolSetAccess(handle: *const Pool, access: *const CUmemAccessDesc, n: usize) {
        // SAFETY: the caller's handle is of a live pool, and it passes so many descriptions.
        let (pool, all) = unsafe { (pool(handle)?, std::slice::from_raw_parts(access, n)) };
        for access in all {
            let (with, may) = (located(access.location)?, access.flags as c_uint == 3);
            let own = std::ptr::eq(with, pool.device);
            if own && !may || access.flags as c_uint == 1 {
                return Err(status::INVALID_VALUE);
            }
            if !own && !config().peer {
                return Err(status::INVALID_DEVICE);
            }
            pool.share(with.ordinal, may);
        }
        Ok(())
    }
    cuMemAllocFromPoolAsync(out: *mut u64, bytes: usize, from: *const Pool, handle: *mut c_void) {
        // SAFETY: the caller's handles are of a live stream and pool.
        let (stream, pool) = unsafe { (stream_for_work(handle)?, pool(from)?) };
        if bytes == 0 || !pool.is_open_to(stream.device) {
            return Err(status::INVALID_VALUE);
        }
        if next(Kind::Alloc) != Outcome::Good {
            return Err(status::OUT_OF_MEMORY);
        }
        let address = pool.device.allocate(bytes as u64, Some((&pool, stream.id())))?;
        stream.push(Work::Fill(address, 0xDD, bytes as u64));
        // SAFETY: the caller's promise.
        unsafe { put(out, address) }
    }
    cuMemFreeAsync(address: u64, handle: *mut c_void) {
        // SAFETY: the caller's handle is of a live stream.
        let stream = unsafe { stream_for_work(handle) }?;
        if memory::device_with(address).is_none() {
            return Err(status::INVALID_VALUE);
        }
        stream.push(Work::Free(address));
        Ok(())
    }
    cuMemGetInfo_v2(free: *mut usize, total: *mut usize) {
        let used = current()?.used.load(Ordering::SeqCst);
        // SAFETY: the caller's promise.
        unsafe { put(free, (config().memory - used) as usize)?; put(total, config().memory as usize) }
    }
    cuMemHostAlloc(out: *mut usize, bytes: usize, flags: c_uint) {
        current()?;
        permitted()?;
        if bytes == 0 || flags > 7 {
            return Err(status::INVALID_VALUE);
        }
        // SAFETY: the caller's promise.
        unsafe { put(out, memory::allocate_pinned(bytes)) }
    }
    cuMemFreeHost(address: usize) {
        synchronize_all(entered()?);
        memory::free_pinned(address)
    }
    cuMemHostRegister_v2(address: usize, bytes: usize, flags: c_uint) {
        current()?;
        permitted()?;
        if address == 0 || bytes == 0 || flags > 15 {
            return Err(status::INVALID_VALUE);
        }
        memory::register(address, bytes)
    }
    cuMemHostUnregister(address: usize) {
        synchronize_all(entered()?);
        memory::unregister(address)
    }
    cuMemHostGetDevicePointer_v2(out: *mut u64, address: usize, _flags: c_uint) {
        entered()?;
        if !memory::is_pinned(address as u64, 1) {
            return Err(status::INVALID_VALUE);
        }
        // SAFETY: the caller's promise.
        unsafe { put(out, address as u64) }
    }
    cuMemcpyHtoDAsync_v2(to: u64, from: *const c_void, bytes: usize, handle: *mut c_void) {
        // SAFETY: passed on from the caller.
        unsafe { copy(Rows::line(to, from as u64, bytes as u64), [None, here()?], handle) }
    }
    cuMemcpyDtoHAsync_v2(to: *mut c_void, from: u64, bytes: usize, handle: *mut c_void) {
        // SAFETY: passed on from the caller.
        unsafe { copy(Rows::line(to as u64, from, bytes as u64), [here()?, None], handle) }
    }
    cuMemcpyDtoDAsync_v2(to: u64, from: u64, bytes: usize, handle: *mut c_void) {
        // SAFETY: passed on from the caller.
        unsafe { copy(Rows::line(to, from, bytes as u64), [here()?, here()?], handle) }
    }
    cuMemcpyPeerAsync(to: u64, to_context: usize, from: u64, from_context: usize, bytes: usize, handle: *mut c_void) {
        let ends = [of_context(from_context)?, of_context(to_context)?];
        // SAFETY: passed on from the caller.
        unsafe { copy(Rows::line(to, from, bytes as u64), ends, handle) }
    }
    cuMemcpy3DAsync_v2(what: *const CUDA_MEMCPY3D, handle: *mut c_void) {
        let here = here()?;
        // SAFETY: the caller's promise.
        let ends = unsafe { [(*what).srcMemoryType, (*what).dstMemoryType] };
        let ends = ends.map(|kind| here.filter(|_| kind != CUmemorytype::CU_MEMORYTYPE_HOST));
        // SAFETY: the caller's promise; passed on from the caller.
        unsafe { copy(boxed!(&*what), ends, handle) }
    }
    cuMemcpy3DPeerAsync(what: *const CUDA_MEMCPY3D_PEER, handle: *mut c_void) {
        // SAFETY: the caller's promise.
        let contexts = unsafe { [(*what).srcContext, (*what).dstContext] };
        let ends = [of_context(contexts[0] as usize)?, of_context(contexts[1] as usize)?];
        // SAFETY: the caller's promise; passed on from the caller.
        unsafe { copy(boxed!(&*what), ends, handle) }
    }
    // Work on the default stream, which has no other: it is done at the call.
    cuMemcpyHtoD_v2(to: u64, from: u64, bytes: usize) {
        current()?;
        Rows::line(to, from, bytes as u64).perform()
    }
    cuMemcpyDtoH_v2(to: u64, from: u64, bytes: usize) {
        current()?;
        Rows::line(to, from, bytes as u64).perform()
    }
    cuMemAlloc_v2(out: *mut u64, bytes: usize) {
        let device = current()?;
        permitted()?;
        if bytes == 0 {
            return Err(status::INVALID_VALUE);
        }
        let address = device.allocate(bytes as u64, None)?;
        // SAFETY: the caller's promise.
        unsafe { put(out, address) }
    }
    cuMemFree_v2(address: u64) {
        let device = current()?;
        synchronize_all(device);
        device.free(address, None)
    }
    // No other process has memory here. Numba does not start without this function.
    cuIpcOpenMemHandle_v2() { Err(status::NOT_SUPPORTED) }
    cuPointerGetAttribute(out: *mut c_void, attribute: c_int, address: u64) {
        entered()?;
        if let Some(device) = memory::device_with(address) {
            // SAFETY: the caller passes a place for a value of the attribute's type.
            return unsafe {
                match attribute {
                    // The context; the kind of memory (a device's); the address for the device; its number.
                    1 => put(out.cast::<usize>(), device.handle()),
                    2 => put(out.cast::<c_uint>(), 2),
                    3 => put(out.cast::<u64>(), address),
                    9 => put(out.cast::<c_int>(), device.ordinal as c_int),
                    _ => Err(status::INVALID_VALUE),
                }
            };
        }
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

/// # Safety
/// A handle of `cuMemPoolCreate` that was not given back, or null.
unsafe fn pool(handle: *const Pool) -> Result<ManuallyDrop<Arc<Pool>>, i32> {
    if handle.is_null() {
        return Err(status::INVALID_VALUE);
    }
    // SAFETY: handles of pools are made by `cuMemPoolCreate` from an `Arc` whose count they hold.
    Ok(ManuallyDrop::new(unsafe { Arc::from_raw(handle) }))
}

fn located(location: CUmemLocation) -> Result<&'static Device, i32> {
    if location.type_ != CUmemLocationType::CU_MEM_LOCATION_TYPE_DEVICE {
        return Err(status::INVALID_VALUE);
    }
    device(location.id)
}

/// Whose memory an end of a copy must be: the host's (none), or a device's.
type End = Option<&'static Device>;

fn here() -> Result<End, i32> {
    current().map(Some)
}

fn of_context(context: usize) -> Result<End, i32> {
    let device = Device::of(context).ok_or(status::INVALID_CONTEXT)?;
    device.check().map(|()| Some(device))
}

/// # Safety
/// `handle` is of a live stream, and the addresses of the host are memory that may be copied from or to until the copy is done.
unsafe fn copy(rows: Rows, ends: [End; 2], handle: *mut c_void) -> Outcomes {
    // SAFETY: the caller's handle is of a live stream.
    let stream = unsafe { stream_for_work(handle) }?;
    let is_of = |address: u64, end: End| match end {
        Some(device) => memory::is_on(address, device),
        None => !memory::is_device(address),
    };
    if !is_of(rows.source.address, ends[0]) || !is_of(rows.destination.address, ends[1]) {
        return Err(status::INVALID_VALUE);
    }
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
