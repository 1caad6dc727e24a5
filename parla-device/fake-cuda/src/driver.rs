//! The exported functions.

use std::cell::{Cell, RefCell};
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::io::Write as _;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::config::{Kind, Outcome, config, next};
use crate::memory::{Device, devices};
use crate::status;
use crate::stream::{in_host_function, synchronize_all};

/// Defines exported functions whose bodies give a `Result`, and `TABLE`, which lists them. What callers promise is what NVIDIA's
/// documentation demands of them.
macro_rules! export {
    ($($name:ident($($argument:ident: $kind:ty),*) $body:block)*) => {$(
        #[unsafe(no_mangle)]
        unsafe extern "C" fn $name($($argument: $kind),*) -> c_int {
            let perform = move || -> Outcomes {
                may_call(stringify!($name))?;
                $body
            };
            code(perform())
        }
    )*
        pub(super) const TABLE: &[(&str, *const c_void)] = &[$((stringify!($name), $name as *const c_void)),*];
    };
}

mod inspect;
mod memory;
mod streams;

thread_local! {
    static CONTEXTS: RefCell<Vec<usize>> = const { RefCell::new(Vec::new()) };
    /// The mode of `cuThreadExchangeStreamCaptureMode`; 2 is the one that forbids nothing.
    static CAPTURE_MODE: Cell<c_uint> = const { Cell::new(0) };
}

/// What may be asked of a driver that is not initialised.
const ALWAYS: [&str; 6] = [
    "cuInit",
    "cuDriverGetVersion",
    "cuGetErrorName",
    "cuGetErrorString",
    "cuGetExportTable",
    "cuGetProcAddress_v2",
];

/// Whether the calling thread may call this function now.
fn may_call(name: &str) -> Outcomes {
    static PROCESS: OnceLock<u32> = OnceLock::new();
    let of_tests = name.starts_with("fake");
    if *PROCESS.get_or_init(std::process::id) != std::process::id() && !of_tests {
        let _ = writeln!(std::io::stderr(), "{name} was called in a fork");
        #[expect(
            clippy::disallowed_methods,
            reason = "a program under test that does this is to end, whatever it makes of errors"
        )]
        std::process::abort();
    }
    if in_host_function() && !of_tests {
        return Err(status::NOT_PERMITTED);
    }
    if !INITIALIZED.load(Ordering::SeqCst) && !of_tests && !ALWAYS.contains(&name) {
        return Err(status::NOT_INITIALIZED);
    }
    Ok(())
}

static INITIALIZED: AtomicBool = AtomicBool::new(false);
/// The devices' compute capability, times ten.
const CAPABILITY: c_int = 80;
/// Whether somebody records a graph.
static CAPTURES: AtomicBool = AtomicBool::new(false);

/// An error where recording a graph forbids the call to the calling thread.
fn permitted() -> Outcomes {
    if CAPTURES.load(Ordering::SeqCst) && CAPTURE_MODE.get() != 2 {
        return Err(status::CAPTURE_UNSUPPORTED);
    }
    Ok(())
}

type Outcomes = Result<(), i32>;

fn code(outcome: Outcomes) -> i32 {
    outcome.err().unwrap_or(0)
}

/// The device whose context is current, lost or not. Calls without a context are refused where NVIDIA's reference says that they may be.
fn entered() -> Result<&'static Device, i32> {
    let top = CONTEXTS
        .with_borrow(|stack| stack.last().copied())
        .unwrap_or(0);
    let device = Device::of(top).ok_or(status::INVALID_CONTEXT)?;
    if device.retained.load(Ordering::SeqCst) == 0 {
        return Err(status::INVALID_CONTEXT);
    }
    Ok(device)
}

/// The same, for work: an error if it is lost.
fn current() -> Result<&'static Device, i32> {
    let device = entered()?;
    device.check().map(|()| device)
}

/// Gives a value to the caller, who must have passed a place for it or null.
///
/// # Safety
/// `out` is null or a place for a value.
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

export! {
    cuInit(flags: c_uint) {
        if flags != 0 {
            return Err(status::INVALID_VALUE);
        }
        if config().n_devices == 0 {
            return Err(status::NO_DEVICE);
        }
        INITIALIZED.store(true, Ordering::SeqCst);
        Ok(())
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
    cuDeviceGetUuid_v2(out: *mut [u8; 16], ordinal: c_int) {
        let device = device(ordinal)?;
        // SAFETY: the caller's promise.
        unsafe { put(out, [device.ordinal as u8 + 1; 16]) }
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
            16 | 39 => 1024, // multiprocessors, threads of each
            75 => CAPABILITY / 10, // the compute capability
            76 => CAPABILITY % 10,
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
        if next(Kind::Context) != Outcome::Good {
            return Err(status::OUT_OF_MEMORY);
        }
        device.retained.fetch_add(1, Ordering::SeqCst);
        // SAFETY: the caller's promise.
        unsafe { put(out, device.handle()) }
    }
    cuDevicePrimaryCtxRelease_v2(ordinal: c_int) {
        let retained = &device(ordinal)?.retained;
        let less = |n: u64| n.checked_sub(1);
        let released = retained.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less);
        released.map(drop).map_err(|_| status::INVALID_CONTEXT)
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
        if context != 0 && Device::of(context).is_none() {
            return Err(status::INVALID_CONTEXT);
        }
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
    cuCtxGetDevice(out: *mut c_int) {
        // SAFETY: the caller's promise.
        unsafe { put(out, entered()?.ordinal as c_int) }
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
        name: *const c_char, out: *mut *const c_void, _version: c_int, _flags: u64, _status: *mut c_int
    ) {
        // SAFETY: the caller passes a text.
        let name = unsafe { CStr::from_ptr(name) }.to_string_lossy();
        let found = address_of(&name);
        // SAFETY: the caller's promise.
        unsafe { put(out, found.unwrap_or(std::ptr::null())) }?;
        found.map(drop).ok_or(status::NOT_FOUND)
    }
    cuCtxSynchronize() {
        permitted()?;
        synchronize_all(current()?);
        current().map(drop)
    }
    cuThreadExchangeStreamCaptureMode(mode: *mut c_uint) {
        // SAFETY: the caller's promise.
        unsafe { put(mode, CAPTURE_MODE.replace(mode.read())) }
    }
}

/// The function that a name without the suffix of its version means; there is one version of each here.
fn address_of(name: &str) -> Option<*const c_void> {
    let tables = [TABLE, inspect::TABLE, memory::TABLE, streams::TABLE];
    let is_meant = |exported: &str| {
        exported.strip_suffix("_v2").unwrap_or(exported) == name || exported == name
    };
    let mut all = tables.into_iter().flatten();
    all.find(|(exported, _)| is_meant(exported))
        .map(|(_, address)| *address)
}

fn texts(error: c_int) -> (&'static CStr, &'static CStr) {
    match error {
        0 => (c"CUDA_SUCCESS", c"no error"),
        status::INVALID_VALUE => (c"CUDA_ERROR_INVALID_VALUE", c"invalid argument"),
        status::OUT_OF_MEMORY => (c"CUDA_ERROR_OUT_OF_MEMORY", c"out of memory"),
        status::NOT_INITIALIZED => (c"CUDA_ERROR_NOT_INITIALIZED", c"initialization error"),
        status::NOT_PERMITTED => (c"CUDA_ERROR_NOT_PERMITTED", c"operation not permitted"),
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
