//! YCSB driver, micro-benchmarks, side-by-side runs.
