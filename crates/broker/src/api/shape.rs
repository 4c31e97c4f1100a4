//! A look at a request's announced lengths before anything is allocated for them.
//!
//! The codecs take a list's announced count at its word and reserve room for
//! it; a few bytes could ask for more memory than there is. So each request is
//! walked by its shape first: a list may not announce more elements than bytes
//! are left, nor a string or blob more than there are.
//!
//! A shape is Kafka's schema in short: `b h i l u` numbers of 1, 2, 4, 8, 16
//! bytes, `s` a string, `B` bytes, `[…]` a list, `t` tagged fields, `c` a cursor
//! (null, or a string, a number and tagged fields); behind each
//! the versions that have it (none: all).

use super::Refused;
use kafka_protocol::messages::ApiKey;

/// Elements of all lists of one request, and its tagged fields. What is decoded takes up to some 200 bytes
/// for each, whatever it takes on the wire: a hundred MiB of empty ones would become gigabytes.
const ELEMENTS_MAX: usize = 200_000;

/// A request's first flexible version and its fields, from Kafka's message schemas.
struct Shape {
    api: ApiKey,
    flexible_from: i16,
    fields: &'static str,
}

const fn shape(api: ApiKey, flexible_from: i16, fields: &'static str) -> Shape {
    Shape { api, flexible_from, fields }
}

const SHAPES: &[Shape] = &[
    shape(ApiKey::Produce, 9, "s h i [s3-12 u13+ [i B t] t]"),
    shape(
        ApiKey::Fetch,
        12,
        "i4-14 i i i b i7+ i7+ [s4-12 u13+ [i i9+ l i12+ l5+ i t] t] [s7-12 u13+ [i]7+ t]7+ s11+",
    ),
    shape(ApiKey::ListOffsets, 6, "i b2+ [s [i i4+ l t] t] i10+"),
    shape(ApiKey::Metadata, 9, "[u10+ s t] b4+ b8-10 b8+"),
    shape(ApiKey::OffsetCommit, 8, "s i s s7+ l2-4 [s [i l i6+ s t] t]"),
    shape(ApiKey::OffsetFetch, 6, "s1-7 [s1-7 [i]1-7 t]1-7 [s8+ s9+ i9+ [s8+ [i]8+ t]8+ t]8+ b7+"),
    shape(ApiKey::FindCoordinator, 3, "s0-3 b1+ [s]4+"),
    shape(ApiKey::JoinGroup, 6, "s i i1+ s s5+ s [s B t] s8+"),
    shape(ApiKey::Heartbeat, 4, "s i s s3+"),
    shape(ApiKey::LeaveGroup, 4, "s s0-2 [s3+ s3+ s5+ t]3+"),
    shape(ApiKey::SyncGroup, 4, "s i s s3+ s5+ s5+ [s B t]"),
    shape(ApiKey::DescribeGroups, 5, "[s] b3+"),
    shape(ApiKey::ListGroups, 3, "[s]4+ [s]5+"),
    shape(ApiKey::ApiVersions, 3, "s3+ s3+"),
    shape(ApiKey::CreateTopics, 5, "[s i h [i [i] t] [s s t] t] i b"),
    shape(ApiKey::DeleteTopics, 4, "[s6+ u6+ t]6+ [s]1-5 i"),
    shape(ApiKey::DeleteRecords, 2, "[s [i l t] t] i"),
    shape(ApiKey::InitProducerId, 2, "s i l3+ h3+"),
    shape(ApiKey::OffsetForLeaderEpoch, 4, "i3+ [s [i i i t] t]"),
    shape(ApiKey::DescribeConfigs, 4, "[b s [s] t] b b3+"),
    shape(ApiKey::CreatePartitions, 2, "[s i [[i] t] t] i b"),
    shape(ApiKey::DeleteGroups, 2, "[s]"),
    shape(ApiKey::IncrementalAlterConfigs, 1, "[b s [s b s t] t] b"),
    shape(ApiKey::DescribeCluster, 0, "b b1+ b2+"),
    shape(ApiKey::AlterConfigs, 2, "[b s [s s t] t] b"),
    shape(ApiKey::AlterReplicaLogDirs, 2, "[s [s [i] t] t]"),
    shape(ApiKey::DescribeLogDirs, 2, "[s [i] t]"),
    shape(ApiKey::ElectLeaders, 2, "b1+ [s [i] t] i"),
    shape(ApiKey::AlterPartitionReassignments, 0, "i b1+ [s [i [i] t] t]"),
    shape(ApiKey::ListPartitionReassignments, 0, "i [s [i] t]"),
    shape(ApiKey::OffsetDelete, i16::MAX, "s [s [i]]"),
    shape(ApiKey::DescribeQuorum, 0, "[s [i t] t]"),
    shape(ApiKey::ListConfigResources, 0, "[b]1+"),
    shape(ApiKey::DescribeTopicPartitions, 0, "[s t] i c"),
];

/// Refuses a request whose lengths cannot be true.
///
/// # Errors
/// [`Refused`], naming the request and the place.
pub fn check(api: ApiKey, version: i16, body: &[u8]) -> Result<(), Refused> {
    let shape = SHAPES.iter().find(|shape| shape.api == api);
    let shape = shape.ok_or_else(|| Refused(format!("{api:?} has no known shape")))?;
    let is_flexible = version >= shape.flexible_from;
    let mut walk = Walk { body, at: 0, version, is_flexible, elements_left: ELEMENTS_MAX };
    walk.fields(shape.fields.as_bytes())
        .and_then(|()| walk.tagged_fields())
        .map_err(|what| Refused(format!("{api:?} v{version}: {what} at byte {} of {}", walk.at, body.len())))
}

/// Refuses a frame whose header, before the body, has lengths that cannot be true.
///
/// # Errors
/// [`Refused`], naming the place.
pub fn check_header(frame: &[u8], header_version: i16) -> Result<(), Refused> {
    // The client's id is never compact, so that any version of a header can be read so far.
    let mut walk = Walk { body: frame, at: 0, version: 0, is_flexible: false, elements_left: ELEMENTS_MAX };
    let mut walked = walk.fields(b"h h i s");
    if header_version >= 2 {
        walk.is_flexible = true;
        walked = walked.and_then(|()| walk.tagged_fields());
    }
    walked.map_err(|what| Refused(format!("header: {what} at byte {} of {}", walk.at, frame.len())))
}

struct Walk<'a> {
    body: &'a [u8],
    at: usize,
    version: i16,
    is_flexible: bool,
    elements_left: usize,
}

impl Walk<'_> {
    fn left(&self) -> usize {
        self.body.len() - self.at
    }

    fn skip(&mut self, bytes: usize) -> Result<(), &'static str> {
        if bytes > self.left() {
            return Err("more bytes announced than sent");
        }
        self.at += bytes;
        Ok(())
    }

    fn fields(&mut self, fields: &[u8]) -> Result<(), &'static str> {
        let mut rest = fields;
        while let Some((&first, behind)) = rest.split_first() {
            if first == b' ' {
                rest = behind;
                continue;
            }
            let (inner, behind) = if first == b'[' { split_list(behind) } else { (&[][..], behind) };
            let (applies, behind) = versions(behind, self.version);
            rest = behind;
            if applies {
                self.field(first, inner)?;
            }
        }
        Ok(())
    }

    fn field(&mut self, kind: u8, inner: &[u8]) -> Result<(), &'static str> {
        match kind {
            b'b' => self.skip(1),
            b'h' => self.skip(2),
            b'i' => self.skip(4),
            b'l' => self.skip(8),
            b'u' => self.skip(16),
            b's' => {
                let bytes = self.length(2)?;
                self.skip(bytes)
            }
            b'B' => {
                let bytes = self.length(4)?;
                self.skip(bytes)
            }
            b't' => self.tagged_fields(),
            b'c' => {
                let is_there = self.body.get(self.at).is_some_and(|first| *first == 1);
                self.skip(1)?;
                if is_there { self.fields(b"s i t") } else { Ok(()) }
            }
            _ => {
                let count = self.length(4)?;
                if count > self.left() {
                    return Err("a list of more elements than bytes are left");
                }
                self.take_elements(count)?;
                (0..count).try_for_each(|_| self.fields(inner))
            }
        }
    }

    fn take_elements(&mut self, count: usize) -> Result<(), &'static str> {
        self.elements_left =
            self.elements_left.checked_sub(count).ok_or("more elements than one request may have")?;
        Ok(())
    }

    /// A length in `fixed_bytes` bytes, or as a varint of one more; null counts as none.
    fn length(&mut self, fixed_bytes: usize) -> Result<usize, &'static str> {
        if self.is_flexible {
            return Ok(self.varint()?.saturating_sub(1));
        }
        let start = self.at;
        self.skip(fixed_bytes)?;
        let bytes = &self.body[start..self.at];
        let length = match *bytes {
            [a, b] => i64::from(i16::from_be_bytes([a, b])),
            [a, b, c, d] => i64::from(i32::from_be_bytes([a, b, c, d])),
            _ => -1,
        };
        if length < -1 { Err("a negative length") } else { Ok(usize::try_from(length).unwrap_or(0)) }
    }

    fn varint(&mut self) -> Result<usize, &'static str> {
        let mut value = 0_usize;
        for shift in (0..35).step_by(7) {
            let byte = *self.body.get(self.at).ok_or("the end inside a length")?;
            self.at += 1;
            value |= usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err("an endless length")
    }

    fn tagged_fields(&mut self) -> Result<(), &'static str> {
        if !self.is_flexible {
            return Ok(());
        }
        let count = self.varint()?;
        if count > self.left() {
            return Err("more tagged fields than bytes are left");
        }
        self.take_elements(count)?;
        (0..count).try_for_each(|_| {
            self.varint()?;
            let bytes = self.varint()?;
            self.skip(bytes)
        })
    }
}

/// Splits behind a list's opening bracket: its element's fields, and what comes behind it.
fn split_list(fields: &[u8]) -> (&[u8], &[u8]) {
    let mut depth = 1;
    for (at, byte) in fields.iter().enumerate() {
        match byte {
            b'[' => depth += 1,
            b']' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return (&fields[..at], &fields[at + 1..]);
        }
    }
    (fields, &[])
}

/// Reads `7+`, `4-14` or nothing: whether `version` has the field, and the rest.
fn versions(fields: &[u8], version: i16) -> (bool, &[u8]) {
    let end = fields.iter().position(|b| !matches!(b, b'0'..=b'9' | b'-' | b'+')).unwrap_or(fields.len());
    let (range, rest) = fields.split_at(end);
    let number = |digits: &[u8]| digits.iter().fold(0_i16, |n, digit| n * 10 + i16::from(digit - b'0'));
    let applies = match (range.iter().position(|b| *b == b'-'), range.split_last()) {
        (Some(dash), _) => (number(&range[..dash])..=number(&range[dash + 1..])).contains(&version),
        (None, Some((b'+', low))) => version >= number(low),
        (None, Some(_)) => version == number(range),
        (None, None) => true,
    };
    (applies, rest)
}

#[cfg(test)]
mod tests {
    use super::super::OFFERED;
    use super::*;
    use bytes::BytesMut;
    use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
    use kafka_protocol::messages::{FetchRequest, MetadataRequest, TopicName};
    use kafka_protocol::protocol::{Encodable, StrBytes};

    #[test]
    fn every_offered_request_has_a_shape() {
        for (api, _) in OFFERED {
            assert!(SHAPES.iter().any(|shape| shape.api == *api), "{api:?}");
        }
    }

    #[test]
    fn sound_requests_of_every_version_pass() {
        let topic =
            MetadataRequestTopic::default().with_name(Some(TopicName(StrBytes::from_static_str("t"))));
        let metadata = MetadataRequest::default().with_topics(Some(vec![topic; 3]));
        for version in 0..=12 {
            let mut body = BytesMut::new();
            metadata.encode(&mut body, version).unwrap();
            assert!(check(ApiKey::Metadata, version, &body).is_ok(), "Metadata v{version}");
        }
        for version in 4..=16 {
            let mut body = BytesMut::new();
            FetchRequest::default().encode(&mut body, version).unwrap();
            assert!(check(ApiKey::Fetch, version, &body).is_ok(), "Fetch v{version}");
        }
    }

    #[test]
    fn a_list_of_two_thousand_million_topics_in_eight_bytes_is_refused() {
        let body = [0x7f, 0xff, 0xff, 0xff, 0, 1, b'x', 0];
        let Err(Refused(why)) = check(ApiKey::Metadata, 1, &body) else { panic!("must be refused") };
        assert!(why.contains("Metadata v1") && why.contains("list"), "{why}");
    }

    #[test]
    fn a_million_empty_elements_or_tagged_fields_are_refused() {
        // Each name is two zeros.
        let mut topics = 1_000_000_u32.to_be_bytes().to_vec();
        topics.resize(4 + 2_000_000, 0);
        let Err(Refused(why)) = check(ApiKey::Metadata, 1, &topics) else { panic!("must be refused") };
        assert!(why.contains("more elements"), "{why}");
        // An ApiVersions without names, and a million tagged fields of nothing behind it.
        let mut tagged = vec![1, 1, 0xc0, 0x84, 0x3d];
        tagged.resize(5 + 2_000_000, 0);
        let Err(Refused(why)) = check(ApiKey::ApiVersions, 3, &tagged) else { panic!("must be refused") };
        assert!(why.contains("more elements"), "{why}");
        // The same in a header.
        let header = [&[0, 18, 0, 3, 0, 0, 0, 1, 0xff, 0xff][..], &tagged[2..]].concat();
        let Err(Refused(why)) = check_header(&header, 2) else { panic!("must be refused") };
        assert!(why.contains("more elements"), "{why}");
        assert!(check_header(&header, 1).is_ok());
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_walked_without_panic(
            which in 0..SHAPES.len(),
            version in 0_i16..18,
            body in proptest::collection::vec(proptest::num::u8::ANY, 0..100),
        ) {
            let _ = check(SHAPES[which].api, version, &body);
        }
    }
}
