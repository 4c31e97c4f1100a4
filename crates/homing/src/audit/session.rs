//! One run of the auditor: reads on, and now and then checks what was read against the outbox.

use super::error::AuditError;
use super::gaps;
use super::options::AuditOptions;
use super::watched::Watched;
use crate::kafka::partition_list::TopicPartition;
use crate::kafka::reader::{ReadFrom, ReaderError, TopicReader};
use crate::kafka::record::Record;
use crate::outbox::sqlite::{AuditLane, AuditStore, SavedGap, SeqRange};
use crate::{KafkaConfig, SqliteOutbox};
use homing_core::gap::StartPolicy;
use homing_core::{Offset, Seq, StreamName, TopicName};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How long a read waits for its first record.
const READ_WAIT: Duration = Duration::from_millis(100);

/// What an auditor holds while it is at work.
pub(super) struct Session<'a> {
    pub options: &'a AuditOptions,
    pub kafka: &'a KafkaConfig,
    pub stream: StreamName,
    pub store: AuditStore,
    pub version: i64,
    pub watched: Vec<Watched>,
    pub gaps: Vec<SavedGap>,
    /// The lanes as the outbox had them at the last check.
    pub lanes: Vec<AuditLane>,
    reader: TopicReader,
    records: Vec<Record>,
    /// By topic and partition: where in `watched`.
    places: HashMap<String, BTreeMap<i32, usize>>,
    assigned: BTreeSet<TopicPartition>,
    checked_at: Option<Instant>,
    topics_at: Option<Instant>,
}

impl<'a> Session<'a> {
    /// Takes up what was saved last.
    pub fn open(
        outbox: &SqliteOutbox,
        kafka: &'a KafkaConfig,
        options: &'a AuditOptions,
    ) -> Result<Self, AuditError> {
        let mut session = Self {
            options,
            kafka,
            stream: outbox.stream().clone(),
            store: outbox.audit_store()?,
            version: 0,
            watched: Vec::new(),
            gaps: Vec::new(),
            lanes: Vec::new(),
            reader: TopicReader::open_uncommitted(kafka)?,
            records: Vec::new(),
            places: HashMap::new(),
            assigned: BTreeSet::new(),
            checked_at: None,
            topics_at: None,
        };
        session.load()?;
        Ok(session)
    }

    /// Begins again from what is saved.
    pub fn load(&mut self) -> Result<(), AuditError> {
        let saved = self.store.load()?;
        (self.version, self.gaps) = (saved.version, saved.open);
        let limits = self.options.limits;
        self.watched =
            saved.partitions.into_iter().filter_map(|saved| Watched::restore(saved, limits)).collect();
        self.assigned.clear();
        self.topics_at = None;
        self.index();
        Ok(())
    }

    /// Reads what there is, waiting a moment for the first record, and checks when it is time.
    pub fn step(&mut self) -> Result<(), AuditError> {
        if self.topics_at.is_none_or(|at| at.elapsed() >= self.options.topics_every) {
            self.look_for_topics()?;
        }
        self.read(READ_WAIT.min(self.options.check_every))?;
        if self.checked_at.is_none_or(|at| at.elapsed() >= self.options.check_every) {
            self.check()?;
            self.checked_at = Some(Instant::now());
        }
        Ok(())
    }

    /// Takes in one batch of records.
    pub fn read(&mut self, wait: Duration) -> Result<(), AuditError> {
        if self.assigned.is_empty() {
            std::thread::sleep(wait);
            return Ok(());
        }
        let outcome = self.reader.read(&mut self.records, self.options.read_max, wait);
        let now_ms = now_ms();
        for record in self.records.drain(..) {
            let place = self.places.get(record.topic()).and_then(|of| of.get(&record.partition().0));
            if let Some(place) = place {
                self.watched[*place].observe(&self.stream, &record, now_ms);
            }
        }
        self.options.steps.reached("audit.read");
        match outcome {
            Ok(_) => Ok(()),
            Err(ReaderError::OutOfRange { at, .. }) => self.find_place(&at),
            Err(error) => Err(error.into()),
        }
    }

    /// The offset to read next is not in the log: says why, and goes on where the log begins.
    fn find_place(&mut self, at: &TopicPartition) -> Result<(), AuditError> {
        let (low, high) = self.reader.watermarks(at, self.options.request_timeout)?;
        let limits = self.options.limits;
        if let Some(watched) = self.watched.iter_mut().find(|watched| watched.at == *at) {
            let next = watched.next_offset;
            if next < low {
                tracing::warn!(%at, from = next.0, to = low.0,
                    "records were deleted before they were audited (B17, A05)");
                watched.next_offset = low;
                watched.dirty = true;
            } else if next > high {
                tracing::error!(%at, read_to = next.0, end = high.0,
                    "the log ends below what was read: it was truncated (B10, B11, B04); it is read anew");
                watched.begin_again(low, limits);
            }
        }
        self.assign()
    }

    /// Looks which topics and partitions are to be read, and reads them.
    pub fn look_for_topics(&mut self) -> Result<(), AuditError> {
        self.lanes = self.store.lanes()?;
        let topics: Vec<TopicName> =
            self.lanes.iter().map(|lane| lane.topic.clone()).collect::<BTreeSet<_>>().into_iter().collect();
        self.topics_at = Some(Instant::now());
        if topics.is_empty() {
            return Ok(());
        }
        let ids = self.reader.topic_ids(&topics, self.options.request_timeout)?;
        let mut changed = false;
        for (topic, id) in topics.iter().zip(ids) {
            changed |= self.look_at_topic(topic, id)?;
        }
        let wanted: BTreeSet<_> = self.present().map(|watched| watched.at.clone()).collect();
        if changed || wanted != self.assigned {
            self.assign()?;
        }
        Ok(())
    }

    fn look_at_topic(&mut self, topic: &TopicName, id: Option<[u8; 16]>) -> Result<bool, AuditError> {
        let wait = self.options.request_timeout;
        let limits = self.options.limits;
        let mut changed = false;
        let partitions: BTreeSet<_> =
            self.lanes.iter().filter(|lane| lane.topic == *topic).map(|lane| lane.partition).collect();
        for partition in partitions {
            let at = TopicPartition { topic: topic.clone(), partition };
            let known = self.watched.iter().position(|watched| watched.at == at);
            let Some(id) = id else {
                let lane_id =
                    self.lanes.iter().rev().find(|lane| lane.topic == *topic).map(|lane| lane.topic_id);
                let place = known.unwrap_or(self.watched.len());
                if known.is_none() {
                    self.watched.push(Watched::fresh(at, lane_id.unwrap_or_default(), Offset(0), limits));
                }
                changed |= std::mem::replace(&mut self.watched[place].present, false);
                continue;
            };
            match known {
                Some(place) if self.watched[place].topic_id == id => {
                    changed |= !std::mem::replace(&mut self.watched[place].present, true);
                }
                Some(place) => {
                    tracing::warn!(%at, "the topic was created anew (A04); it is read from its beginning");
                    let (low, _) = self.reader.watermarks(&at, wait)?;
                    let watched = &mut self.watched[place];
                    (watched.topic_id, watched.next_offset, watched.present) = (id, low, true);
                    (watched.dirty, changed) = (true, true);
                }
                None => {
                    let (low, _) = self.reader.watermarks(&at, wait)?;
                    self.watched.push(Watched::fresh(at, id, low, limits));
                    changed = true;
                }
            }
        }
        self.index();
        Ok(changed)
    }

    /// Reads all present partitions, each from where it stands.
    pub fn assign(&mut self) -> Result<(), AuditError> {
        let from: Vec<_> =
            self.present().map(|watched| (watched.at.clone(), ReadFrom::At(watched.next_offset))).collect();
        self.reader.assign(&from)?;
        self.assigned = from.into_iter().map(|(at, _)| at).collect();
        Ok(())
    }

    fn present(&self) -> impl Iterator<Item = &Watched> {
        self.watched.iter().filter(|watched| watched.present)
    }

    fn index(&mut self) {
        self.places.clear();
        for (place, watched) in self.watched.iter().enumerate() {
            let of_topic = self.places.entry(watched.at.topic.as_str().to_owned()).or_default();
            of_topic.insert(watched.at.partition.0, place);
        }
    }

    pub fn place(&self, topic: &TopicName, partition: homing_core::Partition) -> Option<usize> {
        self.places.get(topic.as_str())?.get(&partition.0).copied()
    }

    /// Where each partition ends now, for reading up to there.
    pub fn ends(&self) -> Result<Vec<(TopicPartition, Offset)>, AuditError> {
        self.present()
            .map(|watched| {
                let (_, high) = self.reader.watermarks(&watched.at, self.options.request_timeout)?;
                Ok((watched.at.clone(), high))
            })
            .collect()
    }

    /// Whether everything below `end` was taken in.
    pub fn has_read(&self, at: &TopicPartition, end: Offset) -> Result<bool, AuditError> {
        let Some(place) = self.place(&at.topic, at.partition) else { return Ok(false) };
        let watched = &self.watched[place];
        Ok(!watched.present || watched.next_offset >= end || self.reader.has_reached(at, end)?)
    }

    /// Tells the detectors what else the outbox knows: voided seqs, tails, and what is certain by now.
    pub fn consult_outbox(&mut self, now_ms: i64) -> Result<(), AuditError> {
        // Settled seqs first, then the ends: what is settled by now lies below the ends.
        self.lanes = self.store.lanes()?;
        let lanes = std::mem::take(&mut self.lanes);
        let asked = self.consult(&lanes, now_ms);
        self.lanes = lanes;
        asked
    }

    fn consult(&mut self, lanes: &[AuditLane], now_ms: i64) -> Result<(), AuditError> {
        for watched in &mut self.watched {
            note_never_given(watched, &self.stream, lanes);
        }
        let grace_ms = u64::try_from(self.options.grace.as_millis()).unwrap_or(u64::MAX);
        let mut ends: HashMap<TopicPartition, bool> = HashMap::new();
        for lane in lanes {
            let Some(place) = self.place(&lane.topic, lane.partition) else { continue };
            self.look_at_tail(lane, place, &mut ends, now_ms)?;
            let watched = &mut self.watched[place];
            let range = |from: Seq, to: Seq| SeqRange {
                topic: &lane.topic,
                epoch: lane.epoch,
                partition: lane.partition,
                from,
                to,
            };
            for gap in watched.open_gaps(&self.stream, lane.epoch) {
                let voided = self.store.voided(&range(gap.from, gap.to))?;
                watched.voided(&self.stream, lane.epoch, &voided);
            }
            // What the relay has numbered and not settled is not missing: it will be sent yet.
            let pending = Seq(lane.settled + 1)..lane.next_seq;
            let open = watched.open_gaps(&self.stream, lane.epoch);
            if open.iter().any(|gap| gap.to >= pending.start && gap.from < pending.end) {
                continue;
            }
            watched.dirty |= !open.is_empty();
            if let Some(detector) = watched.lane_mut(&self.stream, lane.epoch) {
                // The list of gaps takes it from the detector's state.
                detector.confirm(now_ms, grace_ms);
            }
        }
        Ok(())
    }

    /// Settled seqs that were not read although the partition was, to its end, are expected.
    fn look_at_tail(
        &mut self,
        lane: &AuditLane,
        place: usize,
        ends: &mut HashMap<TopicPartition, bool>,
        now_ms: i64,
    ) -> Result<(), AuditError> {
        let watched = &self.watched[place];
        let known = watched.lane(&self.stream, lane.epoch);
        let highest = known.and_then(|lane| lane.highest()).map_or(0, |high| high.0);
        let unknowable = known.is_none_or(|lane| lane.verified_from().is_none())
            && watched.detector.start() == StartPolicy::MidLane;
        if lane.settled <= highest || unknowable {
            return Ok(());
        }
        let at = watched.at.clone();
        let of_this_topic = watched.present && watched.topic_id == lane.topic_id;
        let at_end = match ends.get(&at) {
            _ if !of_this_topic => true,
            Some(at_end) => *at_end,
            None => {
                let at_end = match self.reader.watermarks(&at, self.options.request_timeout) {
                    Ok((_, high)) => self.has_read(&at, high)?,
                    Err(error) => {
                        tracing::debug!(%at, %error, "cannot ask for the end");
                        false
                    }
                };
                ends.insert(at, at_end);
                at_end
            }
        };
        let watched = &mut self.watched[place];
        if at_end
            && let Some(stream) = watched.detector.expect(&self.stream)
            && let Some(detector) = stream.expect(lane.epoch, watched.next_offset)
        {
            detector.expected_through(Seq(lane.settled), now_ms);
            watched.dirty = true;
        }
        Ok(())
    }

    /// Brings the list of gaps into step with the detectors; returns the places that changed.
    pub fn bring_up_gaps(&mut self, now_ms: i64) -> BTreeSet<usize> {
        let mut changed = BTreeSet::new();
        for watched in &mut self.watched {
            changed.extend(gaps::bring_up(&mut self.gaps, watched, &self.stream, now_ms));
        }
        changed
    }
}

/// Counts the numbers that were read and that the outbox, asked afterwards, has not given.
fn note_never_given(watched: &mut Watched, stream: &StreamName, lanes: &[AuditLane]) {
    let mut strange = 0;
    for epoch in watched.epochs(stream) {
        let lane = lanes.iter().find(|lane| {
            (&lane.topic, lane.partition, lane.epoch) == (&watched.at.topic, watched.at.partition, epoch)
        });
        let given = lane.map_or(0, |lane| lane.next_seq.0 - 1);
        let highest = watched.lane(stream, epoch).and_then(|lane| lane.highest()).map_or(0, |high| high.0);
        strange += highest.saturating_sub(given);
    }
    if strange > watched.counts.never_given {
        if watched.counts.never_given == 0 {
            tracing::error!(at = %watched.at, strange,
                "records bear numbers this outbox never gave (X12: database restored or copied)");
        }
        watched.counts.never_given = strange;
        watched.dirty = true;
    }
}

pub(super) fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
