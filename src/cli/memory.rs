//! What the program asks of glibc's allocator; a library leaves that to the program around it.
//!
//! Batches, and the fetches of librdkafka, live in a few hundred blocks of up to a megabyte that grow and go all the time. As
//! soon as glibc sees one of them freed it keeps that size in its heaps, up to 32 MB, where a heap stays as large as its
//! highest block: the process grew by a tenth with ten times the lag. A threshold that is set stays, and larger blocks go
//! straight back to the system. See `mallopt(3)`.

/// Blocks of this size and larger are mapped by themselves.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const MAPPED_FROM: libc::c_int = 64 << 10;

/// Sets the threshold, unless the environment does (`MALLOC_MMAP_THRESHOLD_`, `GLIBC_TUNABLES`). To be called before threads
/// start.
pub fn map_large_blocks() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    if std::env::var_os("MALLOC_MMAP_THRESHOLD_").is_none() && std::env::var_os("GLIBC_TUNABLES").is_none() {
        // SAFETY: takes two integers; glibc synchronises it with allocations. One that refuses goes on as before.
        unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED_FROM) };
    }
}
