//! What tests ask and make go wrong.

use std::ffi::{c_int, c_void};
use std::sync::atomic::Ordering;

use super::streams::stream;
use super::{CAPTURES, Outcomes, code, may_call, put};
use crate::memory::{self, devices};
use crate::status;
use crate::stream::{Work, n_live};

export! {
    // Runs a function of the host as a kernel.
    fakeCudaLaunch(handle: *mut c_void, kernel: Option<unsafe extern "C" fn(*mut c_void)>, argument: *mut c_void) {
        // SAFETY: the caller's handle is of a live stream.
        let stream = unsafe { stream(handle) }?;
        stream.device.check()?;
        stream.push(Work::Play(kernel.ok_or(status::INVALID_VALUE)?, argument as usize));
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

    // Whether somebody records a graph in the mode that forbids others to ask and to wait.
    fakeCudaCapture(records: c_int) {
        CAPTURES.store(records != 0, Ordering::SeqCst);
        Ok(())
    }
}
