//! A record batch as it stands in requests, files and responses (Kafka's message format, magic 2).
//!
//! Batches are kept raw. Base offset and partition leader epoch lie outside the
//! checksum and are patched in place; nothing else is ever rewritten.
//!
//! | bytes | field |
//! |---|---|
//! | 0..8 | base offset |
//! | 8..12 | length of what follows |
//! | 12..16 | partition leader epoch |
//! | 16 | magic |
//! | 17..21 | crc32c of 21..end |
//! | 21..23 | attributes |
//! | 23..27 | last offset delta |
//! | 27..35, 35..43 | base and max timestamp (ms) |
//! | 43..51, 51..53, 53..57 | producer id, producer epoch, base sequence |
//! | 57..61 | record count |

use kafka_protocol::ResponseError;

/// Bytes from a batch's start to its first record.
pub const HEADER_BYTES: usize = 61;
/// Bytes that a batch's length field does not count.
const BEFORE_LENGTH_ENDS: usize = 12;
/// No batch of any format is shorter than its length field says here.
const LENGTH_MIN: usize = 14;
const MAGIC_AT: usize = 16;
const MAGIC: u8 = 2;
/// Bits of the attributes that name the compression.
const CODEC: i16 = 0x07;
/// The number of the last compression.
const ZSTD: i16 = 4;
/// The version of Produce that may first bring zstd.
const ZSTD_SINCE: i16 = 7;
const CONTROL: i16 = 0x20;
const TRANSACTIONAL: i16 = 0x10;
const LOG_APPEND_TIME: i16 = 0x08;

/// How a batch's records are packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Codec {
    /// They are not.
    None,
    /// gzip (RFC 1952).
    Gzip,
    /// Snappy, raw or in the framing of Java's library.
    Snappy,
    /// The LZ4 frame format.
    Lz4,
    /// Zstandard (RFC 8878).
    Zstd,
}

/// The fields of a batch's header that the log decides by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchHeader {
    /// Offset of the first record.
    pub base_offset: i64,
    /// The whole batch, header included, in bytes.
    pub bytes: usize,
    /// The leader epoch it was appended in.
    pub leader_epoch: i32,
    /// Checksum of everything behind it.
    pub crc: u32,
    /// Compression, timestamp type, transactional and control bits.
    pub attributes: i16,
    /// Last offset minus base offset.
    pub last_offset_delta: i32,
    /// Timestamp of the first record, in ms.
    pub base_timestamp: i64,
    /// Highest timestamp in the batch, in ms.
    pub max_timestamp: i64,
    /// Idempotent producer's id, or -1.
    pub producer_id: i64,
    /// Idempotent producer's epoch, or -1.
    pub producer_epoch: i16,
    /// Sequence of the first record, or -1.
    pub base_sequence: i32,
    /// Number of records.
    pub records: i32,
}

fn be<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().expect("the slice has the array's length")
}

impl BatchHeader {
    /// Reads a header; `None` when `bytes` is too short, or is no batch of magic 2 at all.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        if bytes.len() < HEADER_BYTES || bytes[MAGIC_AT] != MAGIC {
            return None;
        }
        let length = usize::try_from(i32::from_be_bytes(be(bytes, 8))).ok()?;
        let header = Self {
            base_offset: i64::from_be_bytes(be(bytes, 0)),
            bytes: length + BEFORE_LENGTH_ENDS,
            leader_epoch: i32::from_be_bytes(be(bytes, 12)),
            crc: u32::from_be_bytes(be(bytes, 17)),
            attributes: i16::from_be_bytes(be(bytes, 21)),
            last_offset_delta: i32::from_be_bytes(be(bytes, 23)),
            base_timestamp: i64::from_be_bytes(be(bytes, 27)),
            max_timestamp: i64::from_be_bytes(be(bytes, 35)),
            producer_id: i64::from_be_bytes(be(bytes, 43)),
            producer_epoch: i16::from_be_bytes(be(bytes, 51)),
            base_sequence: i32::from_be_bytes(be(bytes, 53)),
            records: i32::from_be_bytes(be(bytes, 57)),
        };
        (header.bytes >= HEADER_BYTES && header.last_offset_delta >= 0 && header.base_offset >= 0)
            .then_some(header)
    }

    /// Offset of the last record.
    pub fn last_offset(&self) -> i64 {
        // The base offset lies outside the checksum: a flipped bit may make it anything.
        self.base_offset.saturating_add(i64::from(self.last_offset_delta))
    }

    /// How its records are packed; none for a number that stands for nothing.
    pub fn codec(&self) -> Option<Codec> {
        match self.attributes & CODEC {
            0 => Some(Codec::None),
            1 => Some(Codec::Gzip),
            2 => Some(Codec::Snappy),
            3 => Some(Codec::Lz4),
            ZSTD => Some(Codec::Zstd),
            _ => None,
        }
    }

    /// Sequence of the last record; sequences wrap behind `i32::MAX` to 0.
    pub fn last_sequence(&self) -> i32 {
        let behind = i64::from(self.base_sequence) + i64::from(self.last_offset_delta);
        i32::try_from(behind % (i64::from(i32::MAX) + 1)).expect("the remainder fits i32")
    }

    /// Whether an idempotent producer wrote it.
    pub fn is_idempotent(&self) -> bool {
        self.producer_id >= 0
    }
}

/// Whether the checksum of the batch that fills `bytes` is right.
pub fn is_intact(header: &BatchHeader, bytes: &[u8]) -> bool {
    bytes.len() == header.bytes && crc32c::crc32c(&bytes[21..]) == header.crc
}

/// The one batch that a producer sent for a partition; what is cut short behind it is left out.
///
/// # Errors
/// `INVALID_RECORD` when there is none, an old one, or more than one, `CORRUPT_MESSAGE` when it is
/// no batch at all, `UNSUPPORTED_COMPRESSION_TYPE` for zstd in a request before version 7: in the
/// order of Apache Kafka's `ProduceRequest.validateRecords`.
pub fn sole(sent: &[u8], version: i16) -> Result<&[u8], ResponseError> {
    let Some(end) = whole(sent)? else { return Err(ResponseError::InvalidRecord) };
    let (batch, behind) = sent.split_at(end);
    if batch[MAGIC_AT] != MAGIC {
        return Err(ResponseError::InvalidRecord);
    }
    if version < ZSTD_SINCE && attributes(batch) & CODEC == ZSTD {
        return Err(ResponseError::UnsupportedCompressionType);
    }
    if whole(behind)?.is_some() {
        return Err(ResponseError::InvalidRecord);
    }
    Ok(batch)
}

/// Whether what a producer sent begins with a batch of a transaction.
///
/// # Errors
/// `CORRUPT_MESSAGE` when it begins with no batch at all.
pub fn is_transactional(sent: &[u8]) -> Result<bool, ResponseError> {
    let end = whole(sent)?;
    Ok(end.is_some() && sent[MAGIC_AT] == MAGIC && attributes(sent) & TRANSACTIONAL != 0)
}

/// Where the batch ends that these bytes begin with; `None` when they are cut short before that.
fn whole(bytes: &[u8]) -> Result<Option<usize>, ResponseError> {
    if bytes.len() < BEFORE_LENGTH_ENDS {
        return Ok(None);
    }
    let length = usize::try_from(i32::from_be_bytes(be(bytes, 8))).ok();
    let length = length.filter(|length| *length >= LENGTH_MIN).ok_or(ResponseError::CorruptMessage)?;
    match bytes.get(MAGIC_AT) {
        None => Ok(None),
        Some(magic) if *magic > MAGIC => Err(ResponseError::CorruptMessage),
        Some(_) => Ok(Some(BEFORE_LENGTH_ENDS + length).filter(|end| *end <= bytes.len())),
    }
}

/// Of bytes that [`whole`] has looked at.
fn attributes(batch: &[u8]) -> i16 {
    i16::from_be_bytes(be(batch, 21))
}

/// The header of a producer's batch, when the batch may be appended.
///
/// # Errors
/// `INVALID_RECORD`, `MESSAGE_TOO_LARGE`, `CORRUPT_MESSAGE`, … as `UnifiedLog` and then
/// `LogValidator` of Apache Kafka.
pub fn check(batch: &[u8], batch_bytes_max: usize) -> Result<BatchHeader, ResponseError> {
    if batch.get(..8).is_some_and(|base_offset| base_offset != [0; 8]) {
        return Err(ResponseError::InvalidRecord);
    }
    if batch.len() > batch_bytes_max {
        return Err(ResponseError::MessageTooLarge);
    }
    let header = BatchHeader::parse(batch).ok_or(ResponseError::CorruptMessage)?;
    if !is_intact(&header, batch) {
        return Err(ResponseError::CorruptMessage);
    }
    let counts_agree = header.records >= 1 && header.records.checked_sub(1) == Some(header.last_offset_delta);
    let sequenced = !header.is_idempotent() || header.base_sequence >= 0;
    if !counts_agree || !sequenced || header.codec().is_none() || header.attributes & CONTROL != 0 {
        return Err(ResponseError::InvalidRecord);
    }
    if header.attributes & LOG_APPEND_TIME != 0 {
        return Err(ResponseError::InvalidTimestamp);
    }
    Ok(header)
}

/// Puts the true highest timestamp into a header that names another one, as Apache Kafka does: retention
/// and look-ups by time go by it. The records were read and their checksum was right just before.
pub fn correct_max_timestamp(batch: &mut [u8], max_timestamp: i64) {
    batch[35..43].copy_from_slice(&max_timestamp.to_be_bytes());
    let crc = crc32c::crc32c(&batch[21..]);
    batch[17..21].copy_from_slice(&crc.to_be_bytes());
}

/// Writes the fields that the broker decides into a batch.
pub fn patch(batch: &mut [u8], base_offset: i64, leader_epoch: i32) {
    batch[0..8].copy_from_slice(&base_offset.to_be_bytes());
    batch[12..16].copy_from_slice(&leader_epoch.to_be_bytes());
}

#[cfg(test)]
pub mod tests {
    use super::*;

    fn put_varint(out: &mut Vec<u8>, value: i64) {
        let mut left = ((value << 1) ^ (value >> 63)).cast_unsigned();
        while left >= 0x80 {
            out.push(u8::try_from(left & 0x7f).unwrap() | 0x80);
            left >>= 7;
        }
        out.push(u8::try_from(left).unwrap());
    }

    /// One record as it stands in a batch.
    pub fn record(offset_delta: i64, timestamp_delta: i64, value: &[u8]) -> Vec<u8> {
        let mut fields = vec![0];
        put_varint(&mut fields, timestamp_delta);
        put_varint(&mut fields, offset_delta);
        put_varint(&mut fields, -1);
        put_varint(&mut fields, value.len() as i64);
        fields.extend_from_slice(value);
        put_varint(&mut fields, 0);
        let mut record = Vec::new();
        put_varint(&mut record, fields.len() as i64);
        record.extend_from_slice(&fields);
        record
    }

    /// A well-formed batch of `records` records, the first with `payload`, at 2,000 ms.
    pub fn batch(records: i32, producer: (i64, i16, i32), payload: &[u8]) -> Vec<u8> {
        let body = (0..records).flat_map(|n| record(n.into(), 1_000, if n == 0 { payload } else { b"" }));
        batch_of(records, producer, &body.collect::<Vec<u8>>())
    }

    /// A batch with any body and a right checksum.
    pub fn batch_of(records: i32, producer: (i64, i16, i32), payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; HEADER_BYTES];
        bytes[8..12]
            .copy_from_slice(&i32::try_from(HEADER_BYTES - 12 + payload.len()).unwrap().to_be_bytes());
        bytes[16] = 2;
        bytes[23..27].copy_from_slice(&records.saturating_sub(1).to_be_bytes());
        bytes[27..35].copy_from_slice(&1_000_i64.to_be_bytes());
        bytes[35..43].copy_from_slice(&2_000_i64.to_be_bytes());
        bytes[43..51].copy_from_slice(&producer.0.to_be_bytes());
        bytes[51..53].copy_from_slice(&producer.1.to_be_bytes());
        bytes[53..57].copy_from_slice(&producer.2.to_be_bytes());
        bytes[57..61].copy_from_slice(&records.to_be_bytes());
        bytes.extend_from_slice(payload);
        let crc = crc32c::crc32c(&bytes[21..]);
        bytes[17..21].copy_from_slice(&crc.to_be_bytes());
        bytes
    }

    const NOBODY: (i64, i16, i32) = (-1, -1, -1);
    const VERSION: i16 = 11;

    #[test]
    fn a_batch_is_taken_and_patched_without_breaking_its_checksum() {
        let sent = batch(3, NOBODY, b"abc");
        let mut taken = sole(&sent, VERSION).unwrap().to_vec();
        assert_eq!(check(&taken, 1000).unwrap().records, 3);
        patch(&mut taken, 77, 5);
        let header = BatchHeader::parse(&taken).unwrap();
        assert_eq!((header.base_offset, header.last_offset(), header.leader_epoch), (77, 79, 5));
        assert!(is_intact(&header, &taken));
    }

    #[test]
    fn one_whole_batch_is_taken_and_nothing_else() {
        let sound = batch(2, NOBODY, b"x");
        let changed = |at: usize, to: u8| {
            let mut bytes = sound.clone();
            bytes[at] = to;
            bytes
        };
        let zstd = changed(22, 4);
        assert_eq!(sole(&[], VERSION), Err(ResponseError::InvalidRecord));
        assert_eq!(sole(&sound[..sound.len() - 1], VERSION), Err(ResponseError::InvalidRecord));
        assert_eq!(sole(&sound.repeat(2), VERSION), Err(ResponseError::InvalidRecord));
        assert_eq!(sole(&changed(MAGIC_AT, 1), VERSION), Err(ResponseError::InvalidRecord));
        assert_eq!(sole(&changed(MAGIC_AT, 3), VERSION), Err(ResponseError::CorruptMessage));
        assert_eq!(sole(&changed(8, 0xff), VERSION), Err(ResponseError::CorruptMessage));
        assert_eq!(sole(&zstd, 6), Err(ResponseError::UnsupportedCompressionType));
        assert!(sole(&zstd, 7).is_ok());
        let with_rest = [&sound[..], &sound[..9]].concat();
        assert_eq!(sole(&with_rest, VERSION), Ok(&sound[..]));
    }

    #[test]
    fn a_batch_that_kafka_would_not_append_is_refused() {
        let sound = batch(2, (7, 0, 0), b"x");
        let mut flipped = sound.clone();
        *flipped.last_mut().unwrap() ^= 1;
        let mut placed = sound.clone();
        patch(&mut placed, 1, 0);
        assert!(check(&sound, 1000).is_ok());
        assert_eq!(check(&flipped, 1000), Err(ResponseError::CorruptMessage));
        assert_eq!(check(&placed, 1000), Err(ResponseError::InvalidRecord));
        assert_eq!(check(&flipped, 10), Err(ResponseError::MessageTooLarge), "looked at before the checksum");
        assert_eq!(check(&batch(2, (7, 0, -1), b"x"), 1000), Err(ResponseError::InvalidRecord));
        let mut unheard_of = sound.clone();
        unheard_of[22] = 5;
        let checksum = crc32c::crc32c(&unheard_of[21..]);
        unheard_of[17..21].copy_from_slice(&checksum.to_be_bytes());
        assert_eq!(check(&unheard_of, 1000), Err(ResponseError::InvalidRecord), "no such compression");
    }

    #[test]
    fn a_batch_of_a_transaction_is_told_by_its_flag() {
        let mut bytes = batch(1, NOBODY, b"");
        assert_eq!(is_transactional(&bytes), Ok(false));
        bytes[22] = 0x10;
        assert_eq!(is_transactional(&bytes), Ok(true));
        assert_eq!(is_transactional(&bytes[..40]), Ok(false), "cut short");
        bytes[MAGIC_AT] = 9;
        assert_eq!(is_transactional(&bytes), Err(ResponseError::CorruptMessage));
    }

    #[test]
    fn sequences_wrap_to_zero() {
        let header = BatchHeader::parse(&batch(3, (7, 0, i32::MAX), b"")).unwrap();
        assert_eq!(header.last_sequence(), 1);
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_refused_or_taken_without_panic(
            mut bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200),
            length in 0..180_u8,
        ) {
            if let Some(magic) = bytes.get_mut(MAGIC_AT) {
                *magic %= 4;
                bytes[8..12].copy_from_slice(&[0, 0, 0, length]);
            }
            let _ = (is_transactional(&bytes), check(&bytes, 100));
            if let Ok(batch) = sole(&bytes, VERSION) {
                let _ = check(batch, 100);
            }
        }
    }
}
