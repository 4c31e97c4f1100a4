//! What the disk refuses right now, for whoever asks how the broker is.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What kind of thing is in the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TroubleKind {
    /// The disk, a quota or a limit on file sizes has no room.
    DiskFull,
    /// The process or the system has no file descriptors left (`ulimit -n`).
    TooFewDescriptors,
    /// Files are damaged or missing; the partition is not served.
    NotServed,
    /// The disk failed in another way.
    DiskFailed,
}

/// One thing that the disk refuses, until it works again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// The directory of a partition, or a file.
    pub place: PathBuf,
    /// What kind of thing is in the way.
    pub kind: TroubleKind,
    /// What the system said.
    pub what: String,
    /// Since when, in ms since 1970.
    pub since_ms: i64,
}

/// The troubles of a broker, by place; shared by all that write.
#[derive(Debug, Clone, Default)]
pub struct Troubles(Arc<Mutex<BTreeMap<PathBuf, Trouble>>>);

impl TroubleKind {
    /// What an error of the file system stands for.
    #[must_use]
    pub fn of(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
                Self::DiskFull
            }
            _ if matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE)) => Self::TooFewDescriptors,
            _ => Self::DiskFailed,
        }
    }

    /// In words, for messages.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::DiskFull => "the broker's disk is full",
            Self::TooFewDescriptors => "the broker has too few file descriptors (ulimit -n)",
            Self::NotServed => "the partition's files are damaged or missing",
            Self::DiskFailed => "the broker's disk failed",
        }
    }
}

impl std::fmt::Display for Trouble {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {} ({})", self.kind.words(), self.place.display(), self.what)
    }
}

impl Troubles {
    /// Says that `place` cannot be written.
    pub fn report(&self, place: &Path, error: &io::Error) {
        self.put(place, TroubleKind::of(error), error.to_string());
    }

    /// Says that the partition in `place` is not served.
    pub fn not_served(&self, place: &Path, why: String) {
        self.put(place, TroubleKind::NotServed, why);
    }

    fn put(&self, place: &Path, kind: TroubleKind, what: String) {
        let mut all = self.lock();
        let since_ms = all.get(place).map_or_else(crate::state::now_ms, |before| before.since_ms);
        all.insert(place.to_owned(), Trouble { place: place.to_owned(), kind, what, since_ms });
    }

    /// Says that `place` can be written again.
    pub fn clear(&self, place: &Path) {
        self.lock().remove(place);
    }

    /// Forgets everything at and below `place`, which is gone.
    pub fn clear_below(&self, place: &Path) {
        self.lock().retain(|troubled, _| !troubled.starts_with(place));
    }

    /// What is in the way at `place`.
    #[must_use]
    pub fn at(&self, place: &Path) -> Option<Trouble> {
        self.lock().get(place).cloned()
    }

    /// All of them, by place.
    #[must_use]
    pub fn all(&self) -> Vec<Trouble> {
        self.lock().values().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<PathBuf, Trouble>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
