//! Reading what a classic group's member was given: `ConsumerProtocolAssignment`, any version.

use super::partition_list::TopicPartition;
use homing_core::{Partition, TopicName};

/// The partitions in a member's assignment; `None` if it is cut short or names what no topic can be
/// called. A member that was given nothing yet has no bytes.
pub(super) fn partitions(assignment: &[u8]) -> Option<Vec<TopicPartition>> {
    if assignment.is_empty() {
        return Some(Vec::new());
    }
    let mut bytes = assignment;
    let _version = number(&mut bytes)?;
    let mut given = Vec::new();
    for _ in 0..i32::from_be_bytes(*take(&mut bytes)?) {
        let length = usize::try_from(number(&mut bytes)?).ok()?;
        let (name, rest) = bytes.split_at_checked(length)?;
        bytes = rest;
        let topic = TopicName::parse(str::from_utf8(name).ok()?).ok()?;
        for _ in 0..i32::from_be_bytes(*take(&mut bytes)?) {
            let partition = Partition(i32::from_be_bytes(*take(&mut bytes)?));
            given.push(TopicPartition { topic: topic.clone(), partition });
        }
    }
    Some(given)
}

fn number(bytes: &mut &[u8]) -> Option<i16> {
    take(bytes).map(|two| i16::from_be_bytes(*two))
}

fn take<'a, const N: usize>(bytes: &mut &'a [u8]) -> Option<&'a [u8; N]> {
    let (first, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(first)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::BytesMut;
    use kafka_protocol::messages::ConsumerProtocolAssignment;
    use kafka_protocol::messages::consumer_protocol_assignment::TopicPartition as Given;
    use kafka_protocol::protocol::{Encodable, StrBytes};

    fn encoded(version: i16) -> Vec<u8> {
        let given = |topic: &'static str, partitions: &[i32]| {
            Given::default()
                .with_topic(kafka_protocol::messages::TopicName(StrBytes::from_static_str(topic)))
                .with_partitions(partitions.to_vec())
        };
        let assignment = ConsumerProtocolAssignment::default()
            .with_assigned_partitions(vec![given("orders", &[0, 7]), given("none", &[]), given("paid", &[3])])
            .with_user_data(Some("anything".into()));
        let mut bytes = BytesMut::new();
        bytes.extend_from_slice(&version.to_be_bytes());
        assignment.encode(&mut bytes, version).unwrap();
        bytes.to_vec()
    }

    #[test]
    fn what_a_member_was_given_is_read_in_any_version() {
        for version in 0..=3 {
            let given = partitions(&encoded(version)).unwrap();
            let given: Vec<(&str, i32)> =
                given.iter().map(|at| (at.topic.as_str(), at.partition.0)).collect();
            assert_eq!(given, [("orders", 0), ("orders", 7), ("paid", 3)]);
        }
        assert_eq!(partitions(&[]), Some(Vec::new()));
    }

    #[test]
    fn an_assignment_cut_short_anywhere_is_no_smaller_assignment() {
        let whole = encoded(0);
        let used = whole.len() - "anything".len() - 4;
        assert!(partitions(&whole[..used]).is_some(), "what follows the partitions is the assignor's");
        for end in 1..used {
            assert_eq!(partitions(&whole[..end]), None, "cut at {end}");
        }
    }
}
