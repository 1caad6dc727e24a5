//! A profiler's library, for tests: what `NVTX_INJECTION64_PATH` names. It writes each range that begins or ends to the file in
//! `FAKE_CUDA_NVTX`, one per line: `push THREAD DOMAIN: NAME` or `pop THREAD DEPTH`, the depth being that afterwards.

use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};
use std::fs::OpenOptions;
use std::io::Write as _;
use std::thread;

/// `nvtxEventAttributes_t`, as far as it is read here.
#[repr(C)]
struct Attributes {
    version: u16,
    size: u16,
    numbers: [u32; 5],
    payload: u64,
    message_kind: i32,
    message: *const c_char,
}

type Slot = *mut *const c_void;
type Functions = unsafe extern "C" fn(c_int, *mut *const Slot, *mut c_uint) -> c_int;

#[repr(C)]
struct Callbacks {
    size: usize,
    functions: Functions,
}

thread_local! {
    static OPEN: RefCell<i32> = const { RefCell::new(0) };
}

fn note(line: &str) {
    let Ok(path) = std::env::var("FAKE_CUDA_NVTX") else {
        return;
    };
    let file = OpenOptions::new().append(true).create(true).open(path);
    let mut file = file.expect("FAKE_CUDA_NVTX: a file that can be written");
    // One call: lines of several threads do not mix.
    file.write_all(line.as_bytes()).expect("a line is written");
}

/// `NvtxInitializeInjectionNvtxFunc_t`.
///
/// # Safety
/// `table` gives the export tables of NVTX 3.
#[unsafe(no_mangle)]
unsafe extern "C" fn InitializeInjectionNvtx2(
    table: unsafe extern "C" fn(u32) -> *const c_void,
) -> c_int {
    // SAFETY: the caller's promise: table 1 is that of the callbacks.
    let callbacks = unsafe { &*table(1).cast::<Callbacks>() };
    if callbacks.size < size_of::<Callbacks>() {
        return 0;
    }
    let (mut slots, mut n) = (std::ptr::null(), 0);
    // SAFETY: module 5 has the functions with domains; the places are ours.
    if unsafe { (callbacks.functions)(5, &raw mut slots, &raw mut n) } == 0 || n < 13 {
        return 0;
    }
    let functions = [
        (4, push as *const c_void),
        (5, pop as *const c_void),
        (12, create as *const c_void),
    ];
    for (number, function) in functions {
        // SAFETY: `n` of them there are, each the address of a pointer to a function, but for number 0.
        unsafe { **slots.add(number) = function };
    }
    1
}

/// # Safety
/// `name` is a text.
unsafe extern "C" fn create(name: *const c_char) -> *mut c_void {
    // SAFETY: the caller passes a text. It is kept for ever, as domains are.
    let name = unsafe { CStr::from_ptr(name) }.to_owned();
    CString::into_raw(name).cast()
}

/// # Safety
/// `domain` is what `create` gave, the attributes are of NVTX 3.
unsafe extern "C" fn push(domain: *mut c_void, attributes: *const Attributes) -> c_int {
    // SAFETY: the caller's attributes, and a domain that `create` made.
    let (attributes, domain) = unsafe { (&*attributes, CStr::from_ptr(domain.cast())) };
    let expected = (3, size_of::<Attributes>(), 1);
    let given = (
        attributes.version,
        usize::from(attributes.size),
        attributes.message_kind,
    );
    assert_eq!(given, expected, "attributes of version 3 with a text");
    // SAFETY: a text, as its kind says.
    let name = unsafe { CStr::from_ptr(attributes.message) }.to_string_lossy();
    let domain = domain.to_string_lossy();
    note(&format!(
        "push {:?} {domain}: {name}\n",
        thread::current().id()
    ));
    OPEN.with_borrow_mut(|open| {
        *open += 1;
        *open - 1
    })
}

extern "C" fn pop(_domain: *mut c_void) -> c_int {
    let depth = OPEN.with_borrow_mut(|open| {
        *open -= 1;
        *open
    });
    note(&format!("pop {:?} {depth}\n", thread::current().id()));
    depth
}
