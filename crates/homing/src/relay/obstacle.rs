//! What Kafka's errors and a topic's state are a sign of, in words and with the finding's code. Pure.
//!
//! Which error sets a record aside and which only waits is
//! [`homing_core::relay::verdict`]'s to say.

use crate::kafka::NativeError;
use crate::kafka::admin::{PartitionFacts, TopicFacts};
use crate::outbox::store::Weakness;
use homing_core::TopicName;
use homing_core::relay::verdict::verdict;
use homing_core::relay::{Now, Trouble};

/// Why something waits: a finding's code, if it is a sign of one, and words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Said {
    pub code: Option<&'static str>,
    pub what: String,
}

impl Said {
    pub fn plain(what: impl Into<String>) -> Self {
        Self { code: None, what: what.into() }
    }

    pub fn coded(code: &'static str, what: impl Into<String>) -> Self {
        Self { code: Some(code), what: what.into() }
    }

    pub fn since(self, now: Now) -> Trouble {
        Trouble::new(self.code, self.what, now)
    }
}

/// A client's error in words, with what to do about it.
pub(super) fn of_code(code: i32, said: &str) -> Said {
    let verdict = verdict(code);
    match verdict.finding {
        Some(finding) => Said::coded(finding, format!("{said}: {}", verdict.reason)),
        None => Said::plain(said),
    }
}

/// A question's error in words.
pub(super) fn of_error(error: &NativeError) -> Said {
    of_code(error.code, &error.to_string())
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
pub(super) fn unwritable(topic: &TopicName, facts: &TopicFacts, min_insync: Option<i32>) -> Option<Said> {
    let leaderless = facts.parts.iter().position(|part| !part.led);
    if let Some(partition) = leaderless {
        let what = format!("{topic}[{partition}] has no leader: the brokers that hold it are down");
        return Some(Said::plain(what));
    }
    let min_insync = min_insync?;
    let short = |part: &PartitionFacts| i32::try_from(part.in_sync).unwrap_or(i32::MAX) < min_insync;
    let partition = facts.parts.iter().position(short)?;
    let PartitionFacts { in_sync, replicas, .. } = facts.parts[partition];
    // With as many wanted as there are, one broker down stops all writes.
    let finding = if usize::try_from(min_insync).is_ok_and(|min| min >= replicas) { "B03" } else { "P02" };
    let what = format!(
        "{topic}[{partition}] has {in_sync} of {replicas} replicas in sync and \
         min.insync.replicas is {min_insync}: bring the brokers back"
    );
    Some(Said::coded(finding, what))
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
    fn a_wait_carries_the_findings_code_in_front() {
        assert_eq!(of_code(29, "refused").code, Some("N05"));
        assert_eq!(of_code(-195, "gone").code, None);
        assert_eq!(code_of("N02: the Kafka cluster is x"), Some("N02"));
        for text in ["", "N2: x", "abc: x", "Kafka at 127.0.0.1: gone", "é05: x"] {
            assert_eq!(code_of(text), None, "{text}");
        }
    }

    #[test]
    fn metadata_tells_why_acks_all_cannot_be_had() {
        let said = unwritable(&topic(), &facts(&[(true, 3, 3), (false, 3, 0)]), Some(2)).unwrap();
        assert!(said.what.contains("orders[1] has no leader"), "{said:?}");
        let said = unwritable(&topic(), &facts(&[(true, 3, 1)]), Some(2)).unwrap();
        assert!(said.what.starts_with("orders[0] has 1 of 3") && said.code == Some("P02"), "{said:?}");
        let said = unwritable(&topic(), &facts(&[(true, 3, 2)]), Some(3)).unwrap();
        assert_eq!(said.code, Some("B03"), "{said:?}");
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
