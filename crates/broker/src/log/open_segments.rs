//! The sealed segments that are open for readers: so many at a time, the longest unused is closed first.

use super::index::Index;
use super::seal;
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Sealed segments that are open at the same time, each with a descriptor and up to 200 KiB of index.
const OPEN_MAX: usize = 128;

/// A segment open for readers.
#[derive(Debug)]
pub struct OpenSegment {
    /// Its file.
    pub file: Arc<File>,
    /// Where its batches stand; empty when its seal cannot be read, so that it is read from its beginning.
    pub index: Index,
}

#[derive(Debug, Default)]
struct Open {
    by_path: HashMap<PathBuf, (u64, Arc<OpenSegment>)>,
    uses: u64,
}

/// The open sealed segments of a broker; shared by its logs.
#[derive(Debug, Clone, Default)]
pub struct OpenSegments(Arc<Mutex<Open>>);

impl OpenSegments {
    /// The sealed segment at `path`.
    ///
    /// # Errors
    /// What the file system says.
    pub fn get(&self, path: &Path) -> io::Result<Arc<OpenSegment>> {
        if let Some(open) = self.lock().find(path) {
            return Ok(open);
        }
        // Opened outside the lock: two readers may both open it, and one of them is kept.
        let index = seal::read_index(path).unwrap_or_default();
        let opened = Arc::new(OpenSegment { file: Arc::new(File::open(path)?), index });
        self.lock().keep(path, Arc::clone(&opened));
        Ok(opened)
    }

    /// Closes the segment at `path`, which is gone.
    pub fn forget(&self, path: &Path) {
        self.lock().by_path.remove(path);
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Open {
    fn find(&mut self, path: &Path) -> Option<Arc<OpenSegment>> {
        self.uses += 1;
        let (used, open) = self.by_path.get_mut(path)?;
        *used = self.uses;
        Some(Arc::clone(open))
    }

    fn keep(&mut self, path: &Path, opened: Arc<OpenSegment>) {
        self.uses += 1;
        self.by_path.insert(path.to_owned(), (self.uses, opened));
        while self.by_path.len() > OPEN_MAX {
            let longest_unused = self.by_path.iter().min_by_key(|(_, (used, _))| *used);
            let Some(path) = longest_unused.map(|(path, _)| path.clone()) else { return };
            self.by_path.remove(&path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_segments_than_the_limit_stay_open_and_the_used_ones_do() {
        let dir = tempfile::tempdir().unwrap();
        let open = OpenSegments::default();
        let path = |n: usize| dir.path().join(format!("{n}.log"));
        for n in 0..OPEN_MAX * 2 {
            std::fs::write(path(n), "").unwrap();
            open.get(&path(n)).unwrap();
            open.get(&path(0)).unwrap();
        }
        assert_eq!(open.lock().by_path.len(), OPEN_MAX);
        assert!(open.lock().by_path.contains_key(&path(0)));
        assert!(!open.lock().by_path.contains_key(&path(1)));
        open.forget(&path(0));
        assert!(!open.lock().by_path.contains_key(&path(0)));
    }
}
