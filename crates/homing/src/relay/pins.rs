//! Watching that Kafka is still the cluster, and each topic the topic, that the outbox is pinned to.

use super::error::{Halt, RelayError};
use super::last_epoch::EpochSearch;
use super::obstacle::{describe_error, weakness};
use super::reading::ReadBatch;
use super::session::{Session, now_ms};
use super::topics::{Lane, MESSAGE_BYTES_DEFAULT};
use super::waiting::not_authorised;
use crate::kafka::NativeError;
use crate::kafka::admin::{ClusterFacts, TopicAnswer, TopicFacts};
use crate::outbox::store::{RejectCode, TopicEpoch, Weakness};
use homing_core::{Epoch, Offset, PartitionCount, TopicName};
use rdkafka::types::RDKafkaRespErr as Code;
use std::time::{Duration, Instant};

/// How long a topic may seem gone (a broker that just started) before it is.
const MISSING_GRACE: Duration = Duration::from_secs(5);
/// How long a topic that was never written to may be unknown or forbidden before its rows are set
/// aside: a new topic and new rights take a moment to reach every broker.
const UNSEEN_GRACE: Duration = Duration::from_secs(2);
/// How often doubt is looked into.
const DOUBT_EVERY: Duration = Duration::from_millis(500);

/// When the pins were looked at, and whether they may have changed since.
#[derive(Debug)]
pub(super) struct PinWatch {
    cluster_id: Option<String>,
    /// How many brokers the cluster had at the last look.
    nodes: usize,
    doubt: bool,
    looked_at: Option<Instant>,
}

impl PinWatch {
    pub fn new(cluster_id: Option<String>) -> Self {
        Self { cluster_id, nodes: 0, doubt: true, looked_at: None }
    }

    /// Something happened after which Kafka may be another one: nothing is settled before a look.
    pub fn doubt(&mut self) {
        self.doubt = true;
    }

    pub fn in_doubt(&self) -> bool {
        self.doubt
    }
}

/// How a topic that had no open epoch turned out.
enum Opening {
    Open,
    Reject(RejectCode, String),
}

impl Session<'_> {
    /// Looks at the pins when it is time to; trouble with it is only noted.
    pub fn look_at_pins(&mut self) -> Result<(), Halt> {
        let every = if self.pins.doubt { DOUBT_EVERY } else { self.ground.options.pins_every };
        if self.drain_until.is_some() || self.pins.looked_at.is_some_and(|at| at.elapsed() < every) {
            return Ok(());
        }
        match self.check_pins() {
            Err(Halt::Wait(why)) => {
                self.pins.doubt();
                self.troubled(&why)
            }
            Ok(()) if self.is_at_ease() => self.untroubled(),
            other => other,
        }
    }

    /// Compares cluster and topics with what is pinned.
    pub fn check_pins(&mut self) -> Result<(), Halt> {
        self.pins.looked_at = Some(Instant::now());
        if self.is_troubled() {
            self.renew_clients()?;
        }
        let ClusterFacts { id: found, nodes } = self.admin.cluster().map_err(waits)?;
        self.pins.nodes = nodes;
        match &self.pins.cluster_id {
            None => {
                self.ground.store.pin_cluster(self.ground.token, &found)?;
                self.pins.cluster_id = Some(found);
            }
            Some(pinned) if *pinned == found => {}
            Some(pinned) => {
                return Err(RelayError::ClusterChanged { pinned: pinned.clone(), found }.into());
            }
        }
        if !self.topics.list.is_empty() {
            let names: Vec<TopicName> =
                self.topics.list.iter().map(|open| open.epoch.topic.clone()).collect();
            let answers = self.admin.topics(&names.iter().collect::<Vec<_>>()).map_err(waits)?;
            for (topic, answer) in answers.into_iter().enumerate() {
                self.compare(topic, answer)?;
            }
        }
        self.pins.doubt = false;
        Ok(())
    }

    fn compare(&mut self, topic: usize, answer: TopicAnswer) -> Result<(), Halt> {
        let facts = self.still_there(topic, answer)?;
        let open = &mut self.topics.list[topic];
        match partitions_now(&open.epoch, &facts) {
            Partitions::Same => {}
            Partitions::Changed(count) => open.outdated = Some(count),
            Partitions::Stale => {
                tracing::debug!(topic = %open.epoch.topic, facts.partitions, "a broker is behind the topic's growth");
            }
        }
        self.note_settings(topic, &facts)
    }

    /// What Kafka says of a topic with an open epoch, if it still is that topic.
    fn still_there(&mut self, topic: usize, answer: TopicAnswer) -> Result<TopicFacts, Halt> {
        let open = &mut self.topics.list[topic];
        let (name, epoch) = (open.epoch.topic.clone(), open.epoch.epoch);
        let facts = match answer {
            TopicAnswer::Present(facts) => facts,
            TopicAnswer::Missing => {
                let since = *open.missing_since.get_or_insert_with(Instant::now);
                if since.elapsed() >= MISSING_GRACE {
                    return Err(RelayError::TopicDeleted { topic: name, epoch }.into());
                }
                return Err(Halt::Wait(format!("Kafka has no topic {name}, which this outbox writes to")));
            }
            TopicAnswer::NotAuthorised => {
                return Err(Halt::Wait(not_authorised(&name)));
            }
            TopicAnswer::Unclear(error) => return Err(waits(error)),
        };
        open.missing_since = None;
        if ids_known(&open.epoch, &facts) && facts.id != open.epoch.topic_id {
            return Err(RelayError::TopicRecreated { topic: name, epoch }.into());
        }
        Ok(facts)
    }

    /// Takes over what the topic's settings allow, and warns when they are weak.
    fn note_settings(&mut self, topic: usize, facts: &TopicFacts) -> Result<(), Halt> {
        let name = self.topics.list[topic].epoch.topic.clone();
        let settings = self.admin.topic_settings(&name).unwrap_or_default();
        let found = weakness(&name, facts, settings.min_insync, self.pins.nodes);
        let open = &mut self.topics.list[topic];
        open.message_bytes_max = settings.message_bytes_max.unwrap_or(MESSAGE_BYTES_DEFAULT);
        if open.weakness.as_ref() == Some(&found) {
            return Ok(());
        }
        if let Some(Weakness { code, what }) = &found {
            tracing::warn!(code, "{what}");
        }
        self.ground.store.note_weakness(self.ground.token, &name, found.as_ref(), now_ms())?;
        self.topics.list[topic].weakness = Some(found);
        Ok(())
    }

    /// Opens the topics of a batch and sets rows aside that cannot go. False:
    /// something has to end first, an epoch or a producer, so not now.
    pub fn prepare(&mut self, batch: &mut ReadBatch) -> Result<bool, Halt> {
        let mut rejects = Vec::with_capacity(batch.rows.topics().len());
        let mut opened = false;
        for topic in batch.rows.topics() {
            rejects.push(if self.topics.find(topic).is_some() {
                None
            } else {
                opened = true;
                match self.open_topic(topic)? {
                    Opening::Open => None,
                    Opening::Reject(code, reason) => Some((code, reason)),
                }
            });
        }
        if opened && self.producer_no_longer_fits() && !self.flights.is_empty() {
            return Ok(false);
        }
        let limits: Vec<usize> = batch
            .rows
            .topics()
            .iter()
            .map(|topic| self.topics.find(topic).map_or(0, |at| self.record_limit(at)))
            .collect();
        batch.rows.reject_where(|row| {
            if let Some(reject) = &rejects[row.topic] {
                return Some(reject.clone());
            }
            let (bytes, limit) = (row.bytes(), limits[row.topic]);
            (bytes > limit).then(|| {
                let reason = format!(
                    "{bytes} bytes of key, payload and headers are more than the {limit} the topic's \
                     max.message.bytes leaves for them"
                );
                (RejectCode::TooLarge, reason)
            })
        });
        Ok(true)
    }

    /// Bytes of key, payload and headers that a record of a topic may have: the
    /// topic's limit less the batch header (61), the record's own fields (30) and
    /// Homing's headers.
    fn record_limit(&self, topic: usize) -> usize {
        let own = 61 + 30 + (17 + self.ground.store.stream().as_str().len() + 45) + 47 + 28;
        let by_user = self.ground.kafka.client_text("message.max.bytes").and_then(|n| n.parse().ok());
        let limit = self.topics.list[topic].message_bytes_max.min(by_user.unwrap_or(usize::MAX));
        limit.saturating_sub(own)
    }

    fn open_topic(&mut self, topic: &TopicName) -> Result<Opening, Halt> {
        let facts = match self.ask_topic(topic)? {
            TopicAnswer::Present(facts) => facts,
            TopicAnswer::NotAuthorised => {
                if self.ground.store.last_epoch(topic)?.is_some() {
                    // It was written to before, so this is a right taken away.
                    return Err(Halt::Wait(not_authorised(topic)));
                }
                self.doubted(topic, &not_authorised(topic))?;
                let reason = "Kafka does not let Homing look at the topic".to_owned();
                return Ok(Opening::Reject(RejectCode::NotAuthorised, reason));
            }
            TopicAnswer::Unclear(error) => return Err(waits(error)),
            TopicAnswer::Missing if self.ground.kafka.create_topics => {
                match self.admin.create_topic(topic, self.ground.kafka) {
                    Ok(()) => self.created_topic(topic)?,
                    Err(error) => return refused_creation(error),
                }
            }
            TopicAnswer::Missing => {
                self.doubted(topic, &format!("Kafka does not know topic {topic} (yet?)"))?;
                let reason = "Kafka has no such topic and kafka.create_topics is off".to_owned();
                return Ok(Opening::Reject(RejectCode::TopicMissing, reason));
            }
        };
        self.open_epoch(topic, &facts)?;
        self.doubtful.remove(topic);
        Ok(Opening::Open)
    }

    /// Waits while a topic may just not have spread, or its rights may not; once for each topic.
    fn doubted(&mut self, topic: &TopicName, why: &str) -> Result<(), Halt> {
        let since = *self.doubtful.entry(topic.clone()).or_insert_with(Instant::now);
        if since.elapsed() < UNSEEN_GRACE { Err(Halt::Wait(why.to_owned())) } else { Ok(()) }
    }

    fn ask_topic(&mut self, topic: &TopicName) -> Result<TopicAnswer, Halt> {
        self.keep_alive()?;
        let mut answers = self.admin.topics(&[topic]).map_err(waits)?;
        Ok(answers.pop().expect("one question has one answer"))
    }

    /// Waits until each partition of a new topic has a leader (P12).
    fn created_topic(&mut self, topic: &TopicName) -> Result<TopicFacts, Halt> {
        tracing::info!(%topic, partitions = self.ground.kafka.topic_partitions, "topic created");
        let until = Instant::now() + self.ground.options.request_timeout;
        loop {
            let answer = self.ask_topic(topic)?;
            match answer {
                TopicAnswer::Present(facts) if facts.is_led() => return Ok(facts),
                _ if Instant::now() >= until => {
                    return Err(Halt::Wait(format!("topic {topic} was created and has no leaders yet")));
                }
                _ => self.go_on()?,
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Begins the topic's next epoch at the partitions' present ends.
    fn open_epoch(&mut self, topic: &TopicName, facts: &TopicFacts) -> Result<(), Halt> {
        let partitions = PartitionCount::new(facts.partitions)
            .ok_or_else(|| Halt::Wait(format!("topic {topic} has no partitions yet")))?;
        let mut bounds = Vec::new();
        for partition in 0..facts.partitions {
            self.go_on()?;
            bounds.push(self.admin.ends(topic, partition).map_err(waits)?);
        }
        let epoch = self.next_epoch(topic, &bounds)?;
        let ends: Vec<Offset> = bounds.into_iter().map(|(_, high)| high).collect();
        let epoch = TopicEpoch { topic: topic.clone(), epoch, topic_id: facts.id, partitions };
        self.ground.store.open_epoch(self.ground.token, &epoch, &ends, now_ms())?;
        let lane = |end: &Offset| Lane { next_seq: 1, next_offset: *end, warm: false };
        let at = self.topics.insert(epoch, ends.iter().map(lane).collect());
        self.note_settings(at, facts)
    }

    /// The epoch to begin: above all that the database and the log know.
    fn next_epoch(&mut self, topic: &TopicName, bounds: &[(Offset, Offset)]) -> Result<Epoch, Halt> {
        let last = self.ground.store.last_epoch(topic)?;
        let stream = self.ground.store.stream().clone();
        let search = EpochSearch {
            topic,
            stream: &stream,
            records_max: self.ground.options.epoch_search_records,
            stall_max: self.ground.options.request_timeout.saturating_mul(5),
        };
        let kafka = self.ground.kafka;
        let log = search.run(kafka, bounds, &mut || self.go_on())?;
        if log.highest > last {
            tracing::warn!(%topic, in_log = log.highest.map(|epoch| epoch.0), in_database = last.map(|epoch| epoch.0),
                "X12: Kafka has numbers of this stream that this database does not know: it was restored or \
                 made anew; a new epoch begins");
        }
        let now_s = u64::try_from(now_ms() / 1000).unwrap_or_default();
        homing_core::epoch::next(last, log, now_s)
            .ok_or_else(|| Halt::Wait(format!("topic {topic}: the epochs are used up")))
    }

    /// Begins a new epoch for each topic whose partition count changed, now
    /// that all is settled (A01). Nothing is numbered before that is done.
    pub fn end_outdated_epochs(&mut self) -> Result<(), Halt> {
        for topic in 0..self.topics.list.len() {
            let open = &self.topics.list[topic];
            let (Some(wanted), name) = (open.outdated, open.epoch.topic.clone()) else { continue };
            let answer = self.ask_topic(&name)?;
            let facts = self.still_there(topic, answer)?;
            if facts.partitions < wanted.get() {
                // Asked of a broker that is behind: an epoch without the new partitions would be the next to end.
                return Err(Halt::Wait(format!("topic {name} changes, and not every broker knows yet")));
            }
            self.open_epoch(&name, &facts)?;
        }
        Ok(())
    }
}

/// A topic's partition count beside the one its open epoch has.
#[derive(Debug, PartialEq, Eq)]
enum Partitions {
    Same,
    Changed(PartitionCount),
    /// Fewer, which a topic never has while it is the same: the broker that says so is behind.
    Stale,
}

fn partitions_now(pinned: &TopicEpoch, facts: &TopicFacts) -> Partitions {
    match PartitionCount::new(facts.partitions) {
        None => Partitions::Stale,
        Some(count) if count == pinned.partitions => Partitions::Same,
        Some(count) if count < pinned.partitions && ids_known(pinned, facts) => Partitions::Stale,
        Some(count) => Partitions::Changed(count),
    }
}

/// Whether both sides have a topic id. All zeros: a broker that knows none.
fn ids_known(pinned: &TopicEpoch, facts: &TopicFacts) -> bool {
    facts.id != [0; 16] && pinned.topic_id != [0; 16]
}

/// Kafka would not create a topic: for good, or to be asked again.
fn refused_creation(error: NativeError) -> Result<Opening, Halt> {
    let for_good = [
        Code::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED,
        Code::RD_KAFKA_RESP_ERR_POLICY_VIOLATION,
        Code::RD_KAFKA_RESP_ERR_TOPIC_EXCEPTION,
    ];
    if for_good.iter().any(|code| error.code == *code as i32) {
        let reason = format!("Kafka refuses to create the topic: {}", error.reason);
        return Ok(Opening::Reject(RejectCode::NotAuthorised, reason));
    }
    Err(waits(error))
}

/// Kafka did not answer well: try again.
pub(super) fn waits(error: NativeError) -> Halt {
    Halt::Wait(describe_error(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(id: u8, pinned: i32, found: i32) -> Partitions {
        let partitions = PartitionCount::new(pinned).unwrap();
        let topic = TopicName::parse("orders").unwrap();
        let epoch = TopicEpoch { topic, epoch: Epoch(1), topic_id: [7; 16], partitions };
        partitions_now(&epoch, &TopicFacts { id: [id; 16], partitions: found, parts: Vec::new() })
    }

    #[test]
    fn a_broker_that_is_behind_a_topics_growth_ends_no_epoch() {
        assert_eq!(seen(7, 3, 3), Partitions::Same);
        assert_eq!(seen(7, 3, 5), Partitions::Changed(PartitionCount::new(5).unwrap()));
        assert_eq!(seen(7, 5, 3), Partitions::Stale);
        assert_eq!(seen(7, 5, 0), Partitions::Stale);
        // Without ids fewer partitions may as well be another topic of the name: its own epoch.
        assert_eq!(seen(0, 5, 3), Partitions::Changed(PartitionCount::new(3).unwrap()));
    }
}
