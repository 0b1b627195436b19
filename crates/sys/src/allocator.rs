//! How the C library's allocator, which is this workspace's, treats large allocations.

/// Has every allocation of at least `bytes` be a mapping of its own, for good, so that it goes back to the system when it is
/// freed. For the whole process.
///
/// Left to itself, glibc takes them from its heaps as soon as one was freed, and a heap gives back only what is free at
/// its end. For servers whose buffers are used for long and by many at a time; who allocates and frees them all the
/// time pays with a system call and cleared pages for each. Does nothing with another C library. See `mallopt(3)`.
pub fn map_from(bytes: u32) {
    #[cfg(target_env = "gnu")]
    {
        let bytes = libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX);
        // SAFETY: takes two integers, and the allocator's own lock. It refuses what it cannot do, which changes nothing.
        let _ = unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, bytes) };
    }
    #[cfg(not(target_env = "gnu"))]
    let _ = bytes;
}

#[cfg(all(test, target_env = "gnu"))]
mod tests {
    use super::*;

    /// A mapping of its own begins with its length and its neighbour's, and then the bytes.
    const BEHIND_PAGE: usize = 16;

    #[test]
    fn large_allocations_stay_mappings_after_the_first_was_freed() {
        map_from(128 << 10);
        for round in 0..16 {
            let large = vec![round; 200 << 10];
            assert_eq!(large.as_ptr().addr() % 4096, BEHIND_PAGE, "{round}");
        }
    }
}
