//! Record batches, sound and broken in every way a client could break them.

use bytes::{Bytes, BytesMut};
use kafka_protocol::records::{Compression, Record, RecordBatchEncoder, RecordEncodeOptions, TimestampType};
use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};

/// Bytes of a batch before its records.
const HEAD_BYTES: usize = 61;

/// What is produced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Batch {
    /// So many records, without a producer's numbers; the codec by its number.
    Plain { records: u8, codec: u8 },
    /// Of the producer that was given out last: the sequence it begins with, and how far off the epoch is.
    Numbered { records: u8, sequence: i32, epoch_off: i16 },
    /// Plain, with one thing wrong.
    Broken(Flaw),
    /// No bytes at all.
    Empty,
}

/// What is wrong with a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flaw {
    Checksum,
    CutShort,
    Magic,
    Count,
    LastDelta,
    TwoBatches,
    Length,
    Attributes,
    ControlFlag,
    TransactionalFlag,
    BaseOffset,
    Future,
    /// A header alone that claims 2^31-1 records.
    Claims,
    /// More records than it says.
    More,
    /// Fewer.
    Fewer,
    /// Says that it is gzip, and is not.
    NotGzip,
}

pub const FLAWS: [Flaw; 16] = [
    Flaw::Checksum,
    Flaw::CutShort,
    Flaw::Magic,
    Flaw::Count,
    Flaw::LastDelta,
    Flaw::TwoBatches,
    Flaw::Length,
    Flaw::Attributes,
    Flaw::ControlFlag,
    Flaw::TransactionalFlag,
    Flaw::BaseOffset,
    Flaw::Future,
    Flaw::Claims,
    Flaw::More,
    Flaw::Fewer,
    Flaw::NotGzip,
];

/// The moment that timestamps of a run are counted from, in ms: its beginning, as brokers refuse a far future.
pub fn beginning() -> i64 {
    static BEGINNING: OnceLock<i64> = OnceLock::new();
    *BEGINNING.get_or_init(|| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
        i64::try_from(now.as_millis()).expect("milliseconds fit")
    })
}

impl Batch {
    /// The bytes of the records field.
    pub fn bytes(self, producer: (i64, i16)) -> Bytes {
        match self {
            Self::Empty => Bytes::new(),
            Self::Plain { records, codec } => encode(records, (-1, -1), -1, codec),
            Self::Numbered { records, sequence, epoch_off } => {
                encode(records, (producer.0, producer.1 + epoch_off), sequence, 0)
            }
            Self::Broken(flaw) => flaw.apply(encode(3, (-1, -1), -1, 0)),
        }
    }
}

fn encode(records: u8, (producer_id, producer_epoch): (i64, i16), sequence: i32, codec: u8) -> Bytes {
    let value = Bytes::from_static(b"differential");
    let records: Vec<Record> = (0..records)
        .map(|n| Record {
            transactional: false,
            control: false,
            partition_leader_epoch: -1,
            producer_id,
            producer_epoch,
            timestamp_type: TimestampType::Creation,
            offset: i64::from(n),
            sequence: sequence.wrapping_add(i32::from(n)),
            timestamp: beginning() + i64::from(n),
            key: n.is_multiple_of(2).then(|| Bytes::from(vec![n])),
            value: (n != 1).then(|| value.clone()),
            headers: Default::default(),
            delete_horizon: false,
        })
        .collect();
    let compression = match codec {
        1 => Compression::Gzip,
        2 => Compression::Snappy,
        3 => Compression::Lz4,
        4 => Compression::Zstd,
        _ => Compression::None,
    };
    let mut bytes = BytesMut::new();
    RecordBatchEncoder::encode(&mut bytes, &records, &RecordEncodeOptions { version: 2, compression })
        .expect("records of one producer can be encoded");
    bytes.freeze()
}

impl Flaw {
    fn apply(self, sound: Bytes) -> Bytes {
        let mut bytes = BytesMut::from(&sound[..]);
        match self {
            Self::Checksum => *bytes.last_mut().expect("not empty") ^= 1,
            Self::CutShort => bytes.truncate(sound.len() - 5),
            Self::Magic => bytes[16] = 7,
            // Behind the checksum: it must be right again for the flaw itself to be seen.
            Self::Count => bytes[57..61].copy_from_slice(&9_i32.to_be_bytes()),
            Self::LastDelta => bytes[23..27].copy_from_slice(&9_i32.to_be_bytes()),
            Self::Attributes => bytes[21..23].copy_from_slice(&7_i16.to_be_bytes()),
            Self::ControlFlag => bytes[21..23].copy_from_slice(&0x20_i16.to_be_bytes()),
            Self::TransactionalFlag => bytes[21..23].copy_from_slice(&0x10_i16.to_be_bytes()),
            Self::TwoBatches => bytes.extend_from_slice(&sound),
            Self::BaseOffset => bytes[7] = 3,
            Self::Future => [27, 35].into_iter().for_each(|at| bytes[at] ^= 0x40),
            Self::Length => bytes[8..12].copy_from_slice(&20_i32.to_be_bytes()),
            Self::Claims => {
                bytes.truncate(HEAD_BYTES);
                bytes[8..12].copy_from_slice(&49_i32.to_be_bytes());
                says(&mut bytes, i32::MAX);
            }
            Self::More => says(&mut bytes, 2),
            Self::Fewer => says(&mut bytes, 4),
            Self::NotGzip => bytes[21..23].copy_from_slice(&1_i16.to_be_bytes()),
        }
        let is_behind = [
            Self::Count,
            Self::LastDelta,
            Self::Attributes,
            Self::ControlFlag,
            Self::TransactionalFlag,
            Self::Future,
            Self::Claims,
            Self::More,
            Self::Fewer,
            Self::NotGzip,
        ];
        if is_behind.contains(&self) {
            let checksum = crc32c::crc32c(&bytes[21..]);
            bytes[17..21].copy_from_slice(&checksum.to_be_bytes());
        }
        bytes.freeze()
    }
}

/// Has a header say that so many records follow.
fn says(bytes: &mut BytesMut, records: i32) {
    bytes[23..27].copy_from_slice(&(records - 1).to_be_bytes());
    bytes[57..61].copy_from_slice(&records.to_be_bytes());
}

/// What lies in a records field, as far as both brokers must agree: each whole batch's offsets, codec and producer.
pub fn describe(mut bytes: &[u8]) -> String {
    let mut out = Vec::new();
    while bytes.len() >= HEAD_BYTES {
        let number = |at: usize| i32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
        let base = i64::from_be_bytes(bytes[..8].try_into().expect("eight bytes"));
        let Some(end) = usize::try_from(number(8)).ok().map(|length| 12 + length) else { break };
        if end > bytes.len() {
            break;
        }
        out.push(format!("{base}+{} x{} codec {}", number(23), number(57), bytes[22] & 7));
        bytes = &bytes[end..];
    }
    out.join(", ")
}
