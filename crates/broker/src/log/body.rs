//! The records inside a batch: looked at one by one, unpacked in pieces, never held whole.
//!
//! A producer's header says how many records follow; only a look at them tells whether that is
//! so. What it costs is bounded: pieces of a few KiB for gzip and lz4, one block for snappy, one
//! window (128 MiB at most, as in Apache Kafka) for zstd, and [`UNPACKED_BYTES_MAX`] in all.

use super::batch::{BatchHeader, Codec, HEADER_BYTES};
use std::io::{self, BufRead, BufReader, Read};
use std::ops::ControlFlow;

/// A batch that unpacks to more could be held by no client.
const UNPACKED_BYTES_MAX: u64 = i32::MAX as u64;
/// The largest zstd window, as a power of two: what level 22 asks for.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;
/// A snappy block cannot unpack to more times its size: three bytes stand for 64 at most.
const SNAPPY_RATIO_MAX: usize = 32;
/// Snappy blocks in the framing of Java's library begin with this, and two version numbers.
const SNAPPY_FRAMED: &[u8; 8] = b"\x82SNAPPY\0";
const SNAPPY_FRAME_HEADER_BYTES: usize = 16;

/// Why a batch's records cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// They are not what the header says, or no records at all.
    #[error("{0}")]
    Malformed(&'static str),
    /// They cannot be unpacked, or end too early.
    #[error("the records cannot be unpacked: {0}")]
    Unreadable(#[from] io::Error),
}

/// What the log wants to know of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// Its offset minus the batch's.
    pub offset_delta: i32,
    /// Its time in ms; -1 for none.
    pub timestamp: i64,
}

/// The times of a batch's records, in ms; -1 where no record has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Times {
    /// The earliest.
    pub earliest: i64,
    /// The latest.
    pub latest: i64,
}

/// Looks at every record of `batch`, whose header and checksum are sound.
///
/// # Errors
/// [`BodyError`] when they are not as many, as numbered and as long as they claim.
pub fn check(batch: &[u8], header: &BatchHeader) -> Result<Times, BodyError> {
    let mut times: Option<Times> = None;
    walk(batch, header, |record| {
        if record.timestamp != -1 {
            let so_far = times.get_or_insert(Times { earliest: record.timestamp, latest: record.timestamp });
            so_far.earliest = so_far.earliest.min(record.timestamp);
            so_far.latest = so_far.latest.max(record.timestamp);
        }
        ControlFlow::Continue(())
    })?;
    Ok(times.unwrap_or(Times { earliest: -1, latest: -1 }))
}

/// The first record that `wanted` accepts.
///
/// # Errors
/// As [`check`], for what stands before that record.
pub fn find(
    batch: &[u8],
    header: &BatchHeader,
    wanted: impl Fn(Seen) -> bool,
) -> Result<Option<Seen>, BodyError> {
    let mut found = None;
    walk(batch, header, |record| {
        if wanted(record) {
            found = Some(record);
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    })?;
    Ok(found)
}

/// Shows the records to `each` until it breaks off.
fn walk(
    batch: &[u8],
    header: &BatchHeader,
    each: impl FnMut(Seen) -> ControlFlow<()>,
) -> Result<(), BodyError> {
    let packed = batch.get(HEADER_BYTES..).unwrap_or_default();
    match header.codec() {
        Some(Codec::None) => walk_unpacked(packed, header, each),
        Some(Codec::Gzip) => {
            walk_unpacked(pieces(flate2::bufread::MultiGzDecoder::new(packed)), header, each)
        }
        Some(Codec::Snappy) => walk_unpacked(BufReader::new(Snappy::new(packed)?), header, each),
        Some(Codec::Lz4) => walk_unpacked(pieces(lz4::Decoder::new(packed)?), header, each),
        Some(Codec::Zstd) => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(packed)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
            walk_unpacked(pieces(decoder), header, each)
        }
        None => Err(BodyError::Malformed("there is no such compression")),
    }
}

fn pieces<R: Read>(unpacker: R) -> BufReader<R> {
    BufReader::with_capacity(16 * 1024, unpacker)
}

fn walk_unpacked<R: BufRead>(
    unpacked: R,
    header: &BatchHeader,
    mut each: impl FnMut(Seen) -> ControlFlow<()>,
) -> Result<(), BodyError> {
    let mut records = Fields { from: unpacked, taken: 0 };
    for expected in 0..header.records {
        let record = records.record(header.base_timestamp)?;
        if record.offset_delta != expected {
            return Err(BodyError::Malformed("the records are not numbered one after the other"));
        }
        if each(record).is_break() {
            return Ok(());
        }
    }
    if records.from.fill_buf()?.is_empty() {
        Ok(())
    } else {
        Err(BodyError::Malformed("there are more records than the batch says"))
    }
}

/// A reader of a record's fields that knows how many bytes it took.
struct Fields<R> {
    from: R,
    taken: u64,
}

impl<R: BufRead> Fields<R> {
    /// Takes one record whole.
    fn record(&mut self, base_timestamp: i64) -> Result<Seen, BodyError> {
        let length = self.length()?;
        let begin = self.taken;
        self.skip(1)?;
        let timestamp_delta = self.varlong()?;
        let offset_delta = self.varint()?;
        self.skip_optional()?;
        self.skip_optional()?;
        for _ in 0..self.length()? {
            let name = self.length()?;
            self.skip(name)?;
            self.skip_optional()?;
            if self.taken - begin > length {
                break;
            }
        }
        if self.taken - begin != length {
            return Err(BodyError::Malformed("a record is not as long as it says"));
        }
        if self.taken > UNPACKED_BYTES_MAX {
            return Err(BodyError::Malformed("the batch unpacks to more than 2 GiB"));
        }
        Ok(Seen { offset_delta, timestamp: base_timestamp.wrapping_add(timestamp_delta) })
    }

    fn byte(&mut self) -> Result<u8, BodyError> {
        let byte = *self.from.fill_buf()?.first().ok_or(BodyError::Malformed("the records end too early"))?;
        self.from.consume(1);
        self.taken += 1;
        Ok(byte)
    }

    fn varlong(&mut self) -> Result<i64, BodyError> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok((value >> 1).cast_signed() ^ -(value & 1).cast_signed());
            }
        }
        Err(BodyError::Malformed("a number of a record has no end"))
    }

    fn varint(&mut self) -> Result<i32, BodyError> {
        i32::try_from(self.varlong()?)
            .map_err(|_| BodyError::Malformed("a number of a record is out of range"))
    }

    fn length(&mut self) -> Result<u64, BodyError> {
        u64::try_from(self.varint()?).map_err(|_| BodyError::Malformed("a length in a record is negative"))
    }

    /// Skips what may be null, which is length -1.
    fn skip_optional(&mut self) -> Result<(), BodyError> {
        match self.varint()? {
            -1 => Ok(()),
            length => self.skip(
                u64::try_from(length)
                    .map_err(|_| BodyError::Malformed("a length in a record is negative"))?,
            ),
        }
    }

    fn skip(&mut self, bytes: u64) -> Result<(), BodyError> {
        if self.taken + bytes > UNPACKED_BYTES_MAX {
            return Err(BodyError::Malformed("the batch unpacks to more than 2 GiB"));
        }
        let mut left = bytes;
        while left > 0 {
            let there = self.from.fill_buf()?.len();
            if there == 0 {
                return Err(BodyError::Malformed("the records end too early"));
            }
            let step = there.min(usize::try_from(left).unwrap_or(usize::MAX));
            self.from.consume(step);
            left -= step as u64;
        }
        self.taken += bytes;
        Ok(())
    }
}

/// Unpacks snappy: one raw block, or blocks in the framing of Java's library.
struct Snappy<'a> {
    packed: &'a [u8],
    is_framed: bool,
    block: Vec<u8>,
    read_to: usize,
}

impl<'a> Snappy<'a> {
    fn new(packed: &'a [u8]) -> io::Result<Self> {
        let is_framed = packed.starts_with(SNAPPY_FRAMED);
        let packed = if is_framed { packed.get(SNAPPY_FRAME_HEADER_BYTES..) } else { Some(packed) };
        let packed = packed.ok_or(io::ErrorKind::UnexpectedEof)?;
        Ok(Self { packed, is_framed, block: Vec::new(), read_to: 0 })
    }

    /// The next packed block.
    fn take_block(&mut self) -> io::Result<&'a [u8]> {
        if !self.is_framed {
            return Ok(std::mem::take(&mut self.packed));
        }
        let (length, rest) = self.packed.split_first_chunk().ok_or(io::ErrorKind::UnexpectedEof)?;
        let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
        let (block, rest) = rest.split_at_checked(length).ok_or(io::ErrorKind::UnexpectedEof)?;
        self.packed = rest;
        Ok(block)
    }
}

impl Read for Snappy<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.read_to == self.block.len() {
            if self.packed.is_empty() {
                return Ok(0);
            }
            let packed = self.take_block()?;
            let unpacked = snap::raw::decompress_len(packed).map_err(io::Error::other)?;
            if unpacked > packed.len().saturating_mul(SNAPPY_RATIO_MAX) {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "a block claims more than it can hold",
                ));
            }
            self.block.resize(unpacked, 0);
            snap::raw::Decoder::new().decompress(packed, &mut self.block).map_err(io::Error::other)?;
            self.read_to = 0;
        }
        let step = out.len().min(self.block.len() - self.read_to);
        out[..step].copy_from_slice(&self.block[self.read_to..self.read_to + step]);
        self.read_to += step;
        Ok(step)
    }
}

#[cfg(test)]
#[path = "body_tests.rs"]
mod tests;
