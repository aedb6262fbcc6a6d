//! The `flotilla` binary as a process of its own: what it refuses, what it survives, how it stops.
//!
//! Every test starts the real binary on a free port in a temporary folder, and speaks to it as a
//! client does: by bare RPC, by HTTP, or by bytes that are neither.
//!
//! | module | what it holds against the node |
//! |---|---|
//! | `requests` | requests that are too large, too long, reversed, or meant for somebody else |
//! | `messages` | what is no request at all: malformed, oversized, garbage |
//! | `connections` | 10,000 connections, clients that send and never read |
//! | `settings` | mistakes on the command line, in the environment, in the file |
//! | `secured` | TLS: files that cannot be used, callers who speak something else |
//! | `folder` | data folders that are foreign, taken, damaged, newer |
//! | `disk` | a full disk |
//! | `crash` | `kill -9` at any moment |
//! | `stop` | SIGTERM and Ctrl-C |
//! | `cluster` | nodes that join, and those that must not |
//! | `rolling` | a rolling restart under load |
//! | `ctl` | what a cluster's operator asks for, and what is refused |
//! | `dashboard` | the dashboard, in a browser |
//! | `recover` | a majority that is lost for good |
//!
//! `FLOTILLA_SEED` gives a random test the seed that it printed first: what is written, and when the
//! node is killed. `FLOTILLA_KILLS` says how often.

mod browser;
#[path = "../support/certificates.rs"]
mod certificates;
mod client;
mod cluster;
mod connections;
mod crash;
mod ctl;
mod dashboard;
mod dice;
mod disk;
mod folder;
mod messages;
mod node;
mod recover;
mod requests;
mod rolling;
mod route;
mod secured;
mod settings;
mod small_disk;
mod stop;
mod wire;
