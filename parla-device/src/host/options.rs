//! What the user asked of the host backend, and the environment variables that say it.

use std::env;

use crate::error::DeviceError;

/// More workers than this are taken for a mistake: each is an operating system thread.
pub const MAX_WORKERS: usize = 4096;

/// How to make devices of this machine's CPUs. The default leaves everything to the machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostOptions {
    /// The number of workers (`PARLA_NUM_THREADS`); `None`: one for each core that may be used.
    pub workers: Option<usize>,
    /// The most cores to use (`PARLA_CORES`); `None`: all that this process may run on.
    pub cores: Option<usize>,
    /// One device or many (`PARLA_CPU_ARCHITECTURE`).
    pub architecture: CpuArchitecture,
    /// The bytes of memory that tasks may claim, all devices together (`PARLA_CPU_MEM`); `None`: all that
    /// is available to this process.
    pub memory: Option<u64>,
}

/// What counts as one CPU device.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum CpuArchitecture {
    /// All workers together.
    #[default]
    Whole,
    /// Each worker, with an equal share of the memory.
    Cores,
}

impl HostOptions {
    /// Reads the options from environment variables, of which `lookup` gives the value if it is set.
    ///
    /// | variable | value |
    /// |---|---|
    /// | `PARLA_NUM_THREADS` | number of workers, 1 to [`MAX_WORKERS`] |
    /// | `PARLA_CORES` | bound on the cores used, 1 to [`MAX_WORKERS`] |
    /// | `PARLA_CPU_ARCHITECTURE` | `whole` or `cores` |
    /// | `PARLA_CPU_MEM` | bytes, optionally with one of the suffixes `K`, `M`, `G`, `T` or `KiB` .. `TiB` (all powers of 1024) |
    ///
    /// # Errors
    ///
    /// [`DeviceError::BadVariable`] for a value that is none of these, the empty one included.
    pub fn from_env(lookup: impl Fn(&str) -> Option<String>) -> Result<Self, DeviceError> {
        let count = |name| parse(&lookup, name, "a whole number from 1 to 4096", parse_count);
        let architecture = parse(
            &lookup,
            "PARLA_CPU_ARCHITECTURE",
            "\"whole\" or \"cores\"",
            parse_architecture,
        )?;
        Ok(Self {
            workers: count("PARLA_NUM_THREADS")?,
            cores: count("PARLA_CORES")?,
            architecture: architecture.unwrap_or_default(),
            memory: parse(
                &lookup,
                "PARLA_CPU_MEM",
                "a whole number of bytes above 0, such as 4000000000, 512MiB or 8G",
                parse_bytes,
            )?,
        })
    }

    /// Reads the options from this process's environment.
    ///
    /// # Errors
    ///
    /// As [`HostOptions::from_env`]. A value that is not UTF-8 is an error like any other bad value.
    pub fn from_process_env() -> Result<Self, DeviceError> {
        // Replacement characters occur in no allowed value.
        Self::from_env(|name| env::var_os(name).map(|value| value.to_string_lossy().into_owned()))
    }
}

/// Looks a variable up and parses it; `Ok(None)` when it is not set.
pub(crate) fn parse<T>(
    lookup: impl Fn(&str) -> Option<String>,
    name: &'static str,
    allowed: &'static str,
    parser: impl Fn(&str) -> Option<T>,
) -> Result<Option<T>, DeviceError> {
    let Some(value) = lookup(name) else {
        return Ok(None);
    };
    match parser(value.trim()) {
        Some(parsed) => Ok(Some(parsed)),
        None => Err(DeviceError::BadVariable {
            name,
            value,
            allowed,
        }),
    }
}

fn parse_count(text: &str) -> Option<usize> {
    parse_digits(text)?
        .try_into()
        .ok()
        .filter(|count| (1..=MAX_WORKERS).contains(count))
}

fn parse_architecture(text: &str) -> Option<CpuArchitecture> {
    match text.to_ascii_lowercase().as_str() {
        "whole" => Some(CpuArchitecture::Whole),
        "cores" => Some(CpuArchitecture::Cores),
        _ => None,
    }
}

pub(crate) fn parse_bytes(text: &str) -> Option<u64> {
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at(digits);
    let shift = match suffix.trim_start() {
        "" => 0,
        "K" | "KiB" => 10,
        "M" | "MiB" => 20,
        "G" | "GiB" => 30,
        "T" | "TiB" => 40,
        _ => return None,
    };
    parse_digits(number)?
        .checked_mul(1 << shift)
        .filter(|&bytes| bytes > 0)
}

/// A number of nothing but digits; `str::parse` would also take a leading `+`.
pub(crate) fn parse_digits(text: &str) -> Option<u64> {
    text.bytes()
        .all(|byte| byte.is_ascii_digit())
        .then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn options(variables: &[(&str, &str)]) -> Result<HostOptions, DeviceError> {
        HostOptions::from_env(|name| {
            variables
                .iter()
                .find(|(variable, _)| *variable == name)
                .map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn nothing_set_is_the_default() {
        assert_eq!(
            options(&[]).expect("no variable is bad"),
            HostOptions::default()
        );
    }

    #[test]
    fn every_variable_is_read() {
        let all = options(&[
            ("PARLA_NUM_THREADS", " 3 "),
            ("PARLA_CORES", "4096"),
            ("PARLA_CPU_ARCHITECTURE", "Cores"),
            ("PARLA_CPU_MEM", "2GiB"),
        ]);
        let expected = HostOptions {
            workers: Some(3),
            cores: Some(4096),
            architecture: CpuArchitecture::Cores,
            memory: Some(2 << 30),
        };
        assert_eq!(all.expect("all are good"), expected);
    }

    #[test]
    fn bytes_with_and_without_suffixes() {
        for (text, expected) in [
            ("1", 1),
            ("1024", 1024),
            ("3K", 3 << 10),
            ("3KiB", 3 << 10),
            ("3M", 3 << 20),
            ("3 MiB", 3 << 20),
            ("3G", 3 << 30),
            ("3GiB", 3 << 30),
            ("3T", 3 << 40),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(parse_bytes(text), Some(expected), "{text:?}");
        }
    }

    #[test]
    fn bad_values_are_errors_that_name_variable_value_and_what_is_allowed() {
        for (name, bad_values, allowed) in [
            (
                "PARLA_NUM_THREADS",
                &[
                    "0",
                    "-1",
                    "4097",
                    "two",
                    "1.5",
                    "",
                    "+2",
                    "99999999999999999999",
                ][..],
                "1 to 4096",
            ),
            ("PARLA_CORES", &["0", "all", "4097", "nan"], "1 to 4096"),
            (
                "PARLA_CPU_ARCHITECTURE",
                &["gpu", "", "whole cores"],
                "\"whole\" or \"cores\"",
            ),
            (
                "PARLA_CPU_MEM",
                &[
                    "0",
                    "0G",
                    "",
                    "G",
                    "-1",
                    "1.5G",
                    "1GB",
                    "1KB",
                    "inf",
                    "\u{fffd}",
                    "16777216T",
                    "18446744073709551616",
                ],
                "512MiB",
            ),
        ] {
            for value in bad_values {
                let error = options(&[(name, value)]).expect_err(value).to_string();
                for part in [name, &format!("{value:?}"), allowed] {
                    assert!(error.contains(part), "{error:?} should contain {part:?}");
                }
            }
        }
    }

    #[test]
    fn the_stated_maximum_is_the_checked_one() {
        let error = options(&[("PARLA_CORES", "x")])
            .expect_err("not a number")
            .to_string();
        assert!(error.contains(&MAX_WORKERS.to_string()), "{error}");
    }

    proptest! {
        #[test]
        fn no_value_panics(value in ".{0,24}") {
            for name in ["PARLA_NUM_THREADS", "PARLA_CORES", "PARLA_CPU_ARCHITECTURE", "PARLA_CPU_MEM"] {
                let _ = options(&[(name, &value)]);
            }
        }
    }
}
