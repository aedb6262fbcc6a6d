//! `flotilla` with places at which a test kills it: `FAILPOINTS=log-sync=3*off->return` ends the process
//! as `kill -9` does when the log is about to be synced for the fourth time.

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() {
    // They stay until the process ends.
    std::mem::forget(fail::FailScenario::setup());
    flotilla::program::run()
}
