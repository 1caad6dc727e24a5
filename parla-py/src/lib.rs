//! The native half of the package `parla`.
