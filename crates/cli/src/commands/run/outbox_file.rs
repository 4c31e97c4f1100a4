//! Notices when the outbox's file was removed or replaced while the relay has it open.
//!
//! A program that holds a removed file open goes on working on it, and never sees a row
//! of the file that took its name: nothing would go out, and nobody would be told.

use crate::exit::{During, Failure};
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const LOOK_EVERY: Duration = Duration::from_millis(500);

/// The file as it was when the run began.
pub struct OutboxFile {
    path: PathBuf,
    identity: (u64, u64),
    looked: Instant,
}

fn identity(meta: &Metadata) -> (u64, u64) {
    (meta.dev(), meta.ino())
}

impl OutboxFile {
    /// Remembers which file it is.
    pub fn now(path: &Path) -> Result<Self, Failure> {
        let meta = std::fs::metadata(path).during(format_args!("look at {}", path.display()))?;
        Ok(Self { path: path.to_owned(), identity: identity(&meta), looked: Instant::now() })
    }

    /// Looks now and then whether it is still the same.
    ///
    /// # Errors
    /// [`Failure`] when it is gone, or another file has its name.
    pub fn look(&mut self) -> Result<(), Failure> {
        if self.looked.elapsed() < LOOK_EVERY {
            return Ok(());
        }
        self.looked = Instant::now();
        let what = match std::fs::metadata(&self.path) {
            Ok(meta) if identity(&meta) == self.identity => return Ok(()),
            Ok(_) => "replaced by another file",
            Err(error) if error.kind() == io::ErrorKind::NotFound => "removed",
            // A directory that cannot be read now says nothing about the file.
            Err(_) => return Ok(()),
        };
        let path = self.path.display();
        let failure =
            Failure::new(format!("the outbox {path} was {what} while the relay worked on it; it stops"));
        Err(failure.help(
            "nothing written to a file of that name since is seen by this relay, and rows it had not sent are in \
             the removed file: put the file back (with its -wal), or run `homing init` for a new one, then \
             `homing run`",
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_was_removed_or_replaced_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("orders.db");
        std::fs::write(&path, "a").unwrap();
        let mut file = OutboxFile::now(&path).unwrap();
        let mut look = || {
            file.looked = Instant::now() - LOOK_EVERY;
            file.look().map_err(|failure| failure.to_string())
        };
        assert_eq!(look(), Ok(()));
        std::fs::write(dir.path().join("other"), "b").unwrap();
        std::fs::rename(dir.path().join("other"), &path).unwrap();
        assert!(look().unwrap_err().contains("replaced by another file"));
        std::fs::remove_file(&path).unwrap();
        assert!(look().unwrap_err().contains("was removed"));
    }
}
