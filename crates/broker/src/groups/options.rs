//! The limits a group coordinator works within, with Apache Kafka's names and defaults.

use std::time::Duration;

/// What the group coordinator allows its groups.
///
/// Field names follow the broker settings of Apache Kafka 4 they stand for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupOptions {
    /// `group.min.session.timeout.ms`; default 6 s. A member asking for less is refused. Too
    /// low: a short pause of a client costs its group a rebalance.
    pub session_timeout_min: Duration,
    /// `group.max.session.timeout.ms`; default 30 min. Too high: a dead member holds its
    /// partitions that long.
    pub session_timeout_max: Duration,
    /// `group.initial.rebalance.delay.ms`; default 0 (Kafka: 3 s), so that the first member of
    /// a group starts at once. Too high: every cold start waits this long. Zero: members that
    /// start together cause a few more rebalances.
    pub initial_rebalance_delay: Duration,
    /// `group.max.size`: members of one group; default 10,000. Further members are refused with
    /// `GROUP_MAX_SIZE_REACHED`.
    pub group_size_max: usize,
    /// Groups the coordinator keeps; default 100,000. More are refused with
    /// `COORDINATOR_NOT_AVAILABLE`.
    pub groups_max: usize,
    /// `offset.metadata.max.bytes`; default 4096. Longer commit metadata is refused with
    /// `OFFSET_METADATA_TOO_LARGE`.
    pub offset_metadata_chars_max: usize,
    /// `offsets.retention.minutes`; default 7 days. How long the offsets of a group without
    /// members are kept. Too low: a group that pauses over a weekend starts anew.
    pub offsets_retention: Duration,
    /// `offsets.retention.check.interval.ms`; default 10 min.
    pub offsets_retention_check: Duration,
    /// `offsets.commit.timeout.ms`; default 5 s. A commit that is not on disk by then is
    /// answered with a retriable error; it may still come into effect.
    pub commit_timeout: Duration,
    /// How long a member that was given an id on its first join but never came back with it
    /// may hold up a rebalance when it joined without a session timeout; default 5 min, as
    /// Kafka's fixed "new member join timeout".
    pub new_member_join_timeout: Duration,
}

impl Default for GroupOptions {
    fn default() -> Self {
        Self {
            session_timeout_min: Duration::from_secs(6),
            session_timeout_max: Duration::from_secs(30 * 60),
            initial_rebalance_delay: Duration::ZERO,
            group_size_max: 10_000,
            groups_max: 100_000,
            offset_metadata_chars_max: 4096,
            offsets_retention: Duration::from_secs(7 * 24 * 60 * 60),
            offsets_retention_check: Duration::from_secs(10 * 60),
            commit_timeout: Duration::from_secs(5),
            new_member_join_timeout: Duration::from_secs(5 * 60),
        }
    }
}

impl GroupOptions {
    /// Checks the relations between the fields.
    ///
    /// # Errors
    /// A sentence naming both settings when the shortest session is longer than the longest.
    pub fn validate(&self) -> Result<(), String> {
        if self.session_timeout_min > self.session_timeout_max {
            return Err(format!(
                "session_timeout_min ({:?}) is above session_timeout_max ({:?})",
                self.session_timeout_min, self.session_timeout_max
            ));
        }
        Ok(())
    }
}
