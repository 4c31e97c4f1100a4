//! How much room a file system has.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// A file system's room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Bytes in all.
    pub total: u64,
    /// Bytes that may still be written.
    pub usable: u64,
}

/// The room of the file system that holds `dir`; none when the system does not say.
pub fn of(dir: &Path) -> Option<Space> {
    let path = CString::new(dir.as_os_str().as_bytes()).ok()?;
    let mut found = MaybeUninit::<libc::statvfs>::uninit();
    // SAFETY: `path` ends with a zero and lives through the call; statvfs fills the whole struct
    // when it returns 0, and only then is it looked at.
    let found = unsafe {
        if libc::statvfs(path.as_ptr(), found.as_mut_ptr()) != 0 {
            return None;
        }
        found.assume_init()
    };
    // The types differ between systems; all of them are unsigned and fit.
    #[allow(clippy::unnecessary_cast)]
    let (block, blocks, free) = (found.f_frsize as u64, found.f_blocks as u64, found.f_bavail as u64);
    Some(Space { total: block.saturating_mul(blocks), usable: block.saturating_mul(free) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_has_room_and_one_that_is_not_there_has_none() {
        let space = of(&std::env::temp_dir()).unwrap();
        assert!(space.total > 0 && space.usable <= space.total, "{space:?}");
        assert_eq!(of(Path::new("/no/such/directory")), None);
    }
}
