//! Ranges that a profiler shows on its timeline (`nsys profile --trace=cuda,nvtx python program.py`).
//!
//! A profiler puts the path of a library of its own into `NVTX_INJECTION64_PATH`. The process loads it, gives it tables of pointers to
//! functions, and the library fills in those that it wants called: NVIDIA's NVTX, version 3, of which every program has its own copy.
//! So nothing of NVIDIA's is needed, neither to build nor to run, and without that variable there is nothing but one look at it.

use std::ffi::{CString, c_char, c_int, c_uint, c_void};
use std::marker::PhantomData;
use std::os::unix::ffi::OsStringExt as _;
use std::ptr::{from_ref, null, null_mut};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

/// A range on the line of the calling thread, which ends when this is dropped. Ranges of a thread are nested.
#[must_use = "the range ends when this is dropped"]
#[derive(Debug)]
pub struct ProfilerRange {
    tool: Option<&'static Tool>,
    /// It ends on the thread on which it began.
    here: PhantomData<*const ()>,
}

impl ProfilerRange {
    /// Begins a range. The name is asked for only if a profiler is there to show it.
    #[inline]
    pub fn open(name: impl FnOnce() -> String) -> Self {
        let tool = Tool::get();
        if let Some(tool) = tool {
            tool.push(name());
        }
        Self {
            tool,
            here: PhantomData,
        }
    }
}

impl Drop for ProfilerRange {
    #[inline]
    fn drop(&mut self) {
        if let Some(tool) = self.tool {
            // SAFETY: the tool gave the function, and the domain, which lives as long as the process.
            unsafe { (tool.pop)(tool.domain.load(Ordering::Relaxed)) };
        }
    }
}

type Create = unsafe extern "C" fn(*const c_char) -> *mut c_void;
type Push = unsafe extern "C" fn(*mut c_void, *const Attributes) -> c_int;
type Pop = unsafe extern "C" fn(*mut c_void) -> c_int;

/// What the profiler's library gave.
#[derive(Debug)]
struct Tool {
    /// Keeps our ranges apart from those of other libraries.
    domain: AtomicPtr<c_void>,
    push: Push,
    pop: Pop,
}

/// `nvtxEventAttributes_t` of version 3.
#[repr(C)]
struct Attributes {
    version: u16,
    size: u16,
    category: u32,
    color_kind: i32,
    color: u32,
    payload_kind: i32,
    reserved: i32,
    payload: u64,
    message_kind: i32,
    message: *const c_char,
}

const VERSION: u16 = 3;
/// `NVTX_MESSAGE_TYPE_ASCII`, which profilers read as UTF-8.
const TEXT: i32 = 1;
/// The module of functions with domains, and what is where in it.
const DOMAINS: usize = 5;
const RANGE_PUSH: usize = 4;
const RANGE_POP: usize = 5;
const CREATE: usize = 12;
/// How many functions each module has, one more than the last number.
const SIZES: [usize; 7] = [0, 16, 9, 15, 7, 16, 7];

/// The pointers to functions, by module and number.
static FUNCTIONS: [[AtomicPtr<c_void>; 16]; SIZES.len()] =
    [const { [const { AtomicPtr::new(null_mut()) }; 16] }; SIZES.len()];

impl Tool {
    #[inline]
    fn get() -> Option<&'static Self> {
        static TOOL: OnceLock<Option<Tool>> = OnceLock::new();
        TOOL.get_or_init(Self::load).as_ref()
    }

    fn load() -> Option<Self> {
        let path = std::env::var_os("NVTX_INJECTION64_PATH").filter(|path| !path.is_empty())?;
        let path = CString::new(path.into_vec()).ok()?;
        // SAFETY: a path that ends in a zero; runs the initialisers of the library that the user's profiler asks programs to load.
        let library = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_LAZY) };
        if library.is_null() {
            return None;
        }
        // SAFETY: an open library and a name that ends in a zero.
        let initialize = unsafe { libc::dlsym(library, c"InitializeInjectionNvtx2".as_ptr()) };
        if initialize.is_null() {
            return None;
        }
        type Initialize = unsafe extern "C" fn(GetTable) -> c_int;
        // SAFETY: a function of this name in such a library has this type.
        let initialize = unsafe { std::mem::transmute::<*mut c_void, Initialize>(initialize) };
        // SAFETY: called once, with a function that gives the tables that the library expects.
        if unsafe { initialize(export_table) } == 0 {
            return None;
        }
        let given = |number: usize| {
            let function = FUNCTIONS[DOMAINS][number].load(Ordering::Acquire);
            (!function.is_null()).then_some(function)
        };
        let (create, push, pop) = (given(CREATE)?, given(RANGE_PUSH)?, given(RANGE_POP)?);
        // SAFETY: the library put functions of these types at these numbers; the name ends in a zero.
        let (domain, push, pop) = unsafe {
            (
                std::mem::transmute::<*mut c_void, Create>(create)(c"Parla".as_ptr()),
                std::mem::transmute::<*mut c_void, Push>(push),
                std::mem::transmute::<*mut c_void, Pop>(pop),
            )
        };
        Some(Self {
            domain: AtomicPtr::new(domain),
            push,
            pop,
        })
    }

    #[cold]
    fn push(&self, name: String) {
        let text = CString::new(name).unwrap_or_else(|error| {
            let mut bytes = error.into_vec();
            bytes.retain(|&byte| byte != 0);
            CString::new(bytes).unwrap_or_default()
        });
        let attributes = Attributes {
            version: VERSION,
            size: size_of::<Attributes>() as u16,
            category: 0,
            color_kind: 0,
            color: 0,
            payload_kind: 0,
            reserved: 0,
            payload: 0,
            message_kind: TEXT,
            message: text.as_ptr(),
        };
        // SAFETY: the tool gave the function and the domain; it copies what it needs of the attributes and the text.
        unsafe { (self.push)(self.domain.load(Ordering::Relaxed), &raw const attributes) };
    }
}

// What the profiler's library asks for: `NvtxGetExportTableFunc_t` and the two tables that there are.

type GetTable = unsafe extern "C" fn(u32) -> *const c_void;

#[repr(C)]
struct Callbacks {
    size: usize,
    module_functions: unsafe extern "C" fn(c_int, *mut *const AtomicUsize, *mut c_uint) -> c_int,
}

#[repr(C)]
struct VersionInfo {
    size: usize,
    version: u32,
    reserved: u32,
    set_version: unsafe extern "C" fn(u32),
}

extern "C" fn export_table(which: u32) -> *const c_void {
    static CALLBACKS: Callbacks = Callbacks {
        size: size_of::<Callbacks>(),
        module_functions,
    };
    static INFO: VersionInfo = VersionInfo {
        size: size_of::<VersionInfo>(),
        version: VERSION as u32,
        reserved: 0,
        set_version,
    };
    match which {
        1 => from_ref(&CALLBACKS).cast(),
        3 => from_ref(&INFO).cast(),
        _ => null(),
    }
}

/// # Safety
/// `table` and `size` are null or places for what is asked.
unsafe extern "C" fn module_functions(
    module: c_int,
    table: *mut *const AtomicUsize,
    size: *mut c_uint,
) -> c_int {
    // The addresses of the pointers, and a zero at the end. Atomic, as the library might write to them.
    static TABLES: OnceLock<[[AtomicUsize; 17]; SIZES.len()]> = OnceLock::new();
    let n = match usize::try_from(module).ok().and_then(|m| SIZES.get(m)) {
        None | Some(0) => return 0,
        Some(&n) => n,
    };
    let module = module.unsigned_abs() as usize;
    let tables = TABLES.get_or_init(|| {
        std::array::from_fn(|module| {
            std::array::from_fn(|number| {
                let is_one = (1..SIZES[module]).contains(&number);
                AtomicUsize::new(if is_one {
                    FUNCTIONS[module][number].as_ptr() as usize
                } else {
                    0
                })
            })
        })
    });
    // SAFETY: the caller's promise.
    unsafe {
        if !table.is_null() {
            table.write(tables[module].as_ptr());
        }
        if !size.is_null() {
            size.write(n as c_uint);
        }
    }
    1
}

extern "C" fn set_version(_version: u32) {}
