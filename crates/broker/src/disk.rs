//! Names that must survive a power cut: directories synced, files replaced as a whole.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Makes the names in `dir` durable.
///
/// # Errors
/// What the file system says.
pub fn sync_dir(dir: &Path) -> io::Result<()> {
    fail_if_told()?;
    File::open(dir)?.sync_all()
}

/// A directory that is kept open, so that syncing its names needs no descriptor that may not be there.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    file: File,
}

/// What became of replacing a file.
#[derive(Debug)]
pub enum Replaced {
    /// The new contents stand, through any crash.
    Durable,
    /// The old contents stand, through any crash.
    Not(io::Error),
    /// The new contents stand; a power cut may bring the old ones back.
    InDoubt(io::Error),
}

impl Directory {
    /// Opens the directory at `path`.
    ///
    /// # Errors
    /// What the file system says.
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), file: File::open(path)? })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes the names in it durable.
    ///
    /// # Errors
    /// What the file system says.
    pub fn sync(&self) -> io::Result<()> {
        fail_if_told()?;
        self.file.sync_all()
    }

    /// Puts `contents` in the place of the file `name`.
    pub fn replace(&self, name: &str, contents: &[u8]) -> Replaced {
        let fresh = self.path.join(format!("{name}.new"));
        let renamed = File::create(&fresh)
            .and_then(|mut file| file.write_all(contents).and_then(|()| file.sync_all()))
            .and_then(|()| std::fs::rename(&fresh, self.path.join(name)));
        match renamed {
            Err(error) => Replaced::Not(error),
            Ok(()) => self.sync().map_or_else(Replaced::InDoubt, |()| Replaced::Durable),
        }
    }
}

#[cfg(not(test))]
fn fail_if_told() -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
pub use failing::fail_dir_syncs;
#[cfg(test)]
use failing::fail_if_told;

/// For tests: syncs of directories that fail, in the thread that asked for it.
#[cfg(test)]
mod failing {
    use std::cell::Cell;
    use std::io;

    thread_local! {
        static FAILING: Cell<u32> = const { Cell::new(0) };
    }

    /// Has the next `count` syncs of directories in this thread fail.
    pub fn fail_dir_syncs(count: u32) {
        FAILING.set(count);
    }

    pub fn fail_if_told() -> io::Result<()> {
        match FAILING.get() {
            0 => Ok(()),
            left => {
                FAILING.set(left - 1);
                Err(io::Error::other("told to fail"))
            }
        }
    }
}
