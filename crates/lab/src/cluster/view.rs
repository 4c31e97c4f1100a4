//! What the cluster says of itself: who is ready, who leads, who is in sync.

use super::{Cluster, ClusterError, Connection, Node};
use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use kafka_protocol::messages::describe_quorum_request::{PartitionData, TopicData};
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::metadata_response::{MetadataResponsePartition, MetadataResponseTopic};
use kafka_protocol::messages::{
    CreateTopicsRequest, DescribeQuorumRequest, MetadataRequest, MetadataResponse, TopicName,
};
use kafka_protocol::protocol::{Request, StrBytes};
use std::io;
use std::time::{Duration, Instant};

/// How long the cluster may take for what a test waits for.
const PATIENCE: Duration = Duration::from_secs(90);
/// How long one node may take for one answer.
const ANSWER_PATIENCE: Duration = Duration::from_secs(5);
/// How long all nodes may take to stop cleanly together.
const STOP_PATIENCE: Duration = Duration::from_secs(10);
/// How often is looked.
const POLL: Duration = Duration::from_millis(50);

const TOPIC_ALREADY_EXISTS: i16 = 36;

/// Who leads the metadata quorum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Quorum {
    epoch: i32,
    leader: i32,
}

impl Cluster {
    /// Waits until every node that runs knows all that run, and a controller among them.
    ///
    /// Nodes that were killed, stopped or paused are not waited for. One whose
    /// port a stranger took on its way up is started again.
    ///
    /// # Errors
    /// When a node ends by itself, or 90 seconds were not enough.
    pub fn wait_ready(&self) -> Result<(), ClusterError> {
        self.wait_for("readiness of all nodes", || {
            for node in self.nodes() {
                match node.check() {
                    Err(ClusterError::PortTaken { .. }) if self.start_time > Duration::ZERO => {
                        node.start()?
                    }
                    checked => checked?,
                }
            }
            let running = self.running();
            if self.quorum().is_none() {
                return Ok(Err("no controller".to_owned()));
            }
            for &index in &running {
                if let Err(reason) = self.is_ready(index, &running) {
                    return Ok(Err(format!("node {index}: {reason}")));
                }
            }
            Ok(Ok(()))
        })
    }

    /// Stops every node cleanly, all at once.
    ///
    /// The last nodes may lack the quorum that a clean stop needs: what has not
    /// ended after ten seconds is killed, and told by its index.
    ///
    /// # Errors
    /// When a process cannot be waited for.
    pub fn stop_all(&self) -> Result<Vec<usize>, ClusterError> {
        self.nodes().iter().for_each(Node::terminate);
        let deadline = Instant::now() + STOP_PATIENCE;
        let mut killed = Vec::new();
        for node in self.nodes() {
            match node.wait_ended(deadline.saturating_duration_since(Instant::now())) {
                Err(ClusterError::TimedOut { .. }) => killed.push(node.index()),
                ended => ended?,
            }
        }
        Ok(killed)
    }

    /// Wakes and starts whatever nodes a test before left frozen or dead, and waits until they serve.
    ///
    /// # Errors
    /// When a node does not start.
    pub fn start_all(&self) -> Result<(), ClusterError> {
        for node in self.nodes() {
            if node.is_running() { node.resume() } else { node.start() }?;
        }
        self.wait_ready()
    }

    /// Waits until every replica on a node that runs is in sync, of every topic there is.
    ///
    /// # Errors
    /// When 90 seconds were not enough.
    pub fn wait_in_sync(&self) -> Result<(), ClusterError> {
        self.wait_for("all replicas in sync", || {
            let metadata = match self.metadata(None) {
                Ok(metadata) => metadata,
                Err(error) => return Ok(Err(error.to_string())),
            };
            let running = self.running();
            for topic in &metadata.topics {
                for partition in &topic.partitions {
                    let isr = indexes(&partition.isr_nodes);
                    let replicas = indexes(&partition.replica_nodes);
                    let missing =
                        replicas.iter().any(|index| running.contains(index) && !isr.contains(index));
                    if missing || partition.leader_id.0 < 0 {
                        let name = topic.name.as_ref().map_or("", |name| name.as_str());
                        return Ok(Err(format!("{name}-{}: in sync {isr:?}", partition.partition_index)));
                    }
                }
            }
            Ok(Ok(()))
        })
    }

    /// Creates a topic and waits until every node that runs knows it and who leads it.
    ///
    /// # Errors
    /// When Kafka refuses it, it exists already, or it takes too long.
    pub fn create_topic(
        &self,
        name: &str,
        partitions: i32,
        replication: i16,
        settings: &[(&str, &str)],
    ) -> Result<(), ClusterError> {
        let config = |(name, value): &(&str, &str)| {
            CreatableTopicConfig::default().with_name(text(name)).with_value(Some(text(value)))
        };
        let topic = CreatableTopic::default()
            .with_name(topic_name(name))
            .with_num_partitions(partitions)
            .with_replication_factor(replication)
            .with_configs(settings.iter().map(config).collect());
        let request = CreateTopicsRequest::default().with_topics(vec![topic]).with_timeout_ms(30_000);
        let doing = format!("creating topic {name}");
        let mut tries = 0;
        self.wait_for(&doing, || {
            tries += 1;
            let answer = match self.ask_any(7, &request) {
                Ok(answer) => answer,
                Err(error) => return Ok(Err(error.to_string())),
            };
            let Some(topic) = answer.topics.first() else { return Ok(Err("no answer".to_owned())) };
            match topic.error_code {
                0 => Ok(Ok(())),
                // An earlier try of ours may have been carried out with its answer lost.
                TOPIC_ALREADY_EXISTS if tries > 1 => Ok(Ok(())),
                code if is_transient(code) => Ok(Err(format!("error {code}"))),
                code => {
                    let message = topic.error_message.as_ref().map_or("", |m| m.as_str()).to_owned();
                    Err(ClusterError::Refused { doing: doing.clone(), code, message })
                }
            }
        })?;
        let expected = usize::try_from(partitions).unwrap_or(0);
        self.wait_for(&format!("topic {name} on all nodes"), || {
            for index in self.running() {
                let known = self.metadata_through(index, Some(&[name]));
                let led = known.is_ok_and(|known| {
                    let partitions = known.topics.first().map_or(&[][..], |topic| &topic.partitions);
                    partitions.len() == expected && partitions.iter().all(|p| p.leader_id.0 >= 0)
                });
                if !led {
                    return Ok(Err(format!("not on node {index}")));
                }
            }
            Ok(Ok(()))
        })
    }

    /// The index of the node that leads a partition; waits while there is none.
    ///
    /// # Panics
    /// When there is none for 90 seconds.
    #[must_use]
    pub fn leader_of(&self, topic: &str, partition: i32) -> usize {
        let waited = self.wait_leader(topic, partition, |_| true);
        waited.unwrap_or_else(|error| panic!("{error}"))
    }

    /// The index of the node that leads a partition now, as the active controller's node knows.
    #[must_use]
    pub fn try_leader_of(&self, topic: &str, partition: i32) -> Option<usize> {
        let found = self.partition(topic, partition).ok()?;
        usize::try_from(found.leader_id.0 - 1).ok()
    }

    /// Waits until a partition is led by another node than `before`; that node's index.
    ///
    /// # Errors
    /// When 90 seconds were not enough.
    pub fn wait_leader_other_than(
        &self,
        topic: &str,
        partition: i32,
        before: usize,
    ) -> Result<usize, ClusterError> {
        self.wait_leader(topic, partition, |leader| leader != before)
    }

    fn wait_leader(
        &self,
        topic: &str,
        partition: i32,
        wanted: impl Fn(usize) -> bool,
    ) -> Result<usize, ClusterError> {
        self.wait_for(&format!("a leader of {topic}-{partition}"), || {
            let leader = self.try_leader_of(topic, partition);
            Ok(leader.filter(|leader| wanted(*leader)).ok_or_else(|| format!("the leader is {leader:?}")))
        })
    }

    /// The indexes of the nodes in sync with a partition's leader, in ascending order.
    ///
    /// # Panics
    /// When nobody tells for 90 seconds.
    #[must_use]
    pub fn isr(&self, topic: &str, partition: i32) -> Vec<usize> {
        let waited = self.wait_for(&format!("metadata of {topic}-{partition}"), || {
            Ok(self.partition(topic, partition).map(|p| indexes(&p.isr_nodes)).map_err(|e| e.to_string()))
        });
        waited.unwrap_or_else(|error| panic!("{error}"))
    }

    /// The index of the active controller; waits while there is none.
    ///
    /// # Panics
    /// When there is none for 90 seconds.
    #[must_use]
    pub fn controller(&self) -> usize {
        let waited = self.wait_for("a controller", || {
            let known = self.quorum().and_then(|quorum| usize::try_from(quorum.leader - 1).ok());
            Ok(known.ok_or_else(|| "nobody knows one".to_owned()))
        });
        waited.unwrap_or_else(|error| panic!("{error}"))
    }

    /// What the active controller's node knows of some topics, or of all.
    ///
    /// # Errors
    /// When no node answers.
    pub fn metadata(&self, topics: Option<&[&str]>) -> io::Result<MetadataResponse> {
        let running = self.running();
        let leader = self.quorum().and_then(|quorum| usize::try_from(quorum.leader - 1).ok());
        let leader = leader.filter(|leader| running.contains(leader));
        let mut answer = Err(io::Error::new(io::ErrorKind::NotConnected, "no node runs"));
        for index in leader.into_iter().chain(running) {
            answer = self.metadata_through(index, topics);
            if answer.is_ok() {
                break;
            }
        }
        answer
    }

    /// What one node knows of some topics, or of all.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn metadata_through(&self, index: usize, topics: Option<&[&str]>) -> io::Result<MetadataResponse> {
        let topic = |name: &&str| MetadataRequestTopic::default().with_name(Some(topic_name(name)));
        let request = MetadataRequest::default()
            .with_topics(topics.map(|topics| topics.iter().map(topic).collect()))
            .with_allow_auto_topic_creation(false);
        self.ask(index, 12, &request)
    }

    /// Sends one request to one node, past anything that stands in between.
    ///
    /// # Errors
    /// When it does not answer within five seconds.
    pub fn ask<R: Request>(&self, index: usize, version: i16, request: &R) -> io::Result<R::Response> {
        Connection::open(self.address_of(index), ANSWER_PATIENCE)?.ask(version, request)
    }

    /// The indexes of the nodes that run and are not paused.
    #[must_use]
    pub fn running(&self) -> Vec<usize> {
        self.nodes().iter().filter(|node| node.is_running()).map(|node| node.index()).collect()
    }

    /// Sends one request to some node that runs.
    pub(super) fn ask_any<R: Request>(&self, version: i16, request: &R) -> io::Result<R::Response> {
        let none = || io::Error::new(io::ErrorKind::NotConnected, "no node runs");
        let index = self.running().first().copied().ok_or_else(none)?;
        self.ask(index, version, request)
    }

    fn partition(&self, topic: &str, partition: i32) -> io::Result<MetadataResponsePartition> {
        let metadata = self.metadata(Some(&[topic]))?;
        let partitions =
            metadata.topics.into_iter().next().map(|topic: MetadataResponseTopic| topic.partitions);
        let found = partitions.unwrap_or_default().into_iter().find(|p| p.partition_index == partition);
        found.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no such partition"))
    }

    /// A partition's replicas in their order of preference, and those in sync.
    pub(super) fn replicas(&self, topic: &str, partition: i32) -> io::Result<(Vec<usize>, Vec<usize>)> {
        let found = self.partition(topic, partition)?;
        let replicas = found.replica_nodes.iter().filter_map(|id| usize::try_from(id.0 - 1).ok()).collect();
        Ok((replicas, indexes(&found.isr_nodes)))
    }

    fn is_ready(&self, index: usize, running: &[usize]) -> Result<(), String> {
        let metadata = self.metadata_through(index, Some(&[])).map_err(|error| error.to_string())?;
        let known: Vec<usize> =
            metadata.brokers.iter().filter_map(|b| usize::try_from(b.node_id.0 - 1).ok()).collect();
        if running.iter().any(|index| !known.contains(index)) {
            return Err(format!("knows of {known:?}"));
        }
        Ok(())
    }

    /// The newest of those that say they lead the metadata quorum.
    fn quorum(&self) -> Option<Quorum> {
        self.running().into_iter().filter_map(|index| self.led_by(index).ok().flatten()).max()
    }

    /// Asked of the controller itself: a broker would pass the question on to
    /// whom it takes for the leader, and wait for that one even if it is paused.
    fn led_by(&self, index: usize) -> io::Result<Option<Quorum>> {
        let topic = TopicData::default()
            .with_topic_name(topic_name("__cluster_metadata"))
            .with_partitions(vec![PartitionData::default()]);
        let request = DescribeQuorumRequest::default().with_topics(vec![topic]);
        let answer = Connection::open(self.sockets[index].controller, ANSWER_PATIENCE)?.ask(1, &request)?;
        let partition = answer.topics.first().and_then(|topic| topic.partitions.first());
        // Who does not lead answers with an error.
        let leads = partition.filter(|p| answer.error_code == 0 && p.error_code == 0 && p.leader_id.0 > 0);
        Ok(leads.map(|p| Quorum { epoch: p.leader_epoch, leader: p.leader_id.0 }))
    }

    /// Looks until `seen` has it; what it says otherwise goes into the error.
    pub(super) fn wait_for<T>(
        &self,
        what: &str,
        mut seen: impl FnMut() -> Result<Result<T, String>, ClusterError>,
    ) -> Result<T, ClusterError> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match seen()? {
                Ok(found) => return Ok(found),
                Err(seen) if Instant::now() > deadline => {
                    return Err(ClusterError::TimedOut { what: what.to_owned(), patience: PATIENCE, seen });
                }
                Err(_) => std::thread::sleep(POLL),
            }
        }
    }
}

/// Whether a controller that is moving or loading answers so.
fn is_transient(code: i16) -> bool {
    // REQUEST_TIMED_OUT, NOT_CONTROLLER, INVALID_REPLICATION_FACTOR (a broker is still fenced).
    matches!(code, 7 | 41 | 38)
}

fn indexes(ids: &[kafka_protocol::messages::BrokerId]) -> Vec<usize> {
    let mut indexes: Vec<usize> = ids.iter().filter_map(|id| usize::try_from(id.0 - 1).ok()).collect();
    indexes.sort_unstable();
    indexes
}

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

pub(super) fn topic_name(name: &str) -> TopicName {
    TopicName(text(name))
}
