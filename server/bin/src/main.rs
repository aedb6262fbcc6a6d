//! The `flotilla` binary: the program of the library, with its allocator.

#[cfg(feature = "failpoints")]
compile_error!(
    "the product has no places to be killed at: build --bin flotilla-crash, for tests only"
);

/// How the allocator behaves: memory that is not used goes back to the system after two seconds, so
/// that an idle node is small; more arenas than this would only keep more of it.
#[expect(
    unsafe_code,
    reason = "a constant under the name that jemalloc looks for"
)]
// SAFETY: nothing else in the program has this name, and what stands there is what jemalloc expects: a
// pointer to a text that ends with a zero byte and lives for ever.
#[unsafe(export_name = "_rjem_malloc_conf")]
pub static ALLOCATOR_OPTIONS: &[u8; 70] =
    b"background_thread:true,dirty_decay_ms:2000,muzzy_decay_ms:0,narenas:4\0";

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() {
    flotilla::program::run()
}
