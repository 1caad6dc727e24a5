//! What the user asked of the CUDA backend, and the environment variables that say it.

use crate::DeviceError;
use crate::host::options::{parse, parse_bytes, parse_digits};

/// More logical GPUs than this are taken for a mistake: a machine has at most 64 memories.
const MAX_GPUS: u32 = 63;

/// How to make devices of the GPUs. The default is one for each card, with most of its memory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CudaOptions {
    /// Logical GPUs to make of the cards (`PARLA_VIRTUAL_GPUS`), dealt out to the cards in turn; fewer than there are cards: the
    /// first ones. Those on one card have streams and memory of their own, and share its compute units.
    pub virtual_gpus: Option<u32>,
    /// The bytes that tasks and arrays may use on each GPU (`PARLA_GPU_MEM`), or on each one by index, the last entry being for all
    /// others. Never more than a card's memory divided by the GPUs on it. Empty: that less a reserve for the context and for libraries.
    pub memory: Vec<u64>,
}

impl CudaOptions {
    /// Reads the options from environment variables, of which `lookup` gives the value if it is set.
    ///
    /// | variable | value |
    /// |---|---|
    /// | `PARLA_VIRTUAL_GPUS` | number of logical GPUs, 1 to 63 |
    /// | `PARLA_GPU_MEM` | bytes for each, as `PARLA_CPU_MEM` |
    ///
    /// # Errors
    /// [`DeviceError::BadVariable`] for a value that is none of these, the empty one included.
    pub fn from_env(lookup: impl Fn(&str) -> Option<String>) -> Result<Self, DeviceError> {
        let count = |text: &str| {
            let count = u32::try_from(parse_digits(text)?).ok()?;
            (1..=MAX_GPUS).contains(&count).then_some(count)
        };
        let bytes = "a whole number of bytes above 0, such as 4000000000, 512MiB or 8G";
        let memory = parse(&lookup, "PARLA_GPU_MEM", bytes, parse_bytes)?;
        Ok(Self {
            virtual_gpus: parse(
                &lookup,
                "PARLA_VIRTUAL_GPUS",
                "a whole number from 1 to 63",
                count,
            )?,
            memory: memory.into_iter().collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(name: &str, value: &str) -> Result<CudaOptions, DeviceError> {
        CudaOptions::from_env(|asked| (asked == name).then(|| value.to_owned()))
    }

    #[test]
    fn variables_say_how_many_and_how_much() {
        let many = options("PARLA_VIRTUAL_GPUS", "4").expect("a number");
        assert_eq!(
            many,
            CudaOptions {
                virtual_gpus: Some(4),
                memory: vec![]
            }
        );
        let much = options("PARLA_GPU_MEM", "2G").expect("bytes");
        assert_eq!(much.memory, [2 << 30]);
        assert_eq!(
            options("OTHER", "x").expect("nothing set"),
            CudaOptions::default()
        );
    }

    #[test]
    fn nonsense_is_an_error_that_names_the_variable() {
        for (name, value) in [
            ("PARLA_VIRTUAL_GPUS", "0"),
            ("PARLA_VIRTUAL_GPUS", "-1"),
            ("PARLA_VIRTUAL_GPUS", "64"),
            ("PARLA_VIRTUAL_GPUS", ""),
            ("PARLA_GPU_MEM", "0"),
            ("PARLA_GPU_MEM", "many"),
        ] {
            let error = options(name, value).expect_err("nonsense").to_string();
            assert!(error.contains(name), "{error}");
        }
    }
}
