//! Large records of an answer go to the socket from where they lie, instead of through one more copy.
//!
//! The answer is encoded with a short mark in the place of each; then it is cut there.

use super::Refused;
use crate::frame::Frame;
use bytes::{BufMut, Bytes, BytesMut};

/// Stands for records. Nothing else in an answer is like it: texts are UTF-8, and what a client may
/// choose (a topic's id, a partition's number) is shorter and stands before an error code with a zero.
const MARK: [u8; 32] = *b"\xffrecords of a partition go here!";

/// Records taken out of an answer, in its order.
#[derive(Debug, Default)]
pub struct Parts(Vec<Bytes>);

impl Parts {
    /// What the answer shall hold instead of `records`, which go out as they are. All are taken, as
    /// records may hold anything, the mark too.
    pub fn take(&mut self, records: Bytes) -> Bytes {
        if records.is_empty() {
            return records;
        }
        self.0.push(records);
        Bytes::from_static(&MARK)
    }

    /// Cuts an encoded answer, with its length in front, at each mark and puts the records there.
    ///
    /// # Errors
    /// When the answer does not hold what was taken out of it, or becomes longer than a frame may be.
    pub fn put_back(self, encoded: Bytes, is_flexible: bool) -> Result<Frame, Refused> {
        let mut frame = Frame::default();
        let mut rest = encoded;
        let mut heads = Vec::with_capacity(self.0.len() + 1);
        for records in &self.0 {
            let found = rest.windows(MARK.len()).position(|bytes| bytes == MARK);
            let at =
                found.ok_or_else(|| Refused("an answer without the records that belong in it".to_owned()))?;
            let mut head = BytesMut::from(&rest[..at - length_bytes(MARK.len(), is_flexible)]);
            put_length(&mut head, records.len(), is_flexible);
            heads.push(head);
            rest = rest.slice(at + MARK.len()..);
        }
        heads.push(BytesMut::from(&rest[..]));
        let bytes = heads.iter().map(BytesMut::len).chain(self.0.iter().map(Bytes::len)).sum::<usize>() - 4;
        let length = i32::try_from(bytes).map_err(|error| Refused(error.to_string()))?;
        heads[0][..4].copy_from_slice(&length.to_be_bytes());
        let mut records = self.0.into_iter();
        for head in heads {
            frame.push(head.freeze());
            records.next().into_iter().for_each(|records| frame.push(records));
        }
        Ok(frame)
    }
}

/// How many bytes the length of a bytes field takes.
fn length_bytes(length: usize, is_flexible: bool) -> usize {
    let mut counted = BytesMut::new();
    put_length(&mut counted, length, is_flexible);
    counted.len()
}

/// The length of a bytes field: a varint of one more in flexible versions, else four bytes.
fn put_length(out: &mut BytesMut, length: usize, is_flexible: bool) {
    let mut left = u32::try_from(length).expect("an answer's records are below 4 GiB");
    if !is_flexible {
        return out.put_u32(left);
    }
    left += 1;
    while left >= 0x80 {
        out.put_u8((left & 0x7f) as u8 | 0x80);
        left >>= 7;
    }
    out.put_u8(left as u8);
}

#[cfg(test)]
mod tests {
    use super::super::encode;
    use super::*;
    use bytes::Buf;
    use kafka_protocol::messages::fetch_response::{FetchableTopicResponse, PartitionData};
    use kafka_protocol::messages::{ApiKey, FetchResponse, TopicName};
    use kafka_protocol::protocol::StrBytes;

    fn answer(records: &[Bytes], take: &mut dyn FnMut(Bytes) -> Bytes) -> FetchResponse {
        let partitions = records.iter().enumerate().map(|(index, records)| {
            PartitionData::default()
                .with_partition_index(i32::try_from(index).unwrap())
                .with_records(Some(take(records.clone())))
        });
        let topic = FetchableTopicResponse::default()
            .with_topic(TopicName(StrBytes::from_static_str("orders")))
            .with_partitions(partitions.collect());
        FetchResponse::default().with_responses(vec![topic])
    }

    proptest::proptest! {
        #[test]
        fn an_answer_put_together_again_is_the_answer(
            lengths in proptest::collection::vec(proptest::prop_oneof![0_usize..20, 120_usize..130, 16_380_usize..16_390], 0..5),
            version in 4_i16..=16,
        ) {
            let content = |length: &usize| MARK.iter().copied().cycle().take(*length).collect();
            let records: Vec<Bytes> = lengths.iter().map(content).collect();
            let whole = encode(ApiKey::Fetch, version, 7, &answer(&records, &mut |records| records)).unwrap();
            let mut parts = Parts::default();
            let marked = encode(ApiKey::Fetch, version, 7, &answer(&records, &mut |r| parts.take(r))).unwrap();
            let mut frame = parts.put_back(marked, version >= 12).unwrap();
            proptest::prop_assert_eq!(frame.copy_to_bytes(frame.remaining()), whole);
        }
    }

    #[test]
    fn an_answer_that_lacks_its_records_is_an_error() {
        let mut parts = Parts::default();
        parts.take(vec![0; 10].into());
        assert!(parts.put_back(Bytes::from_static(b"\0\0\0\0nothing"), true).is_err());
    }
}
