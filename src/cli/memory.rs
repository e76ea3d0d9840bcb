//! What the program asks of glibc's allocator; a library leaves that to the program around it.
//!
//! librdkafka reads every answer of a broker into one block, of up to some megabytes, and frees it when its last record is
//! done with. Blocks as large as that are mapped and unmapped one by one, unless glibc is told otherwise: each page is faulted
//! in anew, and unmapping holds up all threads, which together cost an eighth of the process's CPU time. Told so, it keeps a
//! heap as large as what the answers needed at most. See `mallopt(3)`.

/// Blocks of this size and larger are mapped by themselves.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const MAPPED_FROM: libc::c_int = 8 << 20;

/// A heap's free end stays up to this size. (Setting one of the two stops glibc from moving the other.)
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const KEPT_AT_END: libc::c_int = 8 << 20;

/// Sets the thresholds, unless the environment does (`MALLOC_…`, `GLIBC_TUNABLES`). To be called before threads start.
pub fn keep_large_blocks() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        let theirs = ["MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES"];
        if theirs.iter().all(|name| std::env::var_os(name).is_none()) {
            // SAFETY: takes two integers; glibc synchronises it with allocations. One that refuses goes on as before.
            unsafe {
                libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED_FROM);
                libc::mallopt(libc::M_TRIM_THRESHOLD, KEPT_AT_END);
            }
        }
    }
}
