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
const CONTROL: i16 = 0x20;
const TRANSACTIONAL: i16 = 0x10;
const LOG_APPEND_TIME: i16 = 0x08;

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
        if bytes.len() < HEADER_BYTES || bytes[16] != 2 {
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
        self.base_offset + i64::from(self.last_offset_delta)
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

/// Splits what a producer sent for one partition into batches, refusing what Kafka refuses.
///
/// # Errors
/// `CORRUPT_MESSAGE`, `INVALID_RECORD`, `MESSAGE_TOO_LARGE`,
/// `UNSUPPORTED_FOR_MESSAGE_FORMAT` as `LogValidator` and `UnifiedLog` of Apache Kafka.
pub fn split(sent: &[u8], batch_bytes_max: usize) -> Result<Vec<(BatchHeader, &[u8])>, ResponseError> {
    let mut batches = Vec::with_capacity(1);
    let mut rest = sent;
    while !rest.is_empty() {
        let header = BatchHeader::parse(rest).ok_or(ResponseError::CorruptMessage)?;
        if header.bytes > rest.len() {
            return Err(ResponseError::CorruptMessage);
        }
        let (batch, behind) = rest.split_at(header.bytes);
        check(&header, batch, batch_bytes_max)?;
        batches.push((header, batch));
        rest = behind;
    }
    let only_one = batches.len() == 1;
    if batches.is_empty() || (!only_one && batches.iter().any(|(header, _)| header.is_idempotent())) {
        return Err(ResponseError::InvalidRecord);
    }
    Ok(batches)
}

fn check(header: &BatchHeader, batch: &[u8], batch_bytes_max: usize) -> Result<(), ResponseError> {
    if batch.len() > batch_bytes_max {
        return Err(ResponseError::MessageTooLarge);
    }
    if !is_intact(header, batch) {
        return Err(ResponseError::CorruptMessage);
    }
    let counts_agree = header.records >= 1 && header.records.checked_sub(1) == Some(header.last_offset_delta);
    let sequenced = !header.is_idempotent() || (header.base_sequence >= 0 && header.producer_epoch >= 0);
    if !counts_agree || !sequenced || header.attributes & CONTROL != 0 {
        return Err(ResponseError::InvalidRecord);
    }
    if header.attributes & TRANSACTIONAL != 0 {
        // Transactions are not offered (InitProducerId refuses a transactional id).
        return Err(ResponseError::TransactionalIdNotFound);
    }
    if header.attributes & LOG_APPEND_TIME != 0 {
        return Err(ResponseError::InvalidTimestamp);
    }
    Ok(())
}

/// Writes the fields that the broker decides into a batch.
pub fn patch(batch: &mut [u8], base_offset: i64, leader_epoch: i32) {
    batch[0..8].copy_from_slice(&base_offset.to_be_bytes());
    batch[12..16].copy_from_slice(&leader_epoch.to_be_bytes());
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A well-formed batch of `records` records with `payload` as its body.
    pub fn batch(records: i32, producer: (i64, i16, i32), payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; HEADER_BYTES];
        bytes[8..12]
            .copy_from_slice(&i32::try_from(HEADER_BYTES - 12 + payload.len()).unwrap().to_be_bytes());
        bytes[16] = 2;
        bytes[23..27].copy_from_slice(&(records - 1).to_be_bytes());
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

    #[test]
    fn a_batch_is_split_off_and_patched_without_breaking_its_checksum() {
        let mut sent = batch(3, (-1, -1, -1), b"abc");
        sent.extend(batch(1, (-1, -1, -1), b"d"));
        let batches = split(&sent, 1000).unwrap();
        assert_eq!(batches.iter().map(|(h, _)| h.records).collect::<Vec<_>>(), [3, 1]);
        let mut first = batches[0].1.to_vec();
        patch(&mut first, 77, 5);
        let header = BatchHeader::parse(&first).unwrap();
        assert_eq!((header.base_offset, header.last_offset(), header.leader_epoch), (77, 79, 5));
        assert!(is_intact(&header, &first));
    }

    #[test]
    fn what_kafka_refuses_is_refused() {
        let sound = batch(2, (7, 0, 0), b"x");
        let mut flipped = sound.clone();
        *flipped.last_mut().unwrap() ^= 1;
        assert_eq!(split(&flipped, 1000), Err(ResponseError::CorruptMessage));
        assert_eq!(split(&sound[..sound.len() - 1], 1000), Err(ResponseError::CorruptMessage));
        assert_eq!(split(&sound, 10), Err(ResponseError::MessageTooLarge));
        assert_eq!(split(&[], 10), Err(ResponseError::InvalidRecord));
        assert_eq!(split(&[sound.clone(), sound].concat(), 1000), Err(ResponseError::InvalidRecord));
    }

    #[test]
    fn sequences_wrap_to_zero() {
        let header = BatchHeader::parse(&batch(3, (7, 0, i32::MAX), b"")).unwrap();
        assert_eq!(header.last_sequence(), 1);
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_refused_or_split_without_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            let _ = split(&bytes, 100);
        }
    }
}
