//! One file of a partition's log: whole batches in offset order, and where to find them.

use super::EpochStart;
use super::batch::{BatchHeader, HEADER_BYTES};
use super::index::{Index, Place, Wanted};
use super::open_segments::OpenSegments;
use super::producers::Producers;
use super::seal::{self, Seal};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::UNIX_EPOCH;

/// One log file.
#[derive(Debug)]
pub struct Segment {
    /// Offset of its first record, also its file name.
    pub base_offset: i64,
    /// Its bytes that hold whole batches.
    pub bytes: u64,
    /// Highest timestamp in it, in ms; -1 when it is empty.
    pub max_timestamp: i64,
    /// When its first batch was appended, in ms since 1970; for `segment.ms`.
    pub first_appended_ms: Option<i64>,
    path: PathBuf,
    held: Held,
}

/// Only what is written to, and what was written until just now, keeps its file open.
#[derive(Debug)]
enum Held {
    Open { file: Arc<File>, index: Index, rolled: Option<Rolled> },
    Sealed,
}

/// What has to be known when a segment is sealed after others were begun behind it.
#[derive(Debug, Clone)]
pub struct Rolled {
    /// The offset behind its last record.
    pub end_offset: i64,
    /// The leader epochs that begin in it.
    pub epochs: Vec<EpochStart>,
    /// Producers' batches up to its end; none when a later segment knows them.
    pub producers: Option<Producers>,
    /// It is on disk already.
    pub is_synced: bool,
    /// That it cannot be sealed was said.
    pub failure_was_told: bool,
}

/// All that is needed to seal a segment, outside the log's lock.
#[derive(Debug)]
pub struct ToSeal {
    /// Which one.
    pub base_offset: i64,
    /// Its file.
    pub file: Arc<File>,
    path: PathBuf,
    seal: Seal,
    index: Index,
    rolled: Rolled,
}

/// One segment's part in a read, taken under the lock and opened outside it.
#[derive(Debug)]
pub struct Part {
    base_offset: i64,
    path: PathBuf,
    end: u64,
    open: Option<(Arc<File>, Place)>,
}

/// Bytes of one segment to be read.
#[derive(Debug)]
pub struct Span {
    /// The file.
    pub file: Arc<File>,
    /// Where to begin.
    pub from: Place,
    /// The end of its whole batches.
    pub end: u64,
}

/// The path of the segment that begins at `base_offset`.
pub fn path_of(dir: &Path, base_offset: i64) -> PathBuf {
    dir.join(format!("{base_offset:020}.log"))
}

impl Segment {
    /// Creates the segment that begins at `base_offset`; an empty file of that name is taken over.
    ///
    /// # Errors
    /// What the file system says; a file that is there and holds something.
    pub fn create(dir: &Path, base_offset: i64) -> io::Result<Self> {
        let path = path_of(dir, base_offset);
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path)?;
        if file.metadata()?.len() > 0 {
            let what = format!("{} is there already and holds records", path.display());
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, what));
        }
        Ok(Self::over(path, base_offset, file))
    }

    /// Opens the file of the segment that begins at `base_offset`, of which nothing is known yet.
    ///
    /// # Errors
    /// What the file system says.
    pub fn open(dir: &Path, base_offset: i64) -> io::Result<Self> {
        let path = path_of(dir, base_offset);
        let file = OpenOptions::new().read(true).write(true).open(&path)?;
        Ok(Self::over(path, base_offset, file))
    }

    /// A segment of which its seal tells all.
    pub fn sealed(dir: &Path, base_offset: i64, seal: &Seal) -> Self {
        Self {
            base_offset,
            bytes: seal.bytes,
            max_timestamp: seal.max_timestamp,
            first_appended_ms: Some(seal.first_appended_ms).filter(|ms| *ms >= 0),
            path: path_of(dir, base_offset),
            held: Held::Sealed,
        }
    }

    fn over(path: PathBuf, base_offset: i64, file: File) -> Self {
        let held = Held::Open { file: Arc::new(file), index: Index::default(), rolled: None };
        Self { base_offset, bytes: 0, max_timestamp: -1, first_appended_ms: None, path, held }
    }

    /// The file's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file, while it is open.
    pub fn file(&self) -> Option<Arc<File>> {
        match &self.held {
            Held::Open { file, .. } => Some(Arc::clone(file)),
            Held::Sealed => None,
        }
    }

    /// Writes `batch` behind the last one; on an error nothing of it remains.
    ///
    /// # Errors
    /// What the file system says, e.g. no space left. The file is cut back to its whole batches.
    pub fn append(&mut self, header: &BatchHeader, batch: &[u8]) -> io::Result<()> {
        let Held::Open { file, .. } = &self.held else {
            return Err(io::Error::other("a sealed segment takes no records"));
        };
        if let Err(error) = file.write_all_at(batch, self.bytes) {
            file.set_len(self.bytes)?;
            return Err(error);
        }
        self.note(header);
        Ok(())
    }

    /// Counts a batch that stands in the file at its end; `base_offset` of `header` is final.
    pub fn note(&mut self, header: &BatchHeader) {
        if let Held::Open { index, .. } = &mut self.held {
            index.note(header, self.bytes, self.max_timestamp);
        }
        self.bytes += header.bytes as u64;
        self.max_timestamp = self.max_timestamp.max(header.max_timestamp);
    }

    /// Says that another segment was begun behind this one.
    pub fn roll(&mut self, by: Rolled) {
        if let Held::Open { rolled, .. } = &mut self.held {
            *rolled = Some(by);
        }
    }

    /// Whether others stand behind it and it is not sealed yet.
    pub fn is_rolled_and_open(&self) -> bool {
        matches!(self.held, Held::Open { rolled: Some(_), .. })
    }

    /// What is needed to seal it, when it is rolled and not sealed.
    pub fn to_seal(&self) -> Option<ToSeal> {
        let Held::Open { file, index, rolled: Some(rolled) } = &self.held else { return None };
        let seal = Seal {
            bytes: self.bytes,
            end_offset: rolled.end_offset,
            max_timestamp: self.max_timestamp,
            first_appended_ms: self.first_appended_ms.unwrap_or(-1),
            epochs: rolled.epochs.clone(),
        };
        Some(ToSeal {
            base_offset: self.base_offset,
            file: Arc::clone(file),
            path: self.path.clone(),
            seal,
            index: index.thinned(),
            rolled: rolled.clone(),
        })
    }

    /// Notes what became of sealing it; once sealed its file is closed.
    pub fn sealing_ended(&mut self, sealed: &io::Result<()>) {
        let Held::Open { rolled: Some(rolled), .. } = &mut self.held else { return };
        rolled.is_synced = true;
        match sealed {
            Ok(()) => self.held = Held::Sealed,
            Err(error) => {
                if !std::mem::replace(&mut rolled.failure_was_told, true) {
                    tracing::warn!(file = %self.path.display(), %error, "cannot seal a segment; it stays open, and the next start reads it whole");
                }
            }
        }
    }

    /// Cuts the file to its whole batches.
    ///
    /// # Errors
    /// What the file system says.
    pub fn cut_tail(&self) -> io::Result<()> {
        let Some(file) = self.file() else { return Ok(()) };
        file.set_len(self.bytes)?;
        file.sync_data()
    }

    /// Takes from the file when its first batch was appended, as nearly as can be known: not before the
    /// file was made nor before the batch's own time, and not after now.
    pub fn date_first_append(&mut self, first_batch_ms: i64, now_ms: i64) {
        let made_ms = self.file().and_then(|file| {
            let metadata = file.metadata().ok()?;
            let made = metadata.created().or_else(|_| metadata.modified()).ok()?;
            i64::try_from(made.duration_since(UNIX_EPOCH).ok()?.as_millis()).ok()
        });
        self.first_appended_ms = Some(made_ms.unwrap_or(now_ms).max(first_batch_ms).min(now_ms));
    }

    /// When it was written last, in ms since 1970; for records that bring no time of their own.
    pub fn modified_ms(&self) -> Option<i64> {
        let modified = std::fs::metadata(&self.path).and_then(|metadata| metadata.modified()).ok()?;
        i64::try_from(modified.duration_since(UNIX_EPOCH).ok()?.as_millis()).ok()
    }

    /// Its part in a read for `wanted`.
    pub fn part(&self, wanted: Wanted) -> Part {
        let open = match &self.held {
            Held::Open { file, index, .. } => Some((Arc::clone(file), index.place(wanted, self.base_offset))),
            Held::Sealed => None,
        };
        Part { base_offset: self.base_offset, path: self.path.clone(), end: self.bytes, open }
    }

    /// Removes the file and what stands beside it.
    ///
    /// # Errors
    /// What the file system says.
    pub fn remove(&self) -> io::Result<()> {
        std::fs::remove_file(&self.path)?;
        seal::remove(&self.path)
    }
}

impl ToSeal {
    /// Syncs the segment.
    ///
    /// # Errors
    /// What the file system says: it may or may not be on disk.
    pub fn sync(&self) -> io::Result<()> {
        if self.rolled.is_synced { Ok(()) } else { self.file.sync_data() }
    }

    /// Writes the seal, and the producers' file in the place of the one of the segment before.
    ///
    /// # Errors
    /// What the file system says; the segment is as it was.
    pub fn seal(&self, before: Option<&Path>) -> io::Result<()> {
        seal::write(&self.path, &self.seal, &self.index)?;
        if let Some(producers) = &self.rolled.producers {
            seal::write_producers(&self.path, producers)?;
            before.into_iter().for_each(seal::remove_producers);
        }
        Ok(())
    }
}

impl ToSeal {
    /// Takes back the seal of a segment that is gone.
    pub fn remove_seal(&self) {
        // A file that stays is without meaning, and in nobody's way.
        let _ = seal::remove(&self.path);
    }
}

impl Part {
    /// Opens what has to be opened and finds the place to begin at.
    ///
    /// # Errors
    /// What the file system says.
    pub fn open(self, wanted: Wanted, sealed: &OpenSegments) -> io::Result<Span> {
        let (file, from) = match self.open {
            Some(open) => open,
            None => {
                let opened = sealed.get(&self.path)?;
                (Arc::clone(&opened.file), opened.index.place(wanted, self.base_offset))
            }
        };
        Ok(Span { file, from, end: self.end })
    }
}

/// Reads the batch header at `position`, whatever it is; `None` when it is none, or cut short.
///
/// # Errors
/// What the file system says.
pub fn any_header_at(file: &File, position: u64, end: u64) -> io::Result<Option<BatchHeader>> {
    if position + HEADER_BYTES as u64 > end {
        return Ok(None);
    }
    let mut bytes = [0; HEADER_BYTES];
    file.read_exact_at(&mut bytes, position)?;
    Ok(BatchHeader::parse(&bytes))
}

/// Reads the header of the batch that must begin at `at`; `None` at the end of the whole batches.
///
/// # Errors
/// `InvalidData` when another or no batch stands there; otherwise what the file system says.
pub fn header_at(file: &File, at: Place, end: u64) -> io::Result<Option<BatchHeader>> {
    if at.position >= end {
        return Ok(None);
    }
    let header = any_header_at(file, at.position, end)?;
    let sound =
        header.filter(|header| header.base_offset == at.offset && header.bytes as u64 <= end - at.position);
    sound.map(Some).ok_or_else(|| damaged(at))
}

/// The error for a batch that should stand at `at` and does not.
pub fn damaged(at: Place) -> io::Error {
    let what =
        format!("the batch that should begin at byte {} with offset {} is damaged", at.position, at.offset);
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// The place behind the batch of `header`, which stands at `at`.
pub fn behind(at: Place, header: &BatchHeader) -> Place {
    Place { position: at.position + header.bytes as u64, offset: header.last_offset().saturating_add(1) }
}

/// Reads exactly `bytes` bytes at `position`.
///
/// # Errors
/// What the file system says.
pub fn read_exact(file: &File, position: u64, bytes: usize) -> io::Result<Vec<u8>> {
    let mut buffer = vec![0; bytes];
    file.read_exact_at(&mut buffer, position)?;
    Ok(buffer)
}
