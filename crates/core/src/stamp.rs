//! The stamp: the record header that carries a message's lane and number (docs/wire-format.md).
//!
//! `<stream>/<epoch>/<partition>/<seq>/<crc32c>`, ASCII, at most
//! [`Stamp::LEN_MAX`] bytes. There is one spelling for each stamp: numbers are
//! decimal without sign or leading zero, the checksum is 8 lowercase hex
//! digits. Whatever is spelled otherwise is an error, never a guess.

use crate::ids::{Epoch, Partition, Seq, StreamName};
use std::fmt;

/// The names of Homing's record headers.
pub mod header {
    /// Carries the stamp; present on every record Homing sends.
    pub const STAMP: &str = "homing-stamp";
    /// Carries the message's identity, a UUID as text with hyphens.
    pub const ID: &str = "homing-id";
    /// Carries [`Flags`](super::Flags); absent when none is set.
    pub const FLAGS: &str = "homing-flags";
    /// What all header names reserved for Homing start with.
    pub const RESERVED_PREFIX: &str = "homing-";
}

/// A record's checksum: CRC-32C over the key's bytes followed by the payload's.
///
/// A null key or payload counts as empty, as wire-format.md says. The
/// checksum tells that a record was changed on its way; it is no signature.
///
/// ```
/// use homing_core::PayloadCrc;
/// assert_eq!(PayloadCrc::of(Some(b"1234"), Some(b"56789")), PayloadCrc(0xe306_9283));
/// assert_eq!(PayloadCrc::of(None, None), PayloadCrc(0));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PayloadCrc(pub u32);

impl PayloadCrc {
    /// Computes the checksum of a record's key and payload.
    #[must_use]
    pub fn of(key: Option<&[u8]>, payload: Option<&[u8]>) -> Self {
        let key_crc = key.map_or(0, crc32c::crc32c);
        Self(payload.map_or(key_crc, |payload| crc32c::crc32c_append(key_crc, payload)))
    }
}

impl fmt::Display for PayloadCrc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

/// What a record's stamp says: the message's lane (but for the topic), number and checksum.
///
/// ```
/// use homing_core::{Epoch, Partition, PayloadCrc, Seq, Stamp, StreamName};
/// let stamp = Stamp {
///     stream: StreamName::parse("orders-db")?,
///     epoch: Epoch(1),
///     partition: Partition(3),
///     seq: Seq(42),
///     crc: PayloadCrc(0x0a),
/// };
/// assert_eq!(stamp.to_string(), "orders-db/1/3/42/0000000a");
/// assert_eq!(Stamp::decode(b"orders-db/1/3/42/0000000a"), Ok(stamp));
/// # Ok::<(), homing_core::InvalidName>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Stamp {
    /// The stream the message comes from.
    pub stream: StreamName,
    /// The numbering's epoch, 1 or more.
    pub epoch: Epoch,
    /// The partition the message was numbered for.
    pub partition: Partition,
    /// The message's number in its lane, 1 or more.
    pub seq: Seq,
    /// The checksum of its key and payload.
    pub crc: PayloadCrc,
}

/// A [`Stamp`] that borrows the stream's name; decoding it allocates nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct StampRef<'a> {
    /// The stream's name; follows the rule of [`StreamName`].
    pub stream: &'a str,
    /// The numbering's epoch, 1 or more.
    pub epoch: Epoch,
    /// The partition the message was numbered for.
    pub partition: Partition,
    /// The message's number in its lane, 1 or more.
    pub seq: Seq,
    /// The checksum of its key and payload.
    pub crc: PayloadCrc,
}

/// One of the five parts of a stamp.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StampField {
    /// The stream's name.
    Stream,
    /// The epoch.
    Epoch,
    /// The partition.
    Partition,
    /// The number in the lane.
    Seq,
    /// The checksum.
    Crc,
}

impl StampField {
    /// The part after this one.
    fn next(self) -> Self {
        match self {
            Self::Stream => Self::Epoch,
            Self::Epoch => Self::Partition,
            Self::Partition => Self::Seq,
            Self::Seq | Self::Crc => Self::Crc,
        }
    }
}

impl fmt::Display for StampField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stream => "stream",
            Self::Epoch => "epoch",
            Self::Partition => "partition",
            Self::Seq => "seq",
            Self::Crc => "crc32c",
        })
    }
}

/// Bytes that are no stamp, and what is wrong with them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StampError {
    /// The value is longer than any stamp can be.
    #[error("stamp is {len} bytes long; the longest is {max}", max = Stamp::LEN_MAX)]
    TooLong {
        /// The value's length in bytes.
        len: usize,
    },
    /// The value ends before this part.
    #[error("stamp ends before its {0}")]
    Missing(StampField),
    /// Something follows the checksum.
    #[error("stamp goes on after its crc32c")]
    Trailing,
    /// The stream's name breaks the rule of stream names.
    #[error("stamp's stream does not match [a-z0-9][a-z0-9._-]{{0,63}}")]
    BadStream,
    /// A number is not plain decimal digits without leading zero.
    #[error("stamp's {0} is not a plain decimal number (no sign, no leading zero)")]
    NotANumber(StampField),
    /// A number is out of its range.
    #[error("stamp's {field} is out of range; it is {min} to {max}")]
    OutOfRange {
        /// Which number.
        field: StampField,
        /// The lowest that is allowed.
        min: u64,
        /// The highest that is allowed.
        max: u64,
    },
    /// The checksum is not 8 lowercase hex digits.
    #[error("stamp's crc32c is not 8 lowercase hex digits")]
    BadCrc,
}

impl Stamp {
    /// The length of the longest stamp, in bytes.
    pub const LEN_MAX: usize = 64 + 1 + 10 + 1 + 10 + 1 + 20 + 1 + 8;

    /// Borrows the stamp.
    #[must_use]
    pub fn as_ref(&self) -> StampRef<'_> {
        StampRef {
            stream: self.stream.as_str(),
            epoch: self.epoch,
            partition: self.partition,
            seq: self.seq,
            crc: self.crc,
        }
    }

    /// Appends the stamp's bytes to `out`.
    ///
    /// # Panics
    /// As [`StampRef::encode_into`].
    pub fn encode_into(&self, out: &mut Vec<u8>) {
        self.as_ref().encode_into(out);
    }

    /// Reads a stamp from a header's value.
    ///
    /// # Errors
    /// [`StampError`] unless the bytes are exactly what
    /// [`encode_into`](Self::encode_into) writes for some stamp.
    pub fn decode(bytes: &[u8]) -> Result<Self, StampError> {
        StampRef::decode(bytes).map(StampRef::to_stamp)
    }
}

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_ref().fmt(f)
    }
}

impl<'a> StampRef<'a> {
    /// Appends the stamp's bytes to `out`, at most [`Stamp::LEN_MAX`].
    ///
    /// # Panics
    /// When epoch or seq is 0, or the partition negative: no reader would
    /// accept such a stamp, so the record would travel unnumbered.
    pub fn encode_into(&self, out: &mut Vec<u8>) {
        assert!(
            self.epoch.0 >= 1 && self.partition.0 >= 0 && self.seq.0 >= 1,
            "a stamp's epoch and seq start at 1 and its partition at 0: {self:?}"
        );
        out.reserve(Stamp::LEN_MAX);
        out.extend_from_slice(self.stream.as_bytes());
        out.push(b'/');
        push_decimal(out, u64::from(self.epoch.0));
        out.push(b'/');
        push_decimal(out, u64::from(self.partition.0.unsigned_abs()));
        out.push(b'/');
        push_decimal(out, self.seq.0);
        out.push(b'/');
        push_hex(out, self.crc.0);
    }

    /// Reads a stamp from a header's value without allocating.
    ///
    /// # Errors
    /// As [`Stamp::decode`].
    pub fn decode(bytes: &'a [u8]) -> Result<Self, StampError> {
        if bytes.len() > Stamp::LEN_MAX {
            return Err(StampError::TooLong { len: bytes.len() });
        }
        let (stream, rest) = take_stream(bytes)?;
        let (epoch, rest) = take_decimal(rest, StampField::Epoch, 1, u64::from(u32::MAX))?;
        let (partition, rest) = take_decimal(rest, StampField::Partition, 0, i32::MAX as u64)?;
        let (seq, rest) = take_decimal(rest, StampField::Seq, 1, u64::MAX)?;
        Ok(Self {
            stream,
            epoch: Epoch(epoch as u32),
            partition: Partition(partition as i32),
            seq: Seq(seq),
            crc: PayloadCrc(parse_hex(rest)?),
        })
    }

    /// Copies the stamp into one that owns its stream's name.
    #[must_use]
    pub fn to_stamp(self) -> Stamp {
        Stamp {
            stream: StreamName::parse(self.stream).expect("decoding has checked the stream's name"),
            epoch: self.epoch,
            partition: self.partition,
            seq: self.seq,
            crc: self.crc,
        }
    }
}

impl fmt::Display for StampRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { stream, epoch, partition, seq, crc } = self;
        write!(f, "{stream}/{epoch}/{partition}/{seq}/{crc}")
    }
}

/// What is special about a record, from its `homing-flags` header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Flags {
    /// The record was sent again by a repair, under its old number.
    pub replay: bool,
    /// The message was dead and was sent again under a new number.
    pub redrive: bool,
}

impl Flags {
    /// Reads the header's value; words it does not know are passed over.
    ///
    /// Words stand between commas; blanks around them do not count.
    #[must_use]
    pub fn decode(value: &[u8]) -> Self {
        let mut flags = Self::default();
        for word in value.split(|b| *b == b',') {
            match word.trim_ascii() {
                b"replay" => flags.replay = true,
                b"redrive" => flags.redrive = true,
                _ => {}
            }
        }
        flags
    }

    /// The header's value; `None` when no flag is set and no header is sent.
    #[must_use]
    pub fn encode(self) -> Option<&'static str> {
        match (self.replay, self.redrive) {
            (false, false) => None,
            (true, false) => Some("replay"),
            (false, true) => Some("redrive"),
            (true, true) => Some("replay,redrive"),
        }
    }
}

fn push_decimal(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0u8; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

fn push_hex(out: &mut Vec<u8>, number: u32) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let digits: [u8; 8] = std::array::from_fn(|i| HEX[(number >> (28 - 4 * i)) as usize & 0xf]);
    out.extend_from_slice(&digits);
}

/// Takes the stream's name and the slash behind it.
fn take_stream(bytes: &[u8]) -> Result<(&str, &[u8]), StampError> {
    let Some(end) = bytes.iter().position(|b| *b == b'/') else {
        let stream = StampField::Stream;
        return Err(StampError::Missing(if bytes.is_empty() { stream } else { stream.next() }));
    };
    let name = std::str::from_utf8(&bytes[..end]).map_err(|_| StampError::BadStream)?;
    if StreamName::is_valid(name) { Ok((name, &bytes[end + 1..])) } else { Err(StampError::BadStream) }
}

/// Takes a number and the slash behind it, in one pass.
fn take_decimal(bytes: &[u8], field: StampField, min: u64, max: u64) -> Result<(u64, &[u8]), StampError> {
    let mut number = Some(0u64);
    let mut len = 0;
    loop {
        match bytes.get(len) {
            Some(b'/') => break,
            Some(digit @ b'0'..=b'9') => {
                let digit = u64::from(digit - b'0');
                number = number.and_then(|number| number.checked_mul(10)?.checked_add(digit));
            }
            None if bytes.is_empty() => return Err(StampError::Missing(field)),
            None => return Err(StampError::Missing(field.next())),
            Some(_) => return Err(StampError::NotANumber(field)),
        }
        len += 1;
    }
    if len == 0 || (bytes[0] == b'0' && len > 1) {
        return Err(StampError::NotANumber(field));
    }
    let number = number.filter(|number| (min..=max).contains(number));
    Ok((number.ok_or(StampError::OutOfRange { field, min, max })?, &bytes[len + 1..]))
}

fn parse_hex(digits: &[u8]) -> Result<u32, StampError> {
    let Ok(digits) = <&[u8; 8]>::try_from(digits) else {
        return Err(match digits {
            [] => StampError::Missing(StampField::Crc),
            _ if digits.contains(&b'/') => StampError::Trailing,
            _ => StampError::BadCrc,
        });
    };
    digits.iter().try_fold(0u32, |number, digit| match digit {
        b'0'..=b'9' => Ok(number << 4 | u32::from(digit - b'0')),
        b'a'..=b'f' => Ok(number << 4 | u32::from(digit - b'a' + 10)),
        b'/' => Err(StampError::Trailing),
        _ => Err(StampError::BadCrc),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn stamp_strategy() -> impl Strategy<Value = Stamp> {
        ("[a-z0-9][a-z0-9._-]{0,63}", 1..=u32::MAX, 0..=i32::MAX, 1..=u64::MAX, any::<u32>()).prop_map(
            |(stream, epoch, partition, seq, crc)| Stamp {
                stream: StreamName::parse(&stream).unwrap(),
                epoch: Epoch(epoch),
                partition: Partition(partition),
                seq: Seq(seq),
                crc: PayloadCrc(crc),
            },
        )
    }

    #[test]
    fn each_fault_is_named() {
        use StampError::{BadCrc, BadStream, Missing, NotANumber, OutOfRange, TooLong, Trailing};
        use StampField::{Crc, Epoch, Partition, Seq, Stream};
        let epochs = OutOfRange { field: Epoch, min: 1, max: u64::from(u32::MAX) };
        let partitions = OutOfRange { field: Partition, min: 0, max: i32::MAX as u64 };
        let seqs = OutOfRange { field: Seq, min: 1, max: u64::MAX };
        for (bytes, error) in [
            ("", Missing(Stream)),
            ("s", Missing(Epoch)),
            ("s/", Missing(Epoch)),
            ("s/1", Missing(Partition)),
            ("s/1/", Missing(Partition)),
            ("s/1/2", Missing(Seq)),
            ("s/1/2/3", Missing(Crc)),
            ("s/1/2/3/", Missing(Crc)),
            ("s/1/2/3/00000000/", Trailing),
            ("s/1/2/3/00000000/9", Trailing),
            ("/1/2/3/00000000", BadStream),
            ("S/1/2/3/00000000", BadStream),
            ("-s/1/2/3/00000000", BadStream),
            ("ä/1/2/3/00000000", BadStream),
            ("s//2/3/00000000", NotANumber(Epoch)),
            ("s/+1/2/3/00000000", NotANumber(Epoch)),
            ("s/01/2/3/00000000", NotANumber(Epoch)),
            ("s/0/2/3/00000000", epochs),
            ("s/4294967296/2/3/00000000", epochs),
            ("s/1/-2/3/00000000", NotANumber(Partition)),
            ("s/1/00/3/00000000", NotANumber(Partition)),
            ("s/1/2147483648/3/00000000", partitions),
            ("s/1/2/0/00000000", seqs),
            ("s/1/2/18446744073709551616/00000000", seqs),
            ("s/1/2/3 /00000000", NotANumber(Seq)),
            ("s/1/2/3/0000000", BadCrc),
            ("s/1/2/3/000000000", BadCrc),
            ("s/1/2/3/0000000A", BadCrc),
            ("s/1/2/3/0x000000", BadCrc),
            (&"s".repeat(Stamp::LEN_MAX + 1), TooLong { len: Stamp::LEN_MAX + 1 }),
        ] {
            assert_eq!(Stamp::decode(bytes.as_bytes()), Err(error), "{bytes:?}");
        }
    }

    #[test]
    fn the_longest_stamp_has_the_stated_length() {
        let longest = format!("{}/4294967295/2147483647/18446744073709551615/ffffffff", "z".repeat(64));
        assert_eq!(longest.len(), Stamp::LEN_MAX);
        let stamp = Stamp::decode(longest.as_bytes()).unwrap();
        assert_eq!(stamp.to_string(), longest);
    }

    #[test]
    fn flags_pass_over_words_they_do_not_know() {
        let both = Flags { replay: true, redrive: true };
        assert_eq!(Flags::decode(b" redrive , future,replay,"), both);
        assert_eq!(Flags::decode(b"Replay,\xff"), Flags::default());
        for flags in [
            Flags::default(),
            both,
            Flags { replay: true, redrive: false },
            Flags { replay: false, redrive: true },
        ] {
            assert_eq!(Flags::decode(flags.encode().unwrap_or("").as_bytes()), flags);
        }
    }

    #[test]
    #[should_panic(expected = "start at 1")]
    fn a_stamp_nobody_would_accept_is_not_written() {
        let stamp = StampRef {
            stream: "s",
            epoch: Epoch(1),
            partition: Partition(0),
            seq: Seq(0),
            crc: PayloadCrc(0),
        };
        stamp.encode_into(&mut Vec::new());
    }

    proptest! {
        #[test]
        fn decoding_gives_back_what_was_encoded(stamp in stamp_strategy()) {
            let mut bytes = b"before".to_vec();
            stamp.encode_into(&mut bytes);
            let written = &bytes[6..];
            prop_assert!(written.len() <= Stamp::LEN_MAX);
            prop_assert_eq!(String::from_utf8_lossy(written), stamp.to_string());
            prop_assert_eq!(Stamp::decode(written), Ok(stamp));
        }

        #[test]
        fn what_decodes_has_one_spelling(bytes in prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..140),
            "[a-z0-9+./-]{0,4}/[0-9+-]{0,12}/[0-9-]{0,12}/[0-9+]{0,22}/[0-9a-fA-F/]{0,9}".prop_map(String::into_bytes),
            "s/[0-9]{1,2}/[0-9]{1,2}/[0-9]{1,3}/[0-9a-f]{8}".prop_map(String::into_bytes),
        ]) {
            if let Ok(stamp) = StampRef::decode(&bytes) {
                let mut again = Vec::new();
                stamp.encode_into(&mut again);
                prop_assert_eq!(again, bytes);
            }
        }

        #[test]
        fn the_checksum_covers_key_then_payload(bytes: Vec<u8>, at: prop::sample::Index) {
            let at = if bytes.is_empty() { 0 } else { at.index(bytes.len()) };
            let whole = PayloadCrc(crc32c::crc32c(&bytes));
            prop_assert_eq!(PayloadCrc::of(Some(&bytes[..at]), Some(&bytes[at..])), whole);
            prop_assert_eq!(PayloadCrc::of(None, Some(&bytes)), whole);
            prop_assert_eq!(PayloadCrc::of(Some(&bytes), None), whole);
        }
    }
}
