//! Which topics and partitions are to be read, and from where: each cluster's and topic's own state.

use super::error::AuditError;
use super::session::{Extent, Session};
use super::watched::{Unsaved, Watched};
use crate::kafka::admin::TopicAnswer;
use crate::kafka::partition_list::TopicPartition;
use crate::kafka::reader::ReaderError;
use crate::outbox::sqlite::{AuditLane, SeqRange, TOPIC_GONE};
use homing_core::{Offset, Seq, TopicName};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// Topics that are asked about at once.
const TOPICS_MAX: usize = 500;
/// How long partitions that did not answer are asked again.
const ASK_AGAIN_FOR: Duration = Duration::from_secs(1);
/// How long a topic's settings are believed.
const SETTINGS_FOR: Duration = Duration::from_secs(60);

/// A topic as Kafka showed it last.
#[derive(Debug, Clone, Default)]
pub(super) struct TopicLook {
    /// Its id; [`TOPIC_GONE`] when there is none; `None` when Kafka has not said yet.
    pub id: Option<[u8; 16]>,
    pub partitions: i32,
    /// Why nothing can be said of it now.
    pub trouble: Option<String>,
}

impl Session<'_> {
    /// Looks which topics and partitions are to be read, and reads them.
    pub fn look_for_topics(&mut self) -> Result<(), AuditError> {
        self.lanes = self.store.lanes()?;
        self.topics_at = Some(Instant::now());
        let topics: BTreeSet<TopicName> = self.lanes.iter().map(|lane| lane.topic.clone()).collect();
        let topics: Vec<TopicName> = topics.into_iter().collect();
        for chunk in topics.chunks(TOPICS_MAX) {
            let answers = self.admin.topics(&chunk.iter().collect::<Vec<_>>()).map_err(ReaderError::from)?;
            for (topic, answer) in chunk.iter().zip(answers) {
                self.looks.entry(topic.clone()).or_default().take(answer);
            }
        }
        self.ask_again();
        let mut fresh = Vec::new();
        let mut wanted: Vec<_> = self
            .lanes
            .iter()
            .map(|lane| TopicPartition { topic: lane.topic.clone(), partition: lane.partition })
            .collect();
        wanted.dedup();
        for at in wanted {
            let look = &self.looks[&at.topic];
            if let Some(trouble) = &look.trouble {
                self.unreachable.insert(at.clone(), trouble.clone());
            }
            let Some(id) = look.id else { continue };
            let id = if at.partition.0 < look.partitions { id } else { TOPIC_GONE };
            let known = self.place(&at.topic, at.partition);
            if known.is_none_or(|place| self.watched[place].topic_id != id) {
                fresh.push((at, id));
            }
        }
        if fresh.is_empty() { Ok(()) } else { self.take_up(&fresh) }
    }

    /// Asks the partitions again that could not be reached; not for long, since others wait.
    fn ask_again(&mut self) {
        let places: Vec<usize> =
            self.unreachable.keys().filter_map(|at| self.place(&at.topic, at.partition)).collect();
        let (there, gone): (Vec<_>, Vec<_>) =
            places.into_iter().partition(|place| self.watched[*place].is_present());
        for place in gone {
            self.unreachable.remove(&self.watched[place].at);
        }
        if !there.is_empty() {
            self.ends(&there, self.options.request_timeout.min(ASK_AGAIN_FOR));
        }
    }

    /// Begins with partitions, or goes on where this topic of this cluster was left.
    fn take_up(&mut self, fresh: &[(TopicPartition, [u8; 16])]) -> Result<(), AuditError> {
        let there: Vec<_> =
            fresh.iter().filter(|(_, id)| *id != TOPIC_GONE).map(|(at, _)| at.clone()).collect();
        let mut answers = self.reader.ends(&there, self.options.request_timeout).into_iter();
        for (at, id) in fresh {
            let ends =
                match (*id == TOPIC_GONE).then_some(Ok((Offset(0), Offset(0)))).or_else(|| answers.next()) {
                    Some(Ok(ends)) => ends,
                    Some(Err(error)) => {
                        self.unreachable.insert(at.clone(), error.to_string());
                        continue;
                    }
                    None => continue,
                };
            self.unreachable.remove(at);
            let watched = self.resume(at, *id, ends)?;
            match self.place(&at.topic, at.partition) {
                Some(place) => {
                    let before = std::mem::replace(&mut self.watched[place], watched);
                    self.note_other_topic(&before, *id);
                    if self.extent == Extent::Rest {
                        self.retired.push(before.saved());
                    }
                }
                None => self.watched.push(watched),
            }
        }
        self.index();
        self.assign()
    }

    fn note_other_topic(&self, before: &Watched, id: [u8; 16]) {
        let at = &before.at;
        match (before.is_present(), id == TOPIC_GONE) {
            (_, true) => tracing::warn!(%at, "there is no such topic in Kafka (A03)"),
            (true, false) => {
                tracing::warn!(%at, "the topic was created anew (A04); it is read from its beginning");
            }
            (false, false) => tracing::info!(%at, "the topic is there"),
        }
    }

    /// The partition as it was left, if that is in the log still; else from its beginning.
    fn resume(
        &self,
        at: &TopicPartition,
        id: [u8; 16],
        (low, high): (Offset, Offset),
    ) -> Result<Watched, AuditError> {
        let saved = self.store.partition(&self.cluster_id, (&at.topic, &id), at.partition)?;
        let saved = saved.and_then(|saved| Watched::restore(saved, self.options.limits));
        let mut watched = match saved {
            Some(watched) if self.extent == Extent::Rest => watched,
            saved => return self.begin(at, id, (low, high), saved.as_ref()),
        };
        if watched.next_offset > high {
            tracing::error!(%at, read_to = watched.next_offset.0, end = high.0,
                "the log ends below what was read: it was truncated (B10, B11, B04); it is read anew");
            return self.begin(at, id, (low, high), Some(&watched));
        }
        watched.forget_anchor(low);
        if watched.next_offset < low {
            tracing::warn!(%at, from = watched.next_offset.0, to = low.0,
                "records were deleted before they were audited (B17, A05)");
            watched.next_offset = low;
            watched.changed(Unsaved::Findings);
        }
        for lane in self.lanes_of(at) {
            // Which lanes are verified is written more often than how far each partition is.
            if lane.superseded || self.is_of(lane, &id) {
                watched.excuse(&self.stream, lane.epoch, (Seq::FIRST, Seq(lane.verified)));
            }
        }
        Ok(watched)
    }

    /// A partition from the beginning of its log. What was read back of it before, and can no
    /// longer be there, is not asked for again; all the rest is.
    pub fn begin(
        &self,
        at: &TopicPartition,
        id: [u8; 16],
        (low, high): (Offset, Offset),
        before: Option<&Watched>,
    ) -> Result<Watched, AuditError> {
        let mut watched = Watched::fresh(at.clone(), id, low, self.options.limits);
        watched.judged = self.extent == Extent::Rest || id == TOPIC_GONE;
        for lane in self.lanes_of(at) {
            let known = if self.is_of(lane, &id) { lane.verified } else { 0 };
            let known = before.map_or(0, |before| before.watermark(&self.stream, lane.epoch)).max(known);
            let earlier = if lane.superseded {
                known.max(lane.verified)
            } else {
                self.no_longer_there(lane, known.min(lane.settled), (low, high))?
            };
            if earlier > 0 {
                watched.excuse(&self.stream, lane.epoch, (Seq::FIRST, Seq(earlier)));
                watched.earlier.insert(lane.epoch.0, self.read_of(lane, earlier)?);
            }
        }
        Ok(watched)
    }

    /// Up to which seq, of those read back before, records cannot be expected in the log.
    fn no_longer_there(
        &self,
        lane: &AuditLane,
        known: u64,
        (low, high): (Offset, Offset),
    ) -> Result<u64, AuditError> {
        if known == 0 {
            return Ok(0);
        }
        // Compaction may have taken any of them; but none can be behind the log's end.
        let below = if self.is_compacted(&lane.topic).unwrap_or(false) { high } else { low };
        if below.0 == 0 {
            return Ok(0);
        }
        let (topic, epoch, partition) = (&lane.topic, lane.epoch, lane.partition);
        let range = SeqRange { topic, epoch, partition, from: Seq::FIRST, to: Seq(known) };
        let there = self.store.first_at_or_behind(&range, below)?;
        Ok(there.map_or(known, |first| known.min(first.0 - 1)))
    }

    /// How many of a lane's first seqs were read: those neither void nor accepted as lost.
    fn read_of(&self, lane: &AuditLane, through: u64) -> Result<u64, AuditError> {
        let (topic, epoch, partition) = (&lane.topic, lane.epoch, lane.partition);
        let range = SeqRange { topic, epoch, partition, from: Seq::FIRST, to: Seq(through) };
        let voided = self.store.voided(&range)?.len() as u64;
        let accepted: u64 = self
            .acceptances
            .iter()
            .filter(|of| (&of.lane.topic, of.lane.epoch, of.lane.partition) == (topic, epoch, partition))
            .map(|of| (of.to.0.min(through) + 1).saturating_sub(of.from.0))
            .sum();
        Ok(through.saturating_sub(voided).saturating_sub(accepted))
    }

    /// Whether compaction works on a topic; `None` when Kafka does not say.
    pub fn is_compacted(&self, topic: &TopicName) -> Option<bool> {
        let known = self.compaction.borrow().get(topic).copied();
        if let Some((compacted, at)) = known {
            let believed = if compacted.is_some() { SETTINGS_FOR } else { self.options.topics_every };
            if at.elapsed() < believed {
                return compacted;
            }
        }
        let compacted =
            self.admin.topic_settings(&[topic]).ok().and_then(|mut settings| settings.pop()?.compacted);
        self.compaction.borrow_mut().insert(topic.clone(), (compacted, Instant::now()));
        compacted
    }

    /// The lanes of one partition, oldest epoch first.
    pub fn lanes_of(&self, at: &TopicPartition) -> &[AuditLane] {
        let key = |lane: &AuditLane| (lane.topic.as_str().to_owned(), lane.partition);
        let wanted = (at.topic.as_str().to_owned(), at.partition);
        let from = self.lanes.partition_point(|lane| key(lane) < wanted);
        let to = self.lanes.partition_point(|lane| key(lane) <= wanted);
        &self.lanes[from..to]
    }
}

impl TopicLook {
    fn take(&mut self, answer: TopicAnswer) {
        self.trouble = None;
        match answer {
            TopicAnswer::Present(facts) => (self.id, self.partitions) = (Some(facts.id), facts.partitions),
            TopicAnswer::Missing => (self.id, self.partitions) = (Some(TOPIC_GONE), 0),
            TopicAnswer::NotAuthorised => {
                self.trouble = Some("Kafka does not let the auditor look at the topic".to_owned());
            }
            TopicAnswer::Unclear(error) => self.trouble = Some(error.to_string()),
        }
    }
}
