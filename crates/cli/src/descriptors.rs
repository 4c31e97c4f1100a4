//! The limit on open files: raised as far as the system allows, because topics cost files.

/// Most that is asked for; some systems set no limit at all.
const WANTED_MAX: u64 = 1 << 20;

/// Raises the soft limit to the hard one.
///
/// Failing costs nothing at once: whoever runs out of descriptors says so.
#[allow(unsafe_code)]
pub fn raise_limit() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a whole rlimit, written by the first call and read by the second.
    let raised = unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) == 0 && {
            let wanted = limit.rlim_max.min(WANTED_MAX);
            limit.rlim_cur >= wanted || {
                limit.rlim_cur = wanted;
                libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) == 0
            }
        }
    };
    if !raised {
        let error = std::io::Error::last_os_error();
        tracing::warn!(%error, "the limit on open files could not be raised");
    }
}
