//! The driver's functions, found once in the machine's library, and what their results mean.
//!
//! cudarc's own wrappers look each symbol up at its first call and panic when it is missing, and turn results into an enumeration
//! in which a newer driver's values do not occur; its loader tries `libcuda.so` first, which on machines with the toolkit can be a stub
//! for linkers. So only its types are used here: a driver without one of our functions is no driver for us, and results stay numbers.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::mem::transmute_copy;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use cudarc::driver::sys::{CUDA_MEMCPY3D, CUDA_MEMCPY3D_PEER, CUmemAccessDesc, CUmemPoolProps};

/// A handle of the driver: of a context, stream, event or memory pool. The driver's objects may be used by any thread.
pub(super) type Handle = usize;
/// A function that a stream calls.
pub(super) type HostFunction = unsafe extern "C" fn(*mut c_void);

/// The oldest driver that will do (CUDA 12.0), as the driver counts.
const OLDEST: i32 = 12000;

macro_rules! functions {
    ($($name:ident = $symbol:literal ($($argument:ty),*);)*) => {
        /// The functions, under the names that cudarc's wrappers use.
        pub(super) struct Driver {
            $(pub(super) $name: unsafe extern "C" fn($($argument),*) -> u32,)*
        }

        impl Driver {
            fn find(library: &Library) -> Result<Self, String> {
                Ok(Self { $(
                    // SAFETY: the types are those of NVIDIA's header for the version of the interface in the symbol's name.
                    $name: unsafe { library.function($symbol) }?,
                )* })
            }
        }
    };
}

functions! {
    init = c"cuInit"(c_uint);
    driver_version = c"cuDriverGetVersion"(*mut c_int);
    device_count = c"cuDeviceGetCount"(*mut c_int);
    device_name = c"cuDeviceGetName"(*mut c_char, c_int, c_int);
    device_total = c"cuDeviceTotalMem_v2"(*mut usize, c_int);
    device_attribute = c"cuDeviceGetAttribute"(*mut c_int, c_int, c_int);
    can_access_peer = c"cuDeviceCanAccessPeer"(*mut c_int, c_int, c_int);
    primary_retain = c"cuDevicePrimaryCtxRetain"(*mut Handle, c_int);
    primary_release = c"cuDevicePrimaryCtxRelease_v2"(c_int);
    context_push = c"cuCtxPushCurrent_v2"(Handle);
    context_pop = c"cuCtxPopCurrent_v2"(*mut Handle);
    context_get = c"cuCtxGetCurrent"(*mut Handle);
    context_set = c"cuCtxSetCurrent"(Handle);
    exchange_capture_mode = c"cuThreadExchangeStreamCaptureMode"(*mut c_uint);
    stream_create = c"cuStreamCreate"(*mut Handle, c_uint);
    stream_destroy = c"cuStreamDestroy_v2"(Handle);
    stream_query = c"cuStreamQuery"(Handle);
    stream_synchronize = c"cuStreamSynchronize"(Handle);
    stream_wait_event = c"cuStreamWaitEvent"(Handle, Handle, c_uint);
    stream_wait_value = c"cuStreamWaitValue32_v2"(Handle, u64, c_uint, c_uint);
    launch_host = c"cuLaunchHostFunc"(Handle, HostFunction, *mut c_void);
    module_load = c"cuModuleLoadData"(*mut Handle, *const c_void);
    module_function = c"cuModuleGetFunction"(*mut Handle, Handle, *const c_char);
    launch_kernel = c"cuLaunchKernel"(
        Handle, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, Handle, *const *const c_void, *const *const c_void
    );
    event_create = c"cuEventCreate"(*mut Handle, c_uint);
    event_destroy = c"cuEventDestroy_v2"(Handle);
    event_record = c"cuEventRecord"(Handle, Handle);
    event_query = c"cuEventQuery"(Handle);
    event_synchronize = c"cuEventSynchronize"(Handle);
    pool_create = c"cuMemPoolCreate"(*mut Handle, *const CUmemPoolProps);
    pool_destroy = c"cuMemPoolDestroy"(Handle);
    pool_trim = c"cuMemPoolTrimTo"(Handle, usize);
    pool_set_attribute = c"cuMemPoolSetAttribute"(Handle, c_int, *mut c_void);
    pool_set_access = c"cuMemPoolSetAccess"(Handle, *const CUmemAccessDesc, usize);
    allocate_async = c"cuMemAllocFromPoolAsync"(*mut u64, usize, Handle, Handle);
    free_async = c"cuMemFreeAsync"(u64, Handle);
    memory_info = c"cuMemGetInfo_v2"(*mut usize, *mut usize);
    host_allocate = c"cuMemHostAlloc"(*mut usize, usize, c_uint);
    host_free = c"cuMemFreeHost"(usize);
    host_register = c"cuMemHostRegister_v2"(usize, usize, c_uint);
    host_unregister = c"cuMemHostUnregister"(usize);
    host_device_pointer = c"cuMemHostGetDevicePointer_v2"(*mut u64, usize, c_uint);
    copy_to_device = c"cuMemcpyHtoDAsync_v2"(u64, usize, usize, Handle);
    copy_to_host = c"cuMemcpyDtoHAsync_v2"(usize, u64, usize, Handle);
    copy_on_device = c"cuMemcpyDtoDAsync_v2"(u64, u64, usize, Handle);
    copy_to_peer = c"cuMemcpyPeerAsync"(u64, Handle, u64, Handle, usize, Handle);
    copy_3d = c"cuMemcpy3DAsync_v2"(*const CUDA_MEMCPY3D, Handle);
    copy_3d_to_peer = c"cuMemcpy3DPeerAsync"(*const CUDA_MEMCPY3D_PEER, Handle);
    pointer_attribute = c"cuPointerGetAttribute"(*mut c_void, c_int, usize);
    error_name = c"cuGetErrorName"(u32, *mut *const c_char);
    error_text = c"cuGetErrorString"(u32, *mut *const c_char);
}

/// The library, open for the rest of the process.
struct Library(*mut c_void);

impl Library {
    fn open() -> Option<Self> {
        let open = |name: &CStr| {
            // SAFETY: a name that ends in a zero; runs the initialisers of the machine's CUDA driver, which every CUDA program does.
            let library = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
            (!library.is_null()).then_some(Self(library))
        };
        open(c"libcuda.so.1").or_else(|| open(c"libcuda.so"))
    }

    /// # Safety
    /// `F` is the type of the function that has this name in a CUDA driver.
    unsafe fn function<F: core::marker::Copy>(&self, symbol: &CStr) -> Result<F, String> {
        // SAFETY: an open library, a name that ends in a zero.
        let found = unsafe { libc::dlsym(self.0, symbol.as_ptr()) };
        if found.is_null() {
            let name = symbol.to_string_lossy();
            return Err(format!("driver too old: it has no function {name}"));
        }
        const { assert!(size_of::<F>() == size_of::<*mut c_void>()) };
        // SAFETY: the caller vouches for the type, which is that of a pointer to a function: of the same size.
        Ok(unsafe { transmute_copy::<*mut c_void, F>(&found) })
    }
}

/// A call that the driver did not do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) call: &'static str,
    pub(super) code: u32,
}

/// What pointers can be asked, and the kinds of memory.
const MEMORY_TYPE: c_int = 2;
const DEVICE_ORDINAL: c_int = 9;
const RANGE_START: c_int = 11;
const RANGE_SIZE: c_int = 12;
const HOST_MEMORY: u32 = 1;
const DEVICE_MEMORY: u32 = 2;

pub(super) const OUT_OF_MEMORY: u32 = 2;
pub(super) const NOT_INITIALIZED: u32 = 3;
pub(super) const NOT_READY: u32 = 600;

impl Failure {
    /// Whether the context that it came from cannot be used any more.
    pub(super) fn is_final(self) -> bool {
        // The driver is shut down · device unavailable · our context is none any more · uncorrectable memory, NVLink errors, contained
        // error · illegal address · launch timeout · context destroyed · assertion · hardware stack, illegal instruction, misaligned
        // address, address space, program counter, launch failure · tensor memory leak · MPS client terminated · external device.
        matches!(
            self.code,
            4 | 46 | 201 | 214 | 220 | 226 | 700 | 702 | 709 | 710 | 714..=719 | 721 | 810 | 911
        )
    }

    /// Whether somebody records a graph in a mode that forbids the call meanwhile, wherever it comes from.
    pub(super) fn is_forbidden_by_capture(self) -> bool {
        (900..=908).contains(&self.code)
    }
}

/// That there is no device, with what the user may have done about it.
fn no_device() -> String {
    match std::env::var_os("CUDA_VISIBLE_DEVICES") {
        Some(visible) => format!("no CUDA device: CUDA_VISIBLE_DEVICES is {visible:?}"),
        None => "no CUDA device".to_owned(),
    }
}

/// A result of the driver.
pub(super) fn check(call: &'static str, code: u32) -> Result<(), Failure> {
    if code == 0 {
        Ok(())
    } else {
        Err(Failure { call, code })
    }
}

/// This process is a fork of the one that used the driver, which does not work in forks.
static FORKED: AtomicBool = AtomicBool::new(false);

extern "C" fn forked() {
    FORKED.store(true, Ordering::Relaxed);
}

impl Driver {
    /// The machine's driver, or why there is none that can be used. Looks once.
    pub(super) fn get() -> Result<&'static Self, &'static str> {
        static DRIVER: OnceLock<Result<Driver, String>> = OnceLock::new();
        DRIVER
            .get_or_init(Self::load)
            .as_ref()
            .map_err(String::as_str)
    }

    fn load() -> Result<Self, String> {
        let library = Library::open().ok_or("libcuda.so.1 not found")?;
        let driver = Self::find(&library)?;
        let mut version = 0;
        // SAFETY: writes one number.
        let told = unsafe { (driver.driver_version)(&raw mut version) };
        if told != 0 || version < OLDEST {
            let (major, minor) = (version / 1000, version % 1000 / 10);
            return Err(format!(
                "driver too old: for CUDA {major}.{minor}, 12.0 is needed"
            ));
        }
        // SAFETY: registers a function that stores one number.
        unsafe { libc::pthread_atfork(None, None, Some(forked)) };
        Ok(driver)
    }

    /// An error in a fork: memory that it has by inheritance may go there at any time, and must not reach the driver.
    pub(super) fn check_process(&self, call: &'static str) -> Result<(), Failure> {
        if FORKED.load(Ordering::Relaxed) {
            return Err(Failure {
                call,
                code: NOT_INITIALIZED,
            });
        }
        Ok(())
    }

    /// For threads of our own: what they ask is allowed while others record graphs, and does not spoil these.
    pub(super) fn ignore_captures(&self) {
        // CU_STREAM_CAPTURE_MODE_RELAXED
        let mut mode = 2;
        // SAFETY: reads and writes one number; the mode is the calling thread's.
        unsafe { (self.exchange_capture_mode)(&raw mut mode) };
    }

    /// The devices, once the driver is initialised: makes no context.
    pub(super) fn count(&self) -> Result<i32, String> {
        let mut count = 0;
        // SAFETY: 0 is the only flag there is; the second call writes one number.
        let done = unsafe {
            check("cuInit", (self.init)(0))
                .and_then(|()| check("cuDeviceGetCount", (self.device_count)(&raw mut count)))
        };
        match done {
            Ok(()) if count > 0 => Ok(count),
            // "No device" and "the stub of the toolkit is no driver".
            Ok(()) | Err(Failure { code: 34 | 100, .. }) => Err(no_device()),
            Err(failure) => Err(format!(
                "no CUDA device: {} failed: {}",
                failure.call,
                self.explain(failure.code)
            )),
        }
    }

    /// An attribute of a device; 0 where the driver does not know it.
    pub(super) fn attribute(&self, attribute: c_int, ordinal: i32) -> i32 {
        let mut value = 0;
        // SAFETY: writes one number.
        let code = unsafe { (self.device_attribute)(&raw mut value, attribute, ordinal) };
        if code == 0 { value } else { 0 }
    }

    /// The bytes of a device's memory.
    pub(super) fn total_memory(&self, ordinal: i32) -> Result<u64, Failure> {
        let mut bytes = 0;
        // SAFETY: writes one number.
        check("cuDeviceTotalMem", unsafe {
            (self.device_total)(&raw mut bytes, ordinal)
        })?;
        Ok(bytes as u64)
    }

    /// What the vendor calls a device.
    pub(super) fn name(&self, ordinal: i32) -> String {
        let mut text: [c_char; 128] = [0; 128];
        // SAFETY: writes at most 127 characters and a zero.
        let code = unsafe { (self.device_name)(text.as_mut_ptr(), 127, ordinal) };
        if code != 0 {
            return String::new();
        }
        // SAFETY: the last element is still zero, if none before it is.
        let name = unsafe { CStr::from_ptr(text.as_ptr()) };
        name.to_string_lossy().into_owned()
    }

    /// Whether one device can address the other's memory.
    pub(super) fn reaches(&self, from: i32, to: i32) -> bool {
        let mut can = 0;
        // SAFETY: writes one number.
        let code = unsafe { (self.can_access_peer)(&raw mut can, from, to) };
        code == 0 && can != 0
    }

    /// Whether others made these bytes of the host page-locked: the driver tells what it knows of the address.
    pub(super) fn is_pinned(&self, address: usize, bytes: usize) -> bool {
        let (mut kind, mut start, mut length) = (0_u32, 0_usize, 0_usize);
        // SAFETY: the kind is a number of 32 bits, the start an address, the length a number of its size. Any address may be asked about.
        let known = unsafe {
            (self.pointer_attribute)((&raw mut kind).cast(), MEMORY_TYPE, address) == 0
                && (self.pointer_attribute)((&raw mut start).cast(), RANGE_START, address) == 0
                && (self.pointer_attribute)((&raw mut length).cast(), RANGE_SIZE, address) == 0
        };
        known && kind == HOST_MEMORY && start <= address && address + bytes <= start + length
    }

    /// The device whose memory an address is in; `None`: the driver knows of none.
    pub(super) fn ordinal_of(&self, address: usize) -> Option<i32> {
        let (mut kind, mut ordinal) = (0_u32, 0_i32);
        // SAFETY: both are numbers of 32 bits. Any address may be asked about.
        let known = unsafe {
            (self.pointer_attribute)((&raw mut kind).cast(), MEMORY_TYPE, address) == 0
                && (self.pointer_attribute)((&raw mut ordinal).cast(), DEVICE_ORDINAL, address) == 0
        };
        (known && kind == DEVICE_MEMORY).then_some(ordinal)
    }

    /// The name of an error and what it says.
    pub(super) fn explain(&self, code: u32) -> String {
        if self.check_process("cuGetErrorName").is_err() {
            return "this process is a fork of one that used the driver".to_owned();
        }
        let text = |function: unsafe extern "C" fn(u32, *mut *const c_char) -> u32| {
            let mut text = std::ptr::null();
            // SAFETY: writes one pointer, to a text that lives as long as the driver; null for unknown errors.
            unsafe {
                (function(code, &raw mut text) == 0 && !text.is_null())
                    .then(|| CStr::from_ptr(text).to_string_lossy().into_owned())
            }
        };
        match (text(self.error_name), text(self.error_text)) {
            (Some(name), Some(says)) => format!("{name} ({says})"),
            _ => format!("error {code}"),
        }
    }
}
