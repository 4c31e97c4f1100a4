//! One run of the auditor: reads on, and now and then checks what was read against the outbox.

use super::READ_WAIT;
use super::error::AuditError;
use super::options::AuditOptions;
use super::topics::TopicLook;
use super::watched::{Unsaved, Watched};
use crate::kafka::admin::Admin;
use crate::kafka::partition_list::TopicPartition;
use crate::kafka::producer::ProducerError;
use crate::kafka::reader::{ReadFrom, ReaderError, TopicReader};
use crate::kafka::record::Record;
use crate::outbox::sqlite::{AuditLane, AuditStore, SavedGap, SavedPartition};
use crate::outbox::store::Acceptance;
use crate::{KafkaConfig, SqliteOutbox};
use homing_core::{Offset, Partition, StreamName, TopicName};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How much of the log an auditor reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Extent {
    /// What came since it was saved last.
    Rest,
    /// All that is there, whatever was read before.
    Whole,
}

/// What an auditor holds while it is at work.
pub(super) struct Session<'a> {
    pub options: &'a AuditOptions,
    pub kafka: &'a KafkaConfig,
    pub stream: StreamName,
    pub outbox: &'a SqliteOutbox,
    pub store: AuditStore,
    pub extent: Extent,
    pub version: i64,
    /// The cluster that is read, and the one the outbox is pinned to.
    pub cluster_id: String,
    pub pinned: Option<String>,
    pub watched: Vec<Watched>,
    /// States of topics that are others now, to be saved.
    pub retired: Vec<SavedPartition>,
    pub gaps: Vec<SavedGap>,
    /// The lanes as the outbox had them at the last check, by topic, partition and epoch.
    pub lanes: Vec<AuditLane>,
    pub acceptances: Vec<Acceptance>,
    pub admin: Admin,
    pub reader: TopicReader,
    pub looks: BTreeMap<TopicName, TopicLook>,
    /// By topic: whether it is compacted, as far as Kafka said, and when it was asked.
    pub compaction: RefCell<HashMap<TopicName, (Option<bool>, Instant)>>,
    /// Partitions nothing can be said of now, and why; they hold no other partition back.
    pub unreachable: BTreeMap<TopicPartition, String>,
    /// When a gap was looked into last, for those that are to be looked into again.
    pub looked_into: HashMap<i64, Instant>,
    /// Where the next check begins when it cannot write the standing of all lanes.
    pub verified_from: usize,
    records: Vec<Record>,
    /// By topic and partition: where in `watched`.
    places: HashMap<String, BTreeMap<i32, usize>>,
    assigned: BTreeSet<TopicPartition>,
    checked_at: Option<Instant>,
    pub topics_at: Option<Instant>,
}

impl<'a> Session<'a> {
    /// Takes up what was saved last.
    pub fn open(
        outbox: &'a SqliteOutbox,
        kafka: &'a KafkaConfig,
        options: &'a AuditOptions,
        extent: Extent,
    ) -> Result<Self, AuditError> {
        let store = outbox.audit_store()?;
        let admin = Admin::open(kafka, options.request_timeout).map_err(|error| match error {
            ProducerError::Config(error) => ReaderError::Config(error),
            ProducerError::Native(error) => ReaderError::Kafka(error),
        })?;
        let cluster_id = admin.cluster().map_err(ReaderError::from)?.id;
        let mut session = Self {
            options,
            kafka,
            stream: outbox.stream().clone(),
            outbox,
            store,
            extent,
            version: 0,
            cluster_id,
            pinned: None,
            watched: Vec::new(),
            retired: Vec::new(),
            gaps: Vec::new(),
            lanes: Vec::new(),
            acceptances: Vec::new(),
            admin,
            reader: TopicReader::open_uncommitted(kafka)?,
            looks: BTreeMap::new(),
            compaction: RefCell::default(),
            unreachable: BTreeMap::new(),
            looked_into: HashMap::new(),
            verified_from: 0,
            records: Vec::new(),
            places: HashMap::new(),
            assigned: BTreeSet::new(),
            checked_at: None,
            topics_at: None,
        };
        session.load()?;
        if session.is_elsewhere() {
            let (found, pinned) = (&session.cluster_id, &session.pinned);
            tracing::error!(found, ?pinned, "this is not the cluster that the outbox was sent to (N02)");
        }
        Ok(session)
    }

    /// Begins again from what is saved. A whole audit keeps what it has read.
    pub fn load(&mut self) -> Result<(), AuditError> {
        let saved = self.store.load()?;
        (self.version, self.gaps) = (saved.version, saved.open);
        self.pinned = self.store.clusters()?.0;
        self.acceptances = self.outbox.acceptances()?;
        if self.extent == Extent::Rest {
            self.watched.clear();
            self.retired.clear();
            self.assigned.clear();
            self.topics_at = None;
            self.index();
        }
        Ok(())
    }

    /// Whether the outbox belongs to another cluster than this.
    pub fn is_elsewhere(&self) -> bool {
        self.pinned.as_ref().is_some_and(|pinned| *pinned != self.cluster_id)
    }

    /// Whether a topic that is there now is the one a lane was sent to.
    pub fn is_of(&self, lane: &AuditLane, topic_id: &[u8; 16]) -> bool {
        let unknown = [0; 16];
        let same = lane.topic_id == *topic_id || lane.topic_id == unknown || *topic_id == unknown;
        same && !self.is_elsewhere()
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
        let mut cut = BTreeSet::new();
        for record in self.records.drain(..) {
            let place = self.places.get(record.topic()).and_then(|of| of.get(&record.partition().0));
            if let Some(place) = place {
                let watched = &mut self.watched[*place];
                watched.observe(&self.stream, &record, now_ms);
                if watched.was_cut {
                    cut.insert(watched.at.clone());
                }
            }
        }
        self.options.steps.reached("audit.read");
        for at in cut {
            tracing::error!(%at, "another record stands where the last one was read: the log was cut and \
                written on (B10, B11, B04); it is read anew");
            self.begin_again(&at)?;
        }
        match outcome {
            Ok(_) => Ok(()),
            Err(ReaderError::OutOfRange { at, .. }) => self.find_place(&at),
            Err(error) => Err(error.into()),
        }
    }

    /// The offset to read next is not in the log: says why, and goes on where the log begins.
    fn find_place(&mut self, at: &TopicPartition) -> Result<(), AuditError> {
        let Some(place) = self.place(&at.topic, at.partition) else { return Ok(()) };
        let Some((low, high)) = self.ends_of(at) else { return self.assign() };
        let watched = &mut self.watched[place];
        let (next, from) = (watched.next_offset, watched.read_from());
        watched.forget_anchor(low);
        if next < low {
            tracing::warn!(%at, from = next.0, to = low.0,
                "records were deleted before they were audited (B17, A05)");
            watched.next_offset = low;
            watched.changed(Unsaved::Findings);
        } else if from >= low {
            let what = if next > high { "ends below what was read" } else { "is not the one that was read" };
            tracing::error!(%at, read_to = next.0, end = high.0,
                "the log {what}: it was truncated (B10, B11, B04); it is read anew");
            return self.begin_again(at);
        }
        self.assign()
    }

    /// Reads a partition from its beginning, after the log turned out to be another than was read.
    pub fn begin_again(&mut self, at: &TopicPartition) -> Result<(), AuditError> {
        let Some(place) = self.place(&at.topic, at.partition) else { return Ok(()) };
        let topic_id = self.watched[place].topic_id;
        if let Some(ends) = self.ends_of(at) {
            self.watched[place] = self.begin(at, topic_id, ends, Some(&self.watched[place]))?;
        } else {
            self.watched[place].was_cut = false;
        }
        self.assign()
    }

    /// Where one partition begins and ends; `None`, noted, when it cannot be reached.
    fn ends_of(&mut self, at: &TopicPartition) -> Option<(Offset, Offset)> {
        match self.reader.watermarks(at, self.options.request_timeout) {
            Ok(ends) => Some(ends),
            Err(error) => {
                self.unreachable.insert(at.clone(), error.to_string());
                None
            }
        }
    }

    /// Reads all partitions that are there, each from where it stands.
    pub fn assign(&mut self) -> Result<(), AuditError> {
        let present = self.watched.iter().filter(|watched| watched.is_present());
        let from: Vec<_> =
            present.map(|watched| (watched.at.clone(), ReadFrom::At(watched.read_from()))).collect();
        self.reader.assign(&from)?;
        self.assigned = from.into_iter().map(|(at, _)| at).collect();
        Ok(())
    }

    pub fn index(&mut self) {
        self.places.clear();
        for (place, watched) in self.watched.iter().enumerate() {
            let of_topic = self.places.entry(watched.at.topic.as_str().to_owned()).or_default();
            of_topic.insert(watched.at.partition.0, place);
        }
    }

    pub fn place(&self, topic: &TopicName, partition: Partition) -> Option<usize> {
        self.places.get(topic.as_str())?.get(&partition.0).copied()
    }

    /// Where each partition that is there ends now. Those that do not tell are noted.
    pub fn ends(&mut self, places: &[usize], wait: Duration) -> Vec<(usize, Offset)> {
        let at: Vec<_> = places.iter().map(|place| self.watched[*place].at.clone()).collect();
        let mut ends = Vec::new();
        for ((place, at), answer) in places.iter().zip(&at).zip(self.reader.ends(&at, wait)) {
            match answer {
                Ok((_, high)) => {
                    self.unreachable.remove(at);
                    ends.push((*place, high));
                }
                Err(error) => {
                    self.unreachable.insert(at.clone(), error.to_string());
                }
            }
        }
        ends
    }

    /// Whether everything below `end` was taken in.
    pub fn has_read(&self, place: usize, end: Offset) -> bool {
        let watched = &self.watched[place];
        let reached = || self.reader.has_reached(&watched.at, end).unwrap_or(false);
        !watched.is_present() || watched.next_offset >= end || reached()
    }
}

pub(super) fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
