//! Whether there is room on the disk under a directory.

use std::ffi::CString;
use std::path::Path;

/// A disk with less room than this counts as full: one commit may need it.
const ROOM_MIN: u64 = 1 << 20;

/// How little room is left, in words, when that is next to none; `None` when there is, or it cannot be told.
pub fn full(dir: &Path) -> Option<String> {
    let room = room(dir)?;
    (room < ROOM_MIN).then(|| format!("{}: {} KiB free", dir.display(), room / 1024))
}

/// Bytes that this user may still write.
#[allow(unsafe_code)]
fn room(dir: &Path) -> Option<u64> {
    let path = CString::new(dir.as_os_str().as_encoded_bytes()).ok()?;
    let mut disk = std::mem::MaybeUninit::<libc::statvfs>::zeroed();
    // SAFETY: the path is zero-terminated, and `disk` is written when the call succeeds.
    let disk = unsafe {
        if libc::statvfs(path.as_ptr(), disk.as_mut_ptr()) != 0 {
            return None;
        }
        disk.assume_init()
    };
    Some(disk.f_bavail.saturating_mul(disk.f_frsize))
}

/// The directory of a file; the working directory for a bare name.
pub fn dir_of(file: &Path) -> &Path {
    match file.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    }
}
