//! How many files the process may hold open: raised at start, and looked at before it is promised away.
#![allow(unsafe_code)]

use std::io;

/// Raised no further: more helps nobody, and some programs count up to the limit.
const RAISED_MAX: u64 = 1 << 20;
/// Kept free of partitions for connections, readers and whatever else the process opens.
const KEPT_FREE_MAX: u64 = 512;

/// Raises the soft limit on open files to the hard one; returns the limit that holds.
///
/// # Errors
/// What the system says; the limit is as it was.
pub fn raise_limit() -> io::Result<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: getrlimit writes to the struct it is given, which outlives the call.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let wanted = limit.rlim_max.min(RAISED_MAX);
    if limit.rlim_cur < wanted {
        let raised = libc::rlimit { rlim_cur: wanted, ..limit };
        // SAFETY: setrlimit reads the struct it is given.
        if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const raised) } != 0 {
            return Err(io::Error::last_os_error());
        }
        limit = raised;
    }
    Ok(limit.rlim_cur)
}

/// The soft limit that holds now.
fn limit() -> Option<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: as in `raise_limit`.
    let asked = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) };
    (asked == 0).then_some(limit.rlim_cur)
}

/// How many partitions may be opened besides all that is open; each holds one file. As many as one
/// likes where the system does not tell.
pub fn room_for_partitions() -> usize {
    let (Some(limit), Ok(open)) = (limit(), std::fs::read_dir("/proc/self/fd")) else { return usize::MAX };
    let taken = open.count() as u64 + (limit / 4).min(KEPT_FREE_MAX);
    usize::try_from(limit.saturating_sub(taken)).unwrap_or(usize::MAX)
}

/// Refuses so many new partitions when they would not fit.
///
/// # Errors
/// A sentence with the numbers and what to do.
pub fn check_room(partitions: usize) -> Result<(), String> {
    let room = room_for_partitions();
    if partitions <= room {
        return Ok(());
    }
    Err(format!(
        "{partitions} more partitions need {partitions} file descriptors, and the limit of {} leaves {room}; \
         raise it (ulimit -n, LimitNOFILE=) and start the broker again",
        limit().unwrap_or_default()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_the_limit_is_refused_with_the_numbers() {
        raise_limit().unwrap();
        assert_eq!(check_room(1), Ok(()));
        let too_many = usize::try_from(limit().unwrap()).unwrap();
        let why = check_room(too_many).unwrap_err();
        assert!(why.contains(&format!("{too_many} more partitions")), "{why}");
    }
}
