//! Memory of devices and of the host, and copies.

use std::ffi::{c_int, c_uint, c_void};
use std::sync::atomic::Ordering;

use cudarc::driver::sys::{
    CUDA_MEMCPY3D, CUDA_MEMCPY3D_PEER, CUmemAccessDesc, CUmemPoolProps, CUmemorytype,
};

use super::streams::stream_for_work;
use super::{Outcomes, code, current, device, entered, permitted, put};
use crate::config::{Kind, Outcome, config, next};
use crate::copies::{Rows, Side};
use crate::memory::{self, Device};
use crate::status;
use crate::stream::Work;

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
        permitted()?;
        // SAFETY: the caller's promise.
        unsafe { put(out, memory::allocate_pinned(bytes)) }
    }
    cuMemFreeHost(address: usize) {
        entered()?;
        memory::free_pinned(address)
    }
    cuMemHostRegister_v2(address: usize, bytes: usize, _flags: c_uint) {
        current()?;
        permitted()?;
        memory::register(address, bytes)
    }
    cuMemHostUnregister(address: usize) {
        entered()?;
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
    cuMemcpy3DAsync_v2(what: *const CUDA_MEMCPY3D, handle: *mut c_void) {
        // SAFETY: the caller's promise; passed on from the caller.
        unsafe { copy(boxed!(&*what), handle) }
    }
    cuMemcpy3DPeerAsync(what: *const CUDA_MEMCPY3D_PEER, handle: *mut c_void) {
        // SAFETY: the caller's promise; passed on from the caller.
        unsafe { copy(boxed!(&*what), handle) }
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
        let address = current()?.allocate(bytes as u64)?;
        // SAFETY: the caller's promise.
        unsafe { put(out, address) }
    }
    cuMemFree_v2(address: u64) { current()?.free(address) }
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
/// `handle` is of a live stream, and the addresses of the host are memory that may be copied from or to until the copy is done.
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
