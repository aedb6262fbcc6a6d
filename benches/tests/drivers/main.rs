//! The drivers as users run them, against a store in memory that speaks the real protocol over
//! loopback.

mod cli;
mod fake;
mod raw;
mod ycsb;
