//! Leaders and replicas moved on purpose, by the requests that an operator's tools send.

use super::view::topic_name;
use super::{Cluster, ClusterError};
use kafka_protocol::messages::alter_partition_reassignments_request::{
    ReassignablePartition, ReassignableTopic,
};
use kafka_protocol::messages::elect_leaders_request::TopicPartitions;
use kafka_protocol::messages::{AlterPartitionReassignmentsRequest, BrokerId, ElectLeadersRequest};

const ANSWER_WITHIN_MS: i32 = 4000;
/// The partition is led already by the one that would be elected.
const ELECTION_NOT_NEEDED: i16 = 84;

/// Who may win an election.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Election {
    /// The first of the replicas, when it is in sync.
    Preferred,
    /// Any replica that is alive, when none in sync is; what only the others had is lost.
    Unclean,
}

impl Cluster {
    /// Holds an election of a partition's leader; nothing to do is fine.
    ///
    /// # Errors
    /// When Kafka refuses it (no replica may win), or no controller answers for 90 seconds.
    pub fn elect(&self, topic: &str, partition: i32, election: Election) -> Result<(), ClusterError> {
        let partitions =
            TopicPartitions::default().with_topic(topic_name(topic)).with_partitions(vec![partition]);
        let request = ElectLeadersRequest::default()
            .with_election_type(match election {
                Election::Preferred => 0,
                Election::Unclean => 1,
            })
            .with_topic_partitions(Some(vec![partitions]))
            .with_timeout_ms(ANSWER_WITHIN_MS);
        self.carry_out(&format!("electing a leader of {topic}-{partition}"), || {
            let answer = self.ask_any(2, &request)?;
            let of_partition =
                answer.replica_election_results.first().and_then(|t| t.partition_result.first());
            let code = of_partition.map_or(0, |result| result.error_code);
            Ok(if code == ELECTION_NOT_NEEDED { answer.error_code } else { first(answer.error_code, code) })
        })
    }

    /// Moves a partition to other replicas, the first of them preferred as its leader, and waits
    /// until all of them have everything and the former ones are gone.
    ///
    /// # Errors
    /// When Kafka refuses it, or 90 seconds were not enough.
    pub fn reassign(&self, topic: &str, partition: i32, replicas: &[usize]) -> Result<(), ClusterError> {
        let ids =
            replicas.iter().map(|index| BrokerId(i32::try_from(index + 1).expect("few nodes"))).collect();
        let moved = ReassignablePartition::default().with_partition_index(partition).with_replicas(Some(ids));
        let of_topic = ReassignableTopic::default().with_name(topic_name(topic)).with_partitions(vec![moved]);
        let request = AlterPartitionReassignmentsRequest::default()
            .with_topics(vec![of_topic])
            .with_timeout_ms(ANSWER_WITHIN_MS);
        let doing = format!("moving {topic}-{partition} to nodes {replicas:?}");
        self.carry_out(&doing, || {
            let answer = self.ask_any(0, &request)?;
            let of_partition = answer.responses.first().and_then(|topic| topic.partitions.first());
            Ok(first(answer.error_code, of_partition.map_or(0, |result| result.error_code)))
        })?;
        self.wait_for(&doing, || {
            let now = self.replicas(topic, partition);
            Ok(now.map_err(|error| error.to_string()).and_then(|(listed, in_sync)| {
                let all = listed == replicas && replicas.iter().all(|index| in_sync.contains(index));
                if all { Ok(()) } else { Err(format!("replicas {listed:?}, in sync {in_sync:?}")) }
            }))
        })
    }

    /// Makes a replica of a partition its leader: puts it first, then holds the preferred election.
    ///
    /// # Errors
    /// When Kafka refuses it, or the replica is not in sync within 90 seconds.
    pub fn move_leader(&self, topic: &str, partition: i32, to: usize) -> Result<(), ClusterError> {
        let (mut replicas, _) =
            self.replicas(topic, partition).map_err(ClusterError::io(format!("replicas of {topic}")))?;
        // Stable: the others keep their order.
        replicas.sort_by_key(|index| *index != to);
        self.reassign(topic, partition, &replicas)?;
        self.elect(topic, partition, Election::Preferred)?;
        self.wait_for(&format!("node {to} leading {topic}-{partition}"), || {
            let leader = self.try_leader_of(topic, partition);
            Ok(if leader == Some(to) { Ok(()) } else { Err(format!("the leader is {leader:?}")) })
        })
    }

    /// Asks until a controller has said yes or no.
    fn carry_out(
        &self,
        doing: &str,
        mut ask: impl FnMut() -> std::io::Result<i16>,
    ) -> Result<(), ClusterError> {
        self.wait_for(doing, || match ask() {
            Ok(0) => Ok(Ok(())),
            Ok(code) if is_transient(code) => Ok(Err(format!("error {code}"))),
            Ok(code) => Err(ClusterError::Refused { doing: doing.to_owned(), code, message: String::new() }),
            // Both requests may be repeated: they name the state that is wanted.
            Err(error) => Ok(Err(error.to_string())),
        })
    }
}

fn first(whole: i16, part: i16) -> i16 {
    if whole == 0 { part } else { whole }
}

/// `REQUEST_TIMED_OUT`, `NOT_CONTROLLER`: a controller that is moving or loading.
fn is_transient(code: i16) -> bool {
    matches!(code, 7 | 41)
}
