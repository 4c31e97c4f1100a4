//! What an error of Kafka's means for the relay: which finding it is, and whether a record is refused. Pure.
//!
//! A record is refused only for what is wrong with the record itself. Everything
//! that may mend itself or be mended by a person (no broker, too few replicas, a
//! right taken away, a password changed) is waited for: its rows stay where they
//! are and go out in order, under the numbers they have.

use crate::kafka::NativeError;
use crate::kafka::admin::{PartitionFacts, TopicFacts};
use crate::kafka::native;
use crate::outbox::store::{RejectCode, Weakness};
use homing_core::TopicName;
use rdkafka::types::RDKafkaRespErr as Code;

/// What a record's error code means for its row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meaning {
    /// The broker will never take this record, or did not for another's fault in its request.
    Refused(RejectCode),
    /// It may be in the log or not; a new producer and a look at the log will tell.
    Indeterminate,
}

pub(super) fn meaning(code: i32) -> Meaning {
    const REFUSALS: &[(Code, RejectCode)] = &[
        (Code::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE, RejectCode::TooLarge),
        (Code::RD_KAFKA_RESP_ERR_RECORD_LIST_TOO_LARGE, RejectCode::TooLarge),
        (Code::RD_KAFKA_RESP_ERR_INVALID_RECORD, RejectCode::Refused),
        (Code::RD_KAFKA_RESP_ERR_INVALID_TIMESTAMP, RejectCode::Refused),
        (Code::RD_KAFKA_RESP_ERR_POLICY_VIOLATION, RejectCode::Refused),
        (Code::RD_KAFKA_RESP_ERR_UNSUPPORTED_COMPRESSION_TYPE, RejectCode::Refused),
        (Code::RD_KAFKA_RESP_ERR_UNSUPPORTED_FOR_MESSAGE_FORMAT, RejectCode::Refused),
        (Code::RD_KAFKA_RESP_ERR_TOPIC_EXCEPTION, RejectCode::Refused),
        (Code::RD_KAFKA_RESP_ERR__INVALID_DIFFERENT_RECORD, RejectCode::Refused),
    ];
    REFUSALS
        .iter()
        .find(|(refusal, _)| *refusal as i32 == code)
        .map_or(Meaning::Indeterminate, |(_, reject)| Meaning::Refused(*reject))
}

/// The finding an error is a sign of, and what to do about it.
fn finding(code: i32) -> Option<(&'static str, &'static str)> {
    const RIGHTS: &str = "give this user Write and Read on the topic";
    const LOGIN: &str = "check sasl.username, the password, and that the user exists on the cluster";
    const TLS: &str = "check the certificates on both sides, their dates and names";
    const FEW: &str = "too few replicas are in sync for min.insync.replicas; bring the brokers back";
    const DISK: &str = "a broker's disk failed or is full";
    const PRODUCER: &str = "the producer is replaced and the log is read for what it sent";
    const KNOWN: &[(Code, &str, &str)] = &[
        (Code::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED, "N05", RIGHTS),
        (Code::RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED, "N05", RIGHTS),
        (Code::RD_KAFKA_RESP_ERR__AUTHENTICATION, "N05", LOGIN),
        (Code::RD_KAFKA_RESP_ERR_SASL_AUTHENTICATION_FAILED, "N05", LOGIN),
        (Code::RD_KAFKA_RESP_ERR__SSL, "N05", TLS),
        (Code::RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS, "P02", FEW),
        (Code::RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS_AFTER_APPEND, "P02", FEW),
        (Code::RD_KAFKA_RESP_ERR_KAFKA_STORAGE_ERROR, "B29", DISK),
        (Code::RD_KAFKA_RESP_ERR_THROTTLING_QUOTA_EXCEEDED, "N06", "a quota of the cluster is used up"),
        (Code::RD_KAFKA_RESP_ERR_UNKNOWN_PRODUCER_ID, "P16", PRODUCER),
        (Code::RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER, "P16", PRODUCER),
        (Code::RD_KAFKA_RESP_ERR_INVALID_PRODUCER_EPOCH, "P16", PRODUCER),
    ];
    KNOWN.iter().find(|(known, ..)| *known as i32 == code).map(|(_, finding, hint)| (*finding, *hint))
}

/// An error in words, with the finding's code in front where there is one.
pub(super) fn describe(code: i32, said: &str) -> String {
    match finding(code) {
        Some((finding, hint)) => format!("{finding}: {said}: {hint}"),
        None => said.to_owned(),
    }
}

/// A record's error code in words.
pub(super) fn describe_code(code: i32) -> String {
    describe(code, &native::describe(code))
}

/// A client's error in words.
pub(super) fn describe_error(error: &NativeError) -> String {
    describe(error.code, &error.to_string())
}

/// The finding's code in front of a text, if there is one.
pub(crate) fn code_of(text: &str) -> Option<&str> {
    let (code, _) = text.split_once(": ")?;
    let is_code = code.len() == 3
        && code.starts_with(|c: char| c.is_ascii_uppercase())
        && code[1..].bytes().all(|b| b.is_ascii_digit());
    is_code.then_some(code)
}

/// What keeps a topic from taking records with acks=all, as far as its metadata shows.
pub(super) fn unwritable(topic: &TopicName, facts: &TopicFacts, min_insync: Option<i32>) -> Option<String> {
    let leaderless = facts.parts.iter().position(|part| !part.led);
    if let Some(partition) = leaderless {
        return Some(format!("{topic}[{partition}] has no leader: the brokers that hold it are down"));
    }
    let min_insync = min_insync?;
    let short = |part: &PartitionFacts| i32::try_from(part.in_sync).unwrap_or(i32::MAX) < min_insync;
    let partition = facts.parts.iter().position(short)?;
    let PartitionFacts { in_sync, replicas, .. } = facts.parts[partition];
    // With as many wanted as there are, one broker down stops all writes.
    let finding = if usize::try_from(min_insync).is_ok_and(|min| min >= replicas) { "B03" } else { "P02" };
    Some(format!(
        "{finding}: {topic}[{partition}] has {in_sync} of {replicas} replicas in sync and \
         min.insync.replicas is {min_insync}: bring the brokers back"
    ))
}

/// What is weak about a topic on a cluster of `nodes`; a lone node cannot do better than one replica.
pub(super) fn weakness(
    topic: &TopicName,
    facts: &TopicFacts,
    min_insync: Option<i32>,
    nodes: usize,
) -> Option<Weakness> {
    let replicas = facts.parts.iter().map(|part| part.replicas).min()?;
    if nodes < 2 {
        return None;
    }
    if replicas == 1 {
        let what = format!("topic {topic} has one replica: a lost broker loses its messages");
        return Some(Weakness { code: "B01", what });
    }
    let min_insync = usize::try_from(min_insync?).ok()?;
    if min_insync == 1 {
        let what = format!(
            "topic {topic} has min.insync.replicas 1: an acknowledged record may have one copy only; set it to 2"
        );
        return Some(Weakness { code: "B02", what });
    }
    (min_insync >= replicas).then(|| Weakness {
        code: "B03",
        what: format!(
            "topic {topic} has min.insync.replicas {min_insync} of {replicas} replicas: one broker down stops all writes"
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topic() -> TopicName {
        TopicName::parse("orders").unwrap()
    }

    fn facts(parts: &[(bool, usize, usize)]) -> TopicFacts {
        let part = |(led, replicas, in_sync): &(bool, usize, usize)| PartitionFacts {
            led: *led,
            replicas: *replicas,
            in_sync: *in_sync,
        };
        TopicFacts {
            id: [1; 16],
            partitions: i32::try_from(parts.len()).unwrap(),
            parts: parts.iter().map(part).collect(),
        }
    }

    #[test]
    fn what_a_person_or_time_mends_never_refuses_a_record() {
        for code in [
            Code::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED,
            Code::RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED,
            Code::RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS,
            Code::RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS_AFTER_APPEND,
            Code::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION,
            Code::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART,
            Code::RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC,
            Code::RD_KAFKA_RESP_ERR__AUTHENTICATION,
            Code::RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN,
            Code::RD_KAFKA_RESP_ERR_KAFKA_STORAGE_ERROR,
            Code::RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER,
            Code::RD_KAFKA_RESP_ERR__FATAL,
        ] {
            assert_eq!(meaning(code as i32), Meaning::Indeterminate, "{code:?}");
        }
        assert_eq!(
            meaning(Code::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE as i32),
            Meaning::Refused(RejectCode::TooLarge)
        );
    }

    #[test]
    fn a_wait_carries_the_findings_code_in_front() {
        let text = describe_code(Code::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED as i32);
        assert_eq!(code_of(&text), Some("N05"), "{text}");
        let text = describe_code(Code::RD_KAFKA_RESP_ERR__TRANSPORT as i32);
        assert_eq!(code_of(&text), None, "{text}");
        assert_eq!(code_of("N02: the Kafka cluster is x"), Some("N02"));
        for text in ["", "N2: x", "abc: x", "Kafka at 127.0.0.1: gone", "é05: x"] {
            assert_eq!(code_of(text), None, "{text}");
        }
    }

    #[test]
    fn metadata_tells_why_acks_all_cannot_be_had() {
        let said = unwritable(&topic(), &facts(&[(true, 3, 3), (false, 3, 0)]), Some(2)).unwrap();
        assert!(said.contains("orders[1] has no leader"), "{said}");
        let said = unwritable(&topic(), &facts(&[(true, 3, 1)]), Some(2)).unwrap();
        assert!(said.starts_with("P02: orders[0] has 1 of 3"), "{said}");
        let said = unwritable(&topic(), &facts(&[(true, 3, 2)]), Some(3)).unwrap();
        assert!(said.starts_with("B03: "), "{said}");
        assert_eq!(unwritable(&topic(), &facts(&[(true, 3, 2)]), Some(2)), None);
        assert_eq!(unwritable(&topic(), &facts(&[(true, 3, 1)]), None), None, "not known");
    }

    #[test]
    fn a_topic_that_can_lose_what_it_acknowledged_is_called_weak() {
        let code = |replicas, min, nodes| {
            weakness(&topic(), &facts(&[(true, replicas, replicas)]), min, nodes).map(|weak| weak.code)
        };
        assert_eq!(code(1, Some(1), 3), Some("B01"));
        assert_eq!(code(3, Some(1), 3), Some("B02"));
        assert_eq!(code(3, Some(3), 3), Some("B03"));
        assert_eq!(code(3, Some(2), 3), None);
        assert_eq!(code(1, Some(1), 1), None, "a lone node cannot do better");
        assert_eq!(code(3, None, 3), None, "not known");
    }
}
