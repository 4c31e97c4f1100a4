//! Finding out what a topic's next epoch must lie above: its facts, its ends, and what the log has seen.

use super::answer::{Answer, Beginning};
use super::error::{Halt, RelayError};
use super::inbox::Inbox;
use super::last_epoch::EpochSearch;
use super::obstacle::{Said, of_error};
use super::options::RelayOptions;
use super::worker::{Questions, Stop, Workers};
use crate::kafka::admin::{Admin, Bound, TopicAnswer, TopicFacts};
use crate::kafka::config::KafkaConfig;
use crate::kafka::partition_list::TopicPartition;
use homing_core::relay::TopicIx;
use homing_core::{Offset, Partition, PartitionCount, StreamName, TopicName};
use std::time::Duration;

/// How many topics are looked into at once: one that does not answer holds up few others.
const AT_ONCE: usize = 3;
/// How long a question waits for its answer; nothing else waits meanwhile.
const WAIT: Duration = Duration::from_secs(2);
/// How long a partition may give nothing.
const STALL: Duration = Duration::from_secs(5);

/// A topic whose epoch is to begin.
#[derive(Debug)]
pub(super) struct ToBegin {
    pub ix: TopicIx,
    pub topic: TopicName,
    /// How many partitions it must have: as many as another broker was seen to know.
    pub partitions_min: Option<PartitionCount>,
}

/// Starts the threads that find out.
pub(super) fn start(
    kafka: &KafkaConfig,
    (stream, options): (&StreamName, &RelayOptions),
    inbox: Inbox<Answer>,
) -> Result<Workers<ToBegin>, RelayError> {
    let (kafka, stream, options) = (kafka.clone(), stream.clone(), options.clone());
    Workers::start("epochs", AT_ONCE, move |questions: &Questions<ToBegin>, stop: &Stop| {
        // Kept from one try to the next: a new client has to connect first.
        let mut admin = None;
        while let Some(begin) = questions.next() {
            if stop.is_set() {
                return;
            }
            let found = opened(&mut admin, &kafka)
                .and_then(|admin| find(admin, (&kafka, &stream), &options, &begin, stop));
            inbox.put(Answer::Epoch(begin.ix, found));
        }
    })
}

fn opened<'a>(admin: &'a mut Option<Admin>, kafka: &KafkaConfig) -> Result<&'a Admin, Said> {
    let opened = match admin.take() {
        Some(admin) => admin,
        None => Admin::open(kafka, WAIT).map_err(|error| Said::plain(error.to_string()))?,
    };
    Ok(admin.insert(opened))
}

fn find(
    admin: &Admin,
    (kafka, stream): (&KafkaConfig, &StreamName),
    options: &RelayOptions,
    begin: &ToBegin,
    stop: &Stop,
) -> Result<Beginning, Said> {
    let topic = &begin.topic;
    let facts = facts(admin, topic)?;
    if begin.partitions_min.is_some_and(|min| facts.partitions < min.get()) {
        return Err(Said::plain(format!("topic {topic} changes, and not every broker knows yet")));
    }
    let at: Vec<TopicPartition> = (0..facts.partitions)
        .map(|partition| TopicPartition { topic: topic.clone(), partition: Partition(partition) })
        .collect();
    let all = |which| -> Result<Vec<Offset>, Said> {
        let bounds = admin.bounds(&at, which).map_err(|error| of_error(&error))?;
        bounds.into_iter().map(|bound| bound.map_err(|error| of_error(&error))).collect()
    };
    let (lows, ends) = (all(Bound::Start)?, all(Bound::End)?);
    let bounds: Vec<(Offset, Offset)> = lows.into_iter().zip(ends.iter().copied()).collect();
    let search = EpochSearch { topic, stream, records_max: options.epoch_search_records, stall_max: STALL };
    let mut keep_alive = || if stop.is_set() { Err(Halt::Stopped) } else { Ok(()) };
    let log = search.run(kafka, &bounds, &mut keep_alive).map_err(|halt| match halt {
        Halt::Wait(said) => said,
        halt => Said::plain(format!("{halt:?}")),
    })?;
    Ok(Beginning { facts, ends, log })
}

fn facts(admin: &Admin, topic: &TopicName) -> Result<TopicFacts, Said> {
    let mut answers = admin.topics(&[topic]).map_err(|error| of_error(&error))?;
    match answers.pop() {
        Some(TopicAnswer::Present(facts)) => Ok(facts),
        Some(TopicAnswer::NotAuthorised) => Err(super::asking::not_authorised(topic)),
        Some(TopicAnswer::Unclear(error)) => Err(of_error(&error)),
        Some(TopicAnswer::Missing) | None => Err(Said::coded("X11", format!("Kafka has no topic {topic}"))),
    }
}
