//! What a partition's files hold after any end.
//!
//! | found | done |
//! |---|---|
//! | whole batches to the end | all of them are kept |
//! | a torn tail: a batch cut short or half written, nothing sound behind it in this segment or a later one | the tail is cut off, later segments are removed; it was never acknowledged under `flush always` |
//! | a damaged batch, a missing segment, or two that hold the same offsets, with sound records behind | refused: those behind may be acknowledged, so nothing is cut unless `truncate_corrupted` says so |
//! | an empty segment behind others | removed: a roll that failed left it, and records may have gone on before it |
//! | no segment at all, or none where the log begins | refused: it was there once |
//!
//! A segment that is no longer written to has a `.sealed` file beside it (see [`seal`]) and is not
//! read at start: each batch is checked when it is read. One that was rolled and not sealed is read,
//! synced and sealed; the last one is always read.

use super::batch::{BatchHeader, HEADER_BYTES, is_intact};
use super::producers::Producers;
use super::seal::{self, Found};
use super::segment::{Rolled, Segment, any_header_at, path_of, read_exact};
use super::{EpochStart, LogError, retention};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

/// What is known of a partition after its files were looked through.
#[derive(Debug, Default)]
pub struct Recovered {
    /// The segments, in offset order; never empty. The last one is open.
    pub segments: Vec<Segment>,
    /// Idempotent producers' last batches.
    pub producers: Producers,
    /// Where each leader epoch begins.
    pub epochs: Vec<EpochStart>,
    /// The offset after the last record.
    pub end_offset: i64,
    /// Bytes cut off as a torn tail.
    pub torn_bytes: u64,
}

/// How to treat damage in the middle of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnDamage {
    /// Refuse to serve the partition and say where the damage is.
    Refuse,
    /// Keep what stands before the damage; move the rest aside.
    Truncate,
}

/// How a partition is looked through.
#[derive(Debug, Clone, Copy)]
pub struct Looking<'a> {
    /// Its directory.
    pub dir: &'a Path,
    /// The epoch of this start: none in the log can be later.
    pub leader_epoch: i32,
    /// What to do about damage.
    pub on_damage: OnDamage,
    /// Now, in ms since 1970.
    pub now_ms: i64,
}

/// How much of a segment has to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scan {
    /// Every byte, by checksum.
    Bytes,
    /// The headers, for the producers: it was synced and sealed.
    Headers,
}

/// A segment that was read to where it is sound.
struct Scanned {
    segment: Segment,
    file: File,
    file_bytes: u64,
    first_batch_ms: i64,
}

/// Looks through the partition's files.
///
/// # Errors
/// [`LogError::Damaged`] and [`LogError::Missing`] when serving it would hide a loss,
/// [`LogError::Io`] otherwise.
pub fn recover(looking: Looking<'_>) -> Result<Recovered, LogError> {
    let (bases, empty) = segment_bases(looking.dir)?;
    let Some(&first) = bases.first() else {
        return Err(LogError::Missing { what: looking.dir.to_owned() });
    };
    let begins_at = retention::read_start(looking.dir)?.unwrap_or(0);
    if first > begins_at && looking.on_damage == OnDamage::Refuse {
        return Err(LogError::Missing { what: path_of(looking.dir, begins_at) });
    }
    let mut recovered = Recovered { end_offset: first, ..Recovered::default() };
    // The newest that is known, and behind which segment.
    let known = (0..bases.len() - 1)
        .rev()
        .find_map(|n| Some((n, seal::read_producers(&path_of(looking.dir, bases[n]))?)));
    let known_to = known.as_ref().map(|(n, _)| *n);
    recovered.producers = known.map(|(_, producers)| producers).unwrap_or_default();
    for (n, &base) in bases.iter().enumerate() {
        let next = bases.get(n + 1).copied();
        let counts_producers = known_to.is_none_or(|known_to| n > known_to);
        match recovered.take_in(looking, base, next, counts_producers)? {
            Taken::Whole => {}
            Taken::Torn => {
                for &gone in &bases[n + 1..] {
                    recovered.torn_bytes += std::fs::metadata(path_of(looking.dir, gone))?.len();
                    remove(looking.dir, gone)?;
                }
                break;
            }
            Taken::Cut => {
                // What was remembered of producers may speak of records that are gone now.
                bases.iter().for_each(|&base| seal::remove_producers(&path_of(looking.dir, base)));
                return recover(looking);
            }
        }
    }
    for base in empty {
        tracing::warn!(dir = %looking.dir.display(), base, "removed an empty segment that a failed roll left");
        remove(looking.dir, base)?;
    }
    Ok(recovered)
}

fn remove(dir: &Path, base_offset: i64) -> io::Result<()> {
    std::fs::remove_file(path_of(dir, base_offset))?;
    seal::remove(&path_of(dir, base_offset))
}

/// What became of a segment.
enum Taken {
    /// It is part of the log.
    Whole,
    /// Its tail was torn and is cut off; the log ends in it.
    Torn,
    /// It was damaged and is cut, as told; the log must be looked through anew.
    Cut,
}

impl Recovered {
    fn take_in(
        &mut self,
        looking: Looking<'_>,
        base: i64,
        next: Option<i64>,
        counts_producers: bool,
    ) -> Result<Taken, LogError> {
        let path = path_of(looking.dir, base);
        let found = if next.is_some() { seal::read(&path) } else { Found::Nothing };
        let file_bytes = std::fs::metadata(&path)?.len();
        let scan = match found {
            Found::Seal(seal) if seal.bytes == file_bytes && next >= Some(seal.end_offset) => {
                if !counts_producers && (next == Some(seal.end_offset) || was_cut(&path)?) {
                    seal.epochs.iter().for_each(|start| self.note_epoch(looking, *start));
                    self.end_offset = seal.end_offset;
                    self.segments.push(Segment::sealed(looking.dir, base, &seal));
                    return Ok(Taken::Whole);
                }
                Scan::Headers
            }
            Found::SyncedOnly => Scan::Headers,
            Found::Seal(_) | Found::Nothing => Scan::Bytes,
        };
        let epochs_before = self.epochs.len();
        let scanned = self.scan(looking, Segment::open(looking.dir, base)?, next, scan, counts_producers)?;
        let whole = scanned.segment.bytes == scanned.file_bytes;
        let joins = next.is_none_or(|next| next == self.end_offset) || was_cut(&path)?;
        if !(whole && joins) {
            return self.end_of_sound(looking, scanned, next);
        }
        let mut segment = scanned.segment;
        if next.is_some() {
            let epochs = self.epochs[epochs_before..].to_vec();
            let producers = counts_producers.then(|| self.producers.clone());
            self.seal(&mut segment, epochs, producers)?;
        } else {
            make_active(&mut segment, scanned.first_batch_ms, looking.now_ms)?;
        }
        self.segments.push(segment);
        Ok(Taken::Whole)
    }

    /// Reads a segment to its end, or to the first batch that is not sound or belongs to the next one.
    fn scan(
        &mut self,
        looking: Looking<'_>,
        mut segment: Segment,
        next: Option<i64>,
        scan: Scan,
        counts_producers: bool,
    ) -> Result<Scanned, LogError> {
        let file = File::open(segment.path())?;
        let file_bytes = file.metadata()?.len();
        let mut expected = segment.base_offset;
        let mut first_batch_ms = -1;
        while next.is_none_or(|next| expected < next) {
            let position = segment.bytes;
            // The base offset lies outside the checksum, but there are no holes within a segment.
            let Some(header) = any_header_at(&file, position, file_bytes)?
                .filter(|header| header.base_offset == expected)
                .filter(|header| header.bytes as u64 <= file_bytes - position)
            else {
                break;
            };
            if scan == Scan::Bytes && !is_intact(&header, &read_exact(&file, position, header.bytes)?) {
                break;
            }
            if position == 0 {
                first_batch_ms = header.max_timestamp;
            }
            segment.note(&header);
            if counts_producers {
                // When it was appended is not written down; counting from the start keeps it longest.
                self.producers.appended(&header, header.base_offset, looking.now_ms);
            }
            self.note_epoch(looking, EpochStart { epoch: header.leader_epoch, offset: header.base_offset });
            expected = header.last_offset().saturating_add(1);
        }
        self.end_offset = expected;
        Ok(Scanned { segment, file, file_bytes, first_batch_ms })
    }

    /// The log is sound up to the end of what was scanned, and not there or behind it.
    fn end_of_sound(
        &mut self,
        looking: Looking<'_>,
        scanned: Scanned,
        next: Option<i64>,
    ) -> Result<Taken, LogError> {
        let Scanned { mut segment, file, file_bytes, first_batch_ms } = scanned;
        let (position, offset) = (segment.bytes, self.end_offset);
        let is_sound_behind = has_sound_batch(&file, position, file_bytes, offset)?
            || any_sound_segment(looking.dir, next, offset)?;
        if !is_sound_behind {
            segment.cut_tail()?;
            self.torn_bytes += file_bytes - position;
            make_active(&mut segment, first_batch_ms, looking.now_ms)?;
            self.segments.push(segment);
            return Ok(Taken::Torn);
        }
        let file = segment.path().to_owned();
        if looking.on_damage == OnDamage::Refuse {
            return Err(LogError::Damaged { file, position, offset });
        }
        set_aside(&segment, file_bytes)?;
        tracing::error!(file = %file.display(), position, offset, "cut a damaged log as told; the rest is kept beside it");
        segment.cut_tail()?;
        seal::remove(&file)?;
        Ok(Taken::Cut)
    }

    /// Syncs and seals a segment that others stand behind.
    fn seal(
        &self,
        segment: &mut Segment,
        epochs: Vec<EpochStart>,
        producers: Option<Producers>,
    ) -> io::Result<()> {
        segment.roll(Rolled {
            end_offset: self.end_offset,
            epochs,
            producers,
            is_synced: false,
            failure_was_told: false,
        });
        if let Some(to_seal) = segment.to_seal() {
            to_seal.sync()?;
            segment.sealing_ended(&to_seal.seal(self.segments.last().map(Segment::path)));
        }
        Ok(())
    }

    fn note_epoch(&mut self, looking: Looking<'_>, start: EpochStart) {
        // The epoch lies outside the checksum: a flipped bit must not make one from the future.
        let epoch = start.epoch.min(looking.leader_epoch);
        if self.epochs.last().is_none_or(|last| last.epoch < epoch) {
            self.epochs.push(EpochStart { epoch, offset: start.offset });
        }
    }
}

/// Makes ready to write to the last segment, which may have been sealed once.
fn make_active(segment: &mut Segment, first_batch_ms: i64, now_ms: i64) -> io::Result<()> {
    if segment.bytes > 0 {
        segment.date_first_append(first_batch_ms, now_ms);
    }
    seal::remove(segment.path())
}

/// Base offsets, rising: of the segments that make up the log, and of empty ones that do not.
fn segment_bases(dir: &Path) -> io::Result<(Vec<i64>, Vec<i64>)> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let base = name
            .to_str()
            .and_then(|name| name.strip_suffix(".log"))
            .and_then(|base| base.parse::<i64>().ok());
        if let Some(base) = base {
            all.push((base, entry.metadata()?.len()));
        }
    }
    all.sort_unstable();
    let (full, empty): (Vec<_>, Vec<_>) = all.into_iter().partition(|(_, bytes)| *bytes > 0);
    let (mut bases, mut empty): (Vec<i64>, Vec<i64>) =
        (full.iter().map(|(base, _)| *base).collect(), empty.iter().map(|(base, _)| *base).collect());
    if bases.is_empty() {
        // A log without records still begins where its last segment does.
        bases.extend(empty.pop());
    }
    Ok((bases, empty))
}

/// Whether this segment was cut as told, so that offsets may be missing behind it.
fn was_cut(segment: &Path) -> io::Result<bool> {
    let (Some(dir), Some(stem)) = (segment.parent(), segment.file_stem()) else { return Ok(false) };
    let prefix = [stem.as_encoded_bytes(), b".damaged-at-"].concat();
    for entry in std::fs::read_dir(dir)? {
        if entry?.file_name().as_encoded_bytes().starts_with(&prefix) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn any_sound_segment(dir: &Path, next: Option<i64>, expected: i64) -> io::Result<bool> {
    let Some(next) = next else { return Ok(false) };
    for base in segment_bases(dir)?.0.into_iter().filter(|base| *base >= next) {
        let file = File::open(path_of(dir, base))?;
        let file_bytes = file.metadata()?.len();
        if has_sound_batch(&file, 0, file_bytes, expected.min(base))? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether any byte from `from` on begins a batch with a right checksum, and no earlier offset than
/// `expected` unless it stands right there.
fn has_sound_batch(file: &File, from: u64, file_bytes: u64, expected: i64) -> io::Result<bool> {
    let length = usize::try_from(file_bytes.saturating_sub(from)).unwrap_or(usize::MAX);
    if length < HEADER_BYTES {
        return Ok(false);
    }
    let tail = read_exact(file, from, length)?;
    let looks_sound = |at: usize| {
        let rest = &tail[at..];
        BatchHeader::parse(rest).is_some_and(|header| {
            // Where the next batch belongs an intact one is one, whatever its offset has become.
            (at == 0 || header.base_offset >= expected)
                && header.bytes <= rest.len()
                && is_intact(&header, &rest[..header.bytes])
        })
    };
    // The magic byte is 2 in every batch; anything else is skipped without a look at the rest.
    Ok((0..=tail.len() - HEADER_BYTES).any(|at| tail[at + 16] == 2 && looks_sound(at)))
}

/// Copies what is about to be cut into a file beside the segment; its name also says that it was cut.
fn set_aside(segment: &Segment, file_bytes: u64) -> io::Result<()> {
    let length = usize::try_from(file_bytes - segment.bytes).unwrap_or(usize::MAX);
    let rest = read_exact(&File::open(segment.path())?, segment.bytes, length)?;
    let aside: PathBuf = segment.path().with_extension(format!("damaged-at-{}", segment.bytes));
    std::fs::write(&aside, rest)?;
    File::open(aside)?.sync_all()
}
