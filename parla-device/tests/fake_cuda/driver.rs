//! Running a test in a process of its own that finds our driver instead of NVIDIA's, and what that driver tells about itself.

use std::env;
use std::ffi::{CStr, c_void};
use std::fs;
use std::io::Read;
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use parla_device::{Backend as _, CudaBackend, CudaOptions, Device};

/// How long tests wait for what must happen.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

/// The devices that a program is to see.
pub(crate) const VISIBLE: &str = "CUDA_VISIBLE_DEVICES";

const INSIDE: &str = "PARLA_FAKE_CUDA_TEST";
/// How long a test may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// A directory in which loaders find our driver under the names that they look for.
pub(crate) fn directory() -> PathBuf {
    let program = env::current_exe().expect("a test knows its program");
    let library = program.with_file_name("libparla_fake_cuda.so");
    assert!(
        library.exists(),
        "cargo builds {} with the tests",
        library.display()
    );
    let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("fake-cuda");
    fs::create_dir_all(&directory).expect("a writable target directory");
    for name in ["libcuda.so.1", "libcuda.so"] {
        let link = directory.join(name);
        if fs::read_link(&link).ok().as_ref() != Some(&library) {
            // Other tests do the same at this moment: a rename replaces what is there at once.
            let me = (std::process::id(), std::thread::current().id());
            let mine = directory.join(format!("{name}.{me:?}"));
            let _ = fs::remove_file(&mine);
            std::os::unix::fs::symlink(&library, &mine).expect("a writable target directory");
            fs::rename(&mine, &link).expect("a writable target directory");
        }
    }
    directory
}

/// Runs `body` in a new process with our driver, on the machine that `fake` describes (`FAKE_CUDA_` goes before the names, except those
/// of profilers and [`VISIBLE`]).
pub(crate) fn with_driver(test: &str, fake: &[(&str, &str)], body: impl FnOnce()) {
    with_library(test, Some(directory()), fake, body);
}

/// Runs `body` in a new process, which finds CUDA drivers in `library` only.
pub(crate) fn with_library(
    test: &str,
    library: Option<PathBuf>,
    fake: &[(&str, &str)],
    body: impl FnOnce(),
) {
    if env::var(INSIDE).is_ok_and(|inside| inside == test) {
        body();
        return;
    }
    let (status, text) = run_alone(test, library.unwrap_or_default(), fake);
    assert!(status.success(), "{test}: {status}\n{text}");
    assert!(
        text.contains("1 passed"),
        "{test} is not a test of this program: {text}"
    );
}

/// Runs one test in a new process; how it ended, and what it wrote.
pub(crate) fn run_alone(
    test: &str,
    library: PathBuf,
    fake: &[(&str, &str)],
) -> (ExitStatus, String) {
    let mut command = Command::new(env::current_exe().expect("a test knows its program"));
    command
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(INSIDE, test)
        .env("LD_LIBRARY_PATH", library)
        .env_remove(VISIBLE);
    for (name, value) in fake {
        if name.starts_with("NVTX_") || *name == VISIBLE {
            command.env(name, value);
        } else {
            command.env(format!("FAKE_CUDA_{name}"), value);
        }
    }
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("a test starts");
    let (sender, ended) = channel();
    let streams: [Box<dyn Read + Send>; 2] = [
        Box::new(child.stdout.take().expect("piped")),
        Box::new(child.stderr.take().expect("piped")),
    ];
    for mut stream in streams {
        let sender = sender.clone();
        thread::spawn(move || {
            let mut text = Vec::new();
            let _ = stream.read_to_end(&mut text);
            let _ = sender.send(String::from_utf8_lossy(&text).into_owned());
        });
    }
    let deadline = Instant::now() + PATIENCE;
    let mut written = String::new();
    for _ in 0..2 {
        let Ok(text) = ended.recv_timeout(deadline.saturating_duration_since(Instant::now()))
        else {
            child.kill().expect("our own child");
            panic!("{test}: still running after {PATIENCE:?}\n{written}");
        };
        written.push_str(&text);
    }
    (child.wait().expect("our own child"), written)
}

/// The GPUs that the driver offers.
pub(crate) fn gpus(options: &CudaOptions) -> Vec<Arc<dyn Device>> {
    let backend = CudaBackend::probe(options);
    assert_eq!(backend.unavailable(), None);
    backend.devices()
}

/// The first of them.
pub(crate) fn first() -> Arc<dyn Device> {
    gpus(&CudaOptions::default()).remove(0)
}

/// A function of the driver.
pub(crate) fn function<F: Copy>(name: &CStr) -> F {
    // SAFETY: opens what is open already (by its SONAME); a test names the type that the function has.
    unsafe {
        let library = libc::dlopen(c"libcuda.so.1".as_ptr(), libc::RTLD_NOW);
        assert!(!library.is_null(), "the driver is there");
        let function = libc::dlsym(library, name.as_ptr());
        assert!(
            !function.is_null(),
            "{name:?} is not a function of our driver"
        );
        std::mem::transmute_copy::<*mut c_void, F>(&function)
    }
}

/// What is alive in the driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct Live {
    pub(crate) streams: u64,
    pub(crate) events: u64,
    pub(crate) allocations: u64,
    pub(crate) pinned: u64,
    pub(crate) contexts: u64,
}

/// Nothing is.
pub(crate) const NOTHING: Live = Live {
    streams: 0,
    events: 0,
    allocations: 0,
    pinned: 0,
    contexts: 0,
};

/// What is alive in the driver.
pub(crate) fn live() -> Live {
    let ask: unsafe extern "C" fn(*mut Live) -> i32 = function(c"fakeCudaLive");
    let mut live = NOTHING;
    // SAFETY: writes five numbers.
    assert_eq!(unsafe { ask(&raw mut live) }, 0);
    live
}

/// The next use of the stream's device finds it unusable.
pub(crate) fn crash(stream: usize) {
    let crash: unsafe extern "C" fn(usize) -> i32 = function(c"fakeCudaCrash");
    // SAFETY: a live stream of our driver.
    assert_eq!(unsafe { crash(stream) }, 0);
}

/// Runs a function as a kernel, on the bytes of a piece of device memory.
pub(crate) fn kernel(
    stream: usize,
    address: usize,
    bytes: usize,
    work: impl FnOnce(&mut [u8]) + Send + 'static,
) {
    type Kernel = (usize, usize, Box<dyn FnOnce(&mut [u8]) + Send>);
    /// # Safety
    /// `argument` is a `Box<Kernel>` turned into a pointer, which is given away with this call.
    unsafe extern "C" fn run(argument: *mut c_void) {
        // SAFETY: made by `Box::into_raw` below, for one call.
        let (address, bytes, work) = *unsafe { Box::from_raw(argument.cast::<Kernel>()) };
        let resolve: unsafe extern "C" fn(u64, u64, *mut *mut u8) -> i32 =
            function(c"fakeCudaResolve");
        let mut host = std::ptr::null_mut();
        // SAFETY: writes one pointer, to live memory of so many bytes.
        unsafe {
            assert_eq!(resolve(address as u64, bytes as u64, &raw mut host), 0);
            work(std::slice::from_raw_parts_mut(host, bytes));
        }
    }
    let argument: Box<Kernel> = Box::new((address, bytes, Box::new(work)));
    let launch: unsafe extern "C" fn(usize, unsafe extern "C" fn(*mut c_void), *mut c_void) -> i32 =
        function(c"fakeCudaLaunch");
    // SAFETY: a live stream of our driver, which calls the function once.
    let code = unsafe { launch(stream, run, Box::into_raw(argument).cast()) };
    assert_eq!(code, 0);
}
