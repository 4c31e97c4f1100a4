//! Which topics there are: names, ids, partitions and settings, kept through any crash.
//!
//! One small file, replaced as a whole: written beside, synced, renamed. Killed
//! before the rename, the old catalog stands; after it, the new one. Directories
//! of partitions are made before the catalog names them and removed after it
//! no longer does, so a leftover directory is never taken for a topic.

mod file;
#[cfg(test)]
mod tests;

use crate::api::{Refusal, refusal};
use crate::config::TopicConfig;
use crate::descriptors;
use crate::disk::sync_dir;
use crate::log::{LogContext, LogError, OnDamage, PartitionLog};
use crate::trouble::Troubles;
use file::{CatalogFile, NotReplaced, Stored, TopicEntry};
use kafka_protocol::ResponseError;
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use uuid::Uuid;

/// Producer ids are taken from the file so many at a time.
const PRODUCER_ID_BLOCK: i64 = 1000;
/// A directory's name is 255 bytes at most; behind the topic's name stand a dot and 32 digits.
const NAME_IN_DIRECTORY_MAX: usize = 222;

/// A partition's log, or why it is not served.
#[derive(Debug, Clone)]
pub enum Partition {
    /// It is served.
    Open(Arc<PartitionLog>),
    /// It is damaged or cannot be opened; every request for it is answered with `KAFKA_STORAGE_ERROR`.
    Refused,
}

impl Partition {
    /// The log.
    ///
    /// # Errors
    /// `KAFKA_STORAGE_ERROR` when the partition is not served.
    pub fn log(&self) -> Result<&Arc<PartitionLog>, ResponseError> {
        match self {
            Self::Open(log) => Ok(log),
            Self::Refused => Err(ResponseError::KafkaStorageError),
        }
    }
}

/// A topic as requests see it; replaced as a whole when it changes.
#[derive(Debug, Clone)]
pub struct Topic {
    /// Its name.
    pub name: String,
    /// Its id; another one after it was deleted and created again.
    pub id: Uuid,
    /// Its settings as they were set.
    pub settings: BTreeMap<String, String>,
    /// Its partitions.
    pub partitions: Vec<Partition>,
}

impl Topic {
    /// The log of partition `index`.
    ///
    /// # Errors
    /// `UNKNOWN_TOPIC_OR_PARTITION`, or `KAFKA_STORAGE_ERROR` when it is damaged.
    pub fn log(&self, index: i32) -> Result<&Arc<PartitionLog>, ResponseError> {
        let at = usize::try_from(index).map_err(|_| ResponseError::UnknownTopicOrPartition)?;
        self.partitions.get(at).ok_or(ResponseError::UnknownTopicOrPartition)?.log()
    }
}

#[derive(Debug, Default)]
struct Topics {
    by_name: BTreeMap<String, Arc<Topic>>,
    by_id: HashMap<Uuid, Arc<Topic>>,
}

/// All topics of a broker.
#[derive(Debug)]
pub struct Catalog {
    dir: PathBuf,
    context: LogContext,
    cluster_id: String,
    /// Held from the look at a topic until what was made of it is published: two changes of one
    /// topic must not both begin from the same state. Taken before `file`.
    changing: Mutex<()>,
    /// Guards the file; held while it is replaced.
    file: Mutex<CatalogFile>,
    topics: RwLock<Topics>,
    producer_ids: Mutex<std::ops::Range<i64>>,
}

/// What a topic is created with.
#[derive(Debug, Clone)]
pub struct NewTopic {
    /// Its name, checked.
    pub name: String,
    /// How many partitions.
    pub partitions: i32,
    /// Its settings, checked.
    pub settings: BTreeMap<String, String>,
}

impl Catalog {
    /// Opens the catalog in `dir` and every log it names.
    ///
    /// # Errors
    /// What the file system says; a file that does not parse. A damaged partition is no error
    /// here: it is refused by itself and the others are served.
    pub fn open(dir: &Path, mut context: LogContext) -> io::Result<Self> {
        std::fs::create_dir_all(dir.join("topics"))?;
        let file = CatalogFile::open(dir, context.troubles.clone())?;
        let stored = file.stored().clone();
        context.leader_epoch = stored.leader_epoch;
        let catalog = Self {
            dir: dir.to_owned(),
            context,
            cluster_id: stored.cluster_id.clone(),
            producer_ids: Mutex::new(0..0),
            topics: RwLock::default(),
            changing: Mutex::new(()),
            file: Mutex::new(file),
        };
        let mut room = descriptors::room_for_partitions();
        for (name, entry) in &stored.topics {
            catalog.publish(catalog.load(name, entry, &mut room));
        }
        catalog.remove_leftovers(&stored);
        Ok(catalog)
    }

    /// What the disk refuses right now.
    pub fn troubles(&self) -> &Troubles {
        &self.context.troubles
    }

    /// The cluster's id, the same for ever.
    pub fn cluster_id(&self) -> &str {
        &self.cluster_id
    }

    /// The leader epoch of this start.
    pub fn leader_epoch(&self) -> i32 {
        self.context.leader_epoch
    }

    fn topic_dir(&self, name: &str, id: Uuid) -> PathBuf {
        // The id alone tells topics apart; the name is there for people.
        let shown = &name[..name.len().min(NAME_IN_DIRECTORY_MAX)];
        self.dir.join("topics").join(format!("{shown}.{}", id.simple()))
    }

    /// Opens the logs of a topic that was created before; `room` is for how many more there are descriptors.
    fn load(&self, name: &str, entry: &TopicEntry, room: &mut usize) -> Topic {
        let config = Arc::new(TopicConfig::from_set(&entry.settings));
        let topic_dir = self.topic_dir(name, entry.id);
        let open = |index: i32| {
            let dir = topic_dir.join(index.to_string());
            let opened = if *room == 0 {
                Err("too few file descriptors (ulimit -n) for all partitions".to_owned())
            } else {
                self.open_log(&dir, &config).map_err(|error| error.to_string())
            };
            match opened {
                Ok(log) => {
                    *room -= 1;
                    Partition::Open(Arc::new(log))
                }
                Err(why) => {
                    tracing::error!(topic = name, partition = index, why, "the partition is not served");
                    self.context.troubles.not_served(&dir, why);
                    Partition::Refused
                }
            }
        };
        let partitions = (0..entry.partitions).map(open).collect();
        Topic { name: name.to_owned(), id: entry.id, settings: entry.settings.clone(), partitions }
    }

    fn open_log(&self, dir: &Path, config: &Arc<TopicConfig>) -> Result<PartitionLog, LogError> {
        match PartitionLog::open(dir, Arc::clone(config), self.context.clone()) {
            Err(LogError::Missing { what }) if self.context.on_damage == OnDamage::Truncate => {
                tracing::error!(missing = %what.display(), "begins an empty partition in the place of a missing one, as told");
                PartitionLog::create(dir, Arc::clone(config), self.context.clone())
            }
            result => result,
        }
    }

    /// Makes the logs of new partitions, durable with their directories.
    fn make(
        &self,
        name: &str,
        entry: &TopicEntry,
        indexes: std::ops::Range<i32>,
    ) -> Result<Vec<Partition>, Refusal> {
        descriptors::check_room(indexes.len()).map_err(|why| refusal(ResponseError::PolicyViolation, why))?;
        let config = Arc::new(TopicConfig::from_set(&entry.settings));
        let dir = self.topic_dir(name, entry.id);
        let make = |index: i32| {
            let log =
                PartitionLog::create(&dir.join(index.to_string()), Arc::clone(&config), self.context.clone());
            log.map(|log| Partition::Open(Arc::new(log)))
        };
        let made = indexes.map(make).collect::<Result<Vec<_>, LogError>>();
        let made = made.and_then(|made| {
            sync_dir(&self.dir.join("topics"))?;
            Ok(made)
        });
        made.map_err(|error| {
            tracing::error!(topic = name, %error, "cannot make the topic's partitions");
            let why = format!("cannot make the topic's partitions: {error}");
            refusal(ResponseError::KafkaStorageError, why)
        })
    }

    fn publish(&self, topic: Topic) {
        let topic = Arc::new(topic);
        let mut topics = self.topics.write().expect("no holder of the topics' lock panics");
        topics.by_id.insert(topic.id, Arc::clone(&topic));
        topics.by_name.insert(topic.name.clone(), topic);
    }

    /// A directory that no topic owns is what a crash left of a creation or deletion.
    fn remove_leftovers(&self, stored: &Stored) {
        let Ok(entries) = std::fs::read_dir(self.dir.join("topics")) else { return };
        for entry in entries.flatten() {
            let owned =
                stored.topics.iter().any(|(name, topic)| self.topic_dir(name, topic.id) == entry.path());
            if !owned && let Err(error) = std::fs::remove_dir_all(entry.path()) {
                tracing::warn!(dir = %entry.path().display(), %error, "cannot remove a leftover directory");
            }
        }
    }

    /// The topic of this name.
    pub fn by_name(&self, name: &str) -> Option<Arc<Topic>> {
        self.topics.read().expect("no holder of the topics' lock panics").by_name.get(name).cloned()
    }

    /// The topic of this id.
    pub fn by_id(&self, id: Uuid) -> Option<Arc<Topic>> {
        self.topics.read().expect("no holder of the topics' lock panics").by_id.get(&id).cloned()
    }

    /// Every topic, by name.
    pub fn all(&self) -> Vec<Arc<Topic>> {
        self.topics.read().expect("no holder of the topics' lock panics").by_name.values().cloned().collect()
    }

    /// Every log that is served.
    pub fn logs(&self) -> Vec<Arc<PartitionLog>> {
        let all = self.all();
        all.iter().flat_map(|topic| &topic.partitions).filter_map(|p| p.log().ok().cloned()).collect()
    }

    fn change(&self) -> MutexGuard<'_, ()> {
        // It guards no data that could be left half changed.
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Replaces the file by what `change` makes of it; see [`CatalogFile::replace`].
    fn replace(
        &self,
        change: impl FnOnce(&mut Stored) -> Result<(), ResponseError>,
    ) -> Result<(), NotReplaced> {
        self.file.lock().expect("no holder of the catalog's lock panics").replace(change)
    }

    /// Creates a topic; it is durable when this returns.
    ///
    /// # Errors
    /// `TOPIC_ALREADY_EXISTS`; `POLICY_VIOLATION` when there are too few file descriptors for it;
    /// `KAFKA_STORAGE_ERROR` when the disk refuses.
    pub fn create(&self, new: NewTopic) -> Result<Arc<Topic>, Refusal> {
        let _changing = self.change();
        if self.by_name(&new.name).is_some() {
            return Err(ResponseError::TopicAlreadyExists.into());
        }
        let entry = TopicEntry { id: Uuid::now_v7(), partitions: new.partitions, settings: new.settings };
        let (id, settings) = (entry.id, entry.settings.clone());
        // What stays of a creation that fails is removed by the next start: it holds no records.
        let remove_made = || drop(std::fs::remove_dir_all(self.topic_dir(&new.name, id)));
        let partitions = self.make(&new.name, &entry, 0..new.partitions).inspect_err(|_| remove_made())?;
        let replaced = self.replace(|stored| {
            stored.topics.insert(new.name.clone(), entry);
            Ok(())
        });
        if let Err(not) = replaced {
            if not != NotReplaced::InDoubt {
                remove_made();
            }
            return Err(ResponseError::from(not).into());
        }
        self.publish(Topic { name: new.name.clone(), id, settings, partitions });
        self.by_name(&new.name).ok_or_else(|| ResponseError::UnknownServerError.into())
    }

    /// Raises a topic's number of partitions.
    ///
    /// # Errors
    /// `UNKNOWN_TOPIC_OR_PARTITION`, `INVALID_PARTITIONS` when it would not rise, `POLICY_VIOLATION`
    /// when there are too few file descriptors, `KAFKA_STORAGE_ERROR`.
    pub fn raise_partitions(&self, name: &str, count: i32) -> Result<(), Refusal> {
        let _changing = self.change();
        let topic = self.by_name(name).ok_or(ResponseError::UnknownTopicOrPartition)?;
        let current = i32::try_from(topic.partitions.len()).unwrap_or(i32::MAX);
        if count <= current {
            return Err(ResponseError::InvalidPartitions.into());
        }
        let entry = TopicEntry { id: topic.id, partitions: count, settings: topic.settings.clone() };
        let mut partitions = topic.partitions.clone();
        partitions.extend(self.make(name, &entry, current..count)?);
        self.replace(|stored| {
            let stored = stored.topics.get_mut(name).ok_or(ResponseError::UnknownTopicOrPartition)?;
            stored.partitions = count;
            Ok(())
        })
        .map_err(ResponseError::from)?;
        self.publish(Topic { partitions, ..(*topic).clone() });
        Ok(())
    }

    /// Replaces a topic's settings, which were checked.
    ///
    /// # Errors
    /// `UNKNOWN_TOPIC_OR_PARTITION`, `KAFKA_STORAGE_ERROR`.
    pub fn configure(&self, name: &str, settings: BTreeMap<String, String>) -> Result<(), ResponseError> {
        self.configure_from(name, |_| Ok(settings)).map_err(|refusal| refusal.error)
    }

    /// Replaces a topic's settings by what `change` makes of those that stand, with no other change
    /// in between.
    ///
    /// # Errors
    /// What `change` says; `UNKNOWN_TOPIC_OR_PARTITION`, `KAFKA_STORAGE_ERROR`.
    pub fn configure_from(
        &self,
        name: &str,
        change: impl FnOnce(&BTreeMap<String, String>) -> Result<BTreeMap<String, String>, Refusal>,
    ) -> Result<(), Refusal> {
        let _changing = self.change();
        let topic = self.by_name(name).ok_or(ResponseError::UnknownTopicOrPartition)?;
        let settings = change(&topic.settings)?;
        self.replace(|stored| {
            let entry = stored.topics.get_mut(name).ok_or(ResponseError::UnknownTopicOrPartition)?;
            entry.settings.clone_from(&settings);
            Ok(())
        })
        .map_err(ResponseError::from)?;
        let config = Arc::new(TopicConfig::from_set(&settings));
        topic
            .partitions
            .iter()
            .filter_map(|p| p.log().ok())
            .for_each(|log| log.reconfigure(Arc::clone(&config)));
        self.publish(Topic { settings, ..(*topic).clone() });
        Ok(())
    }

    /// Deletes the topic `name`, if it still is the one with this id, and its records.
    ///
    /// # Errors
    /// `UNKNOWN_TOPIC_OR_PARTITION`, `KAFKA_STORAGE_ERROR`.
    pub fn delete(&self, name: &str, id: Uuid) -> Result<(), ResponseError> {
        let _changing = self.change();
        self.by_name(name).filter(|topic| topic.id == id).ok_or(ResponseError::UnknownTopicOrPartition)?;
        let replaced = self.replace(|stored| {
            stored.topics.remove(name).map(drop).ok_or(ResponseError::UnknownTopicOrPartition)
        });
        if let Err(NotReplaced::Unchanged(error)) = replaced {
            return Err(error);
        }
        // In doubt, too: a restart may find it deleted, so nothing more may be acknowledged for it.
        {
            let mut topics = self.topics.write().expect("no holder of the topics' lock panics");
            topics.by_name.remove(name);
            topics.by_id.remove(&id);
        }
        replaced.map_err(ResponseError::from)?;
        let dir = self.topic_dir(name, id);
        self.context.troubles.clear_below(&dir);
        if let Err(error) = std::fs::remove_dir_all(&dir) {
            tracing::warn!(dir = %dir.display(), %error, "cannot remove a deleted topic; the next start does");
        }
        Ok(())
    }

    /// A producer id that was never given before.
    ///
    /// # Errors
    /// `KAFKA_STORAGE_ERROR` when a new block cannot be written down.
    pub fn next_producer_id(&self) -> Result<i64, ResponseError> {
        let mut block = self.producer_ids.lock().expect("no holder of the producer ids' lock panics");
        if let Some(id) = block.next() {
            return Ok(id);
        }
        let mut end = 0;
        self.replace(|stored| {
            stored.next_producer_id += PRODUCER_ID_BLOCK;
            end = stored.next_producer_id;
            Ok(())
        })?;
        *block = end - PRODUCER_ID_BLOCK..end;
        block.next().ok_or(ResponseError::UnknownServerError)
    }
}
