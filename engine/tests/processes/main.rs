//! What takes processes to show: kills at any moment, a full disk, missing rights.
//!
//! One test at a time: a lock on a folder is inherited by a process that another test is starting
//! at that moment, and so may outlive the file that took it.

#[path = "../common/mod.rs"]
mod common;
mod full;
mod install;
mod kill;
mod read_only;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Held by every test here.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    // A test that failed leaves nothing behind that another one sees.
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}
