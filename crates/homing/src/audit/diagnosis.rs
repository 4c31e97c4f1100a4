//! Finds out what happened to missing seqs: asks the outbox, then the log.
//!
//! | the outbox says | the log says | verdict |
//! |---|---|---|
//! | no such number was ever given | | [`NeverGiven`](Cause::NeverGiven) |
//! | given, and its batch is pruned | | [`Pruned`](Cause::Pruned) |
//! | acknowledged | it is the log of another cluster | [`OtherCluster`](Cause::OtherCluster) |
//! | acknowledged at o | the topic is another, or gone | [`TopicGone`](Cause::TopicGone) |
//! | acknowledged at o | begins above o | [`Expired`](Cause::Expired) |
//! | acknowledged at o | ends at or below o | [`Truncated`](Cause::Truncated) |
//! | acknowledged at o | holds another record at o | [`Overwritten`](Cause::Overwritten) |
//! | acknowledged at o | holds nothing at o, but more behind it | [`Compacted`](Cause::Compacted) |
//! | acknowledged at o | holds it, changed | [`Corrupted`](Cause::Corrupted) |
//! | acknowledged at o | holds it | [`Unread`](Cause::Unread) |

use super::verdict::{Cause, Verdict, merged};
use super::watched::Watched;
use crate::KafkaConfig;
use crate::kafka::partition_list::TopicPartition;
use crate::kafka::reader::{ReadFrom, ReaderError, TopicReader};
use crate::kafka::record::Record;
use crate::outbox::OutboxError;
use crate::outbox::sqlite::{AckedPart, AuditLane, AuditStore, SeqRange};
use homing_core::{Epoch, Offset, Seq, StreamName};
use std::time::{Duration, Instant};

/// Batches that are looked up for one gap; the last one's answer stands for what is beyond.
const BATCHES_MAX: usize = 1000;

/// What is seen where a topic should be.
pub(super) const NO_TOPIC: &str = "there is no such topic";

/// What a diagnosis may ask.
pub(super) struct Doctor<'a> {
    pub store: &'a AuditStore,
    pub kafka: &'a KafkaConfig,
    pub stream: &'a StreamName,
    pub wait: Duration,
    pub probes_max: usize,
    /// The cluster that is read, and the one the outbox is pinned to when that is another.
    pub elsewhere: Option<(&'a str, &'a str)>,
}

/// The seqs in question.
pub(super) struct Case<'a> {
    pub watched: &'a Watched,
    pub epoch: Epoch,
    /// The lane as the outbox has it; `None` when it has no such epoch.
    pub lane: Option<&'a AuditLane>,
    pub missing: &'a [(Seq, Seq)],
    /// Whether the topic is compacted; `None` when Kafka does not say.
    pub compacted: Option<bool>,
}

/// The log of a partition, as far as it was asked about.
struct Log<'a> {
    at: &'a TopicPartition,
    low: Offset,
    high: Offset,
    reader: Option<TopicReader>,
    probes_left: usize,
    last: Option<(Cause, String)>,
}

impl Doctor<'_> {
    /// Says of all missing seqs why they are; empty when Kafka does not answer.
    pub fn examine(&self, case: &Case<'_>) -> Result<Vec<Verdict>, OutboxError> {
        let at = &case.watched.at;
        let mut log = Log {
            at,
            low: Offset(0),
            high: Offset(0),
            reader: None,
            probes_left: self.probes_max,
            last: None,
        };
        let other_topic = case.lane.is_some_and(|lane| lane.topic_id != case.watched.topic_id);
        let gone = !case.watched.is_present() || other_topic || self.elsewhere.is_some();
        if !gone && let Err(error) = self.ask_ends(&mut log) {
            tracing::warn!(%at, %error, "a gap cannot be looked into yet");
            return Ok(Vec::new());
        }
        let mut verdicts = Vec::new();
        for (from, to) in case.missing {
            self.examine_range(case, gone, &mut log, (*from, *to), &mut verdicts)?;
        }
        Ok(merged(verdicts))
    }

    fn ask_ends(&self, log: &mut Log<'_>) -> Result<(), ReaderError> {
        let reader = TopicReader::open_uncommitted(self.kafka)?;
        (log.low, log.high) = reader.watermarks(log.at, self.wait)?;
        log.reader = Some(reader);
        Ok(())
    }

    fn examine_range(
        &self,
        case: &Case<'_>,
        gone: bool,
        log: &mut Log<'_>,
        (from, to): (Seq, Seq),
        verdicts: &mut Vec<Verdict>,
    ) -> Result<(), OutboxError> {
        let given = case.lane.map_or(0, |lane| lane.next_seq.0 - 1);
        let mut say = |from: Seq, to: Seq, cause, evidence| {
            if from <= to {
                verdicts.push(case.verdict((from, to), cause, evidence));
            }
        };
        let known_to = to.min(Seq(given));
        let range = SeqRange {
            topic: &case.watched.at.topic,
            epoch: case.epoch,
            partition: case.watched.at.partition,
            from,
            to: known_to,
        };
        let mut next = from;
        let acked = if from <= known_to { self.store.acked(&range, BATCHES_MAX)? } else { Vec::new() };
        let full = acked.len() == BATCHES_MAX;
        for part in acked {
            say(
                next,
                Seq(part.from.0 - 1),
                Cause::Pruned,
                "no batch of the outbox holds them any more".into(),
            );
            let (cause, evidence) = self.examine_part(case, gone, log, &part);
            say(part.from, part.to, cause, evidence);
            next = part.to.next();
        }
        if full && let Some((cause, evidence)) = &log.last {
            say(next, known_to, *cause, format!("as those before: {evidence}"));
            next = known_to.next();
        }
        say(next, known_to, Cause::Pruned, "no batch of the outbox holds them any more".into());
        let evidence = format!("the outbox has given numbers up to {given} only");
        say(from.max(known_to.next()).max(Seq(given + 1)), to, Cause::NeverGiven, evidence);
        Ok(())
    }

    fn examine_part(
        &self,
        case: &Case<'_>,
        gone: bool,
        log: &mut Log<'_>,
        part: &AckedPart,
    ) -> (Cause, String) {
        let Some((seq, offset)) = part.first else {
            return (Cause::Undetermined, "all of them are void".to_owned());
        };
        let acked = format!("seq {} was acknowledged at offset {}", seq.0, offset.0);
        let (low, high) = (log.low.0, log.high.0);
        let (cause, seen) = if let Some((here, pinned)) = self.elsewhere {
            (Cause::OtherCluster, format!("by cluster {pinned}; this is cluster {here}"))
        } else if gone {
            let there = case.watched.is_present();
            let seen = if there { "the topic was created anew" } else { NO_TOPIC };
            (Cause::TopicGone, seen.to_owned())
        } else if offset.0 < low {
            (Cause::Expired, format!("the log begins at offset {low}"))
        } else if offset.0 >= high {
            (Cause::Truncated, format!("the log ends at offset {high}"))
        } else if log.probes_left == 0 && log.last.is_some() {
            let (cause, evidence) = log.last.clone().expect("there is a last answer");
            (cause, format!("not looked at; of those before: {evidence}"))
        } else {
            log.probes_left = log.probes_left.saturating_sub(1);
            self.probe(case, log, seq, offset)
        };
        let answer = (cause, format!("{acked}; {seen}"));
        log.last = Some(answer.clone());
        answer
    }

    /// Reads what stands at `offset`.
    fn probe(&self, case: &Case<'_>, log: &mut Log<'_>, seq: Seq, offset: Offset) -> (Cause, String) {
        let record = match read_one(log, offset, self.wait) {
            Ok(Some(record)) => record,
            Ok(None) => return (Cause::Undetermined, "its place could not be read in time".to_owned()),
            Err(error) => return (Cause::Undetermined, format!("its place cannot be read: {error}")),
        };
        if record.offset() != offset {
            let next = record.offset().0;
            return (Cause::Compacted, format!("its place is empty, the next record is at offset {next}"));
        }
        let Some(stamp) = record.stamp_ref() else {
            return (Cause::Overwritten, "a record without a stamp stands there".to_owned());
        };
        let same = stamp.stream == self.stream.as_str()
            && (stamp.epoch, stamp.partition, stamp.seq) == (case.epoch, log.at.partition, seq);
        match (same, record.matches_stamp()) {
            (false, _) => {
                let (stream, epoch, other) = (stamp.stream, stamp.epoch.0, stamp.seq.0);
                (Cause::Overwritten, format!("seq {other} of stream {stream}, epoch {epoch}, stands there"))
            }
            (true, Some(true)) => (Cause::Unread, "it stands there, sound".to_owned()),
            (true, _) => (Cause::Corrupted, "it stands there, but key or payload were changed".to_owned()),
        }
    }
}

impl Case<'_> {
    /// Without knowing whether the topic is compacted nothing may be sent again, so nothing is said
    /// for certain.
    fn verdict(&self, (from, to): (Seq, Seq), cause: Cause, evidence: String) -> Verdict {
        let (cause, evidence) = match self.compacted {
            None if cause.is_repairable() => {
                let doubt = "Kafka does not say whether the topic is compacted (DescribeConfigs)";
                (Cause::Undetermined, format!("{evidence}; but {doubt}, so nothing is sent again"))
            }
            _ => (cause, evidence),
        };
        Verdict { from, to, cause, compacted: self.compacted == Some(true), evidence }
    }
}

/// The first record at or behind an offset that is below the log's end.
fn read_one(log: &mut Log<'_>, offset: Offset, wait: Duration) -> Result<Option<Record>, ReaderError> {
    let Some(reader) = &mut log.reader else { return Ok(None) };
    reader.assign(&[(log.at.clone(), ReadFrom::At(offset))])?;
    let deadline = Instant::now() + wait;
    let mut records = Vec::new();
    while records.is_empty() && Instant::now() < deadline {
        reader.read(&mut records, 1, Duration::from_millis(50))?;
    }
    Ok(records.into_iter().next())
}
