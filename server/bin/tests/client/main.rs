//! A node as its clients see it: the stock `tikv-client` for every raw call it has, and bare RPC for
//! everything that it does not call or that it hides.
//!
//! Every test has a node of its own, on a free port, in a temporary folder, in this process.
#![expect(
    clippy::needless_update,
    reason = "the macros fill in requests of one field and of many alike"
)]

#[path = "../support/back_off.rs"]
mod back_off;
mod batch_commands;
#[path = "../support/certificates.rs"]
mod certificates;
mod first_write;
mod keyspaces;
mod load;
mod modes;
mod pages;
mod pd_members;
mod pd_regions;
mod pd_timestamps;
mod raw_calls;
mod readme;
mod region_errors;
mod restart;
mod secured;
mod splits;
mod stock_cas;
mod stock_limits;
mod stock_scans;
mod stock_values;
mod support;
mod transactions;
