//! Which PUs threads run on: reading the affinity mask of this process and binding a thread.

use std::io;

use crate::error::DeviceError;
use crate::topology::Core;

/// Binds the calling thread to the PUs of `core`, so that it keeps its caches. Threads that it starts
/// later inherit the binding.
///
/// # Errors
///
/// [`DeviceError::Bind`] when the operating system refuses: the core is not of this machine, is not
/// allowed to this process, or the system cannot bind threads.
pub fn bind_current_thread(core: &Core) -> Result<(), DeviceError> {
    set_mask(&core.pus).map_err(|reason| DeviceError::Bind {
        core: core.index,
        pus: core.pus.clone(),
        reason: std::sync::Arc::new(reason),
    })
}

/// The OS indices of the PUs that the calling thread may run on, ascending; `None` where the system has
/// no such notion. New threads and processes start with their parent's.
pub(crate) fn allowed_pus() -> Option<Vec<u32>> {
    Some(pus_of(&get_mask()?))
}

/// The kernel's masks are arrays of C's `unsigned long`, PU 0 being the lowest bit of the first.
type Word = libc::c_ulong;
const BITS: u32 = Word::BITS;

/// Masks of more PUs than this do not exist.
const MAX_PUS: u32 = 1 << 16;

/// The PUs of a mask, ascending.
fn pus_of(mask: &[Word]) -> Vec<u32> {
    let pus_of_word = |(index, word): (u32, Word)| {
        let bits = (0..BITS).filter(move |bit| word & (1 << bit) != 0);
        bits.map(move |bit| index * BITS + bit)
    };
    (0_u32..)
        .zip(mask.iter().copied())
        .flat_map(pus_of_word)
        .collect()
}

/// The shortest mask of these PUs.
fn mask_of(pus: &[u32]) -> Vec<Word> {
    let n_words = pus
        .iter()
        .max()
        .map_or(0, |last| (last / BITS) as usize + 1);
    let mut mask: Vec<Word> = vec![0; n_words];
    for pu in pus {
        mask[(pu / BITS) as usize] |= 1 << (pu % BITS);
    }
    mask
}

#[cfg(target_os = "linux")]
fn get_mask() -> Option<Vec<Word>> {
    let mut n_pus = 1024;
    while n_pus <= MAX_PUS {
        let mut words: Vec<Word> = vec![0; (n_pus / BITS) as usize];
        // SAFETY: the kernel writes at most the given number of bytes, all of which `words` owns, and any
        // bit pattern is a valid mask; `cpu_set_t` is itself an array of `unsigned long`. 0 is this thread.
        let rc = unsafe {
            libc::sched_getaffinity(0, size_of_val(words.as_slice()), words.as_mut_ptr().cast())
        };
        if rc == 0 {
            return Some(words);
        }
        // The kernel's masks are longer than ours: it was built for more PUs.
        if io::Error::last_os_error().raw_os_error() != Some(libc::EINVAL) {
            return None;
        }
        n_pus *= 2;
    }
    None
}

#[cfg(target_os = "linux")]
fn set_mask(pus: &[u32]) -> io::Result<()> {
    let refuse = |why| Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    if pus.is_empty() {
        return refuse("the core has no PUs");
    }
    if pus.iter().any(|&pu| pu >= MAX_PUS) {
        return refuse("no machine has such a PU");
    }
    let words = mask_of(pus);
    // SAFETY: the kernel reads exactly the given number of bytes, all of which `words` owns. 0 is this
    // thread.
    let rc =
        unsafe { libc::sched_setaffinity(0, size_of_val(words.as_slice()), words.as_ptr().cast()) };
    if rc == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(not(target_os = "linux"))]
fn get_mask() -> Option<Vec<Word>> {
    None
}

#[cfg(not(target_os = "linux"))]
fn set_mask(_pus: &[u32]) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    fn core(pus: &[u32]) -> Core {
        Core {
            index: 3,
            pus: pus.to_vec(),
            package: 0,
            numa_node: 0,
            l3: None,
        }
    }

    #[test]
    fn a_bound_thread_runs_where_it_was_bound_and_others_do_not_notice() {
        let before = allowed_pus().expect("Linux has affinity masks");
        let last = *before.last().expect("we run on some PU");
        let bound = std::thread::spawn(move || {
            bind_current_thread(&core(&[last])).expect("an allowed PU");
            allowed_pus().expect("Linux has affinity masks")
        });
        assert_eq!(bound.join().expect("the thread does not panic"), [last]);
        assert_eq!(allowed_pus().expect("Linux has affinity masks"), before);
    }

    #[test]
    fn masks_of_large_machines() {
        for pus in [&[][..], &[0], &[63], &[64], &[0, 1, 63, 64, 127, 128, 5000]] {
            assert_eq!(pus_of(&mask_of(pus)), pus);
        }
        assert_eq!(mask_of(&[1, 65]), [2, 2]);
    }

    #[test]
    fn a_core_of_another_machine_is_an_error_that_names_it() {
        let missing = MAX_PUS - 1;
        let error = bind_current_thread(&core(&[missing])).expect_err("no such PU");
        let text = error.to_string();
        assert!(
            text.contains("core 3") && text.contains(&missing.to_string()),
            "{text}"
        );
        assert!(bind_current_thread(&core(&[])).is_err());
        assert!(bind_current_thread(&core(&[u32::MAX])).is_err());
    }
}
