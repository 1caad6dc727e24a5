//! Graph patterns that the native benchmarks and examples run.
