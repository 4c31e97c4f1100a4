//! Which topics there are: names, ids, partitions and settings, kept through any crash.
//!
//! One small file, replaced as a whole: written beside, synced, renamed. Killed
//! before the rename, the old catalog stands; after it, the new one. Directories
//! of partitions are made before the catalog names them and removed after it
//! no longer does, so a leftover directory is never taken for a topic.

use crate::config::TopicConfig;
use crate::log::{LogContext, PartitionLog, sync_dir};
use kafka_protocol::ResponseError;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, RwLock};
use uuid::Uuid;

/// Producer ids are taken from the file so many at a time.
const PRODUCER_ID_BLOCK: i64 = 1000;

/// What the file holds of a topic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct TopicEntry {
    id: Uuid,
    partitions: i32,
    settings: BTreeMap<String, String>,
}

/// The file.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Stored {
    format: u32,
    cluster_id: String,
    leader_epoch: i32,
    next_producer_id: i64,
    topics: BTreeMap<String, TopicEntry>,
}

/// A partition's log, or why it is not served.
#[derive(Debug, Clone)]
pub enum Partition {
    /// It is served.
    Open(Arc<PartitionLog>),
    /// It is damaged; every request for it is answered with `KAFKA_STORAGE_ERROR`.
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
    /// Guards the file; held while it is replaced.
    stored: Mutex<Stored>,
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

/// Reads the catalog's file and raises the leader epoch for this start; `(cluster id, epoch)`.
///
/// # Errors
/// What the file system says; a file that does not parse.
fn read_and_raise(dir: &Path) -> io::Result<Stored> {
    let path = dir.join("catalog.json");
    let mut stored = match std::fs::read(&path) {
        Ok(bytes) => serde_json::from_slice::<Stored>(&bytes).map_err(|error| {
            io::Error::new(io::ErrorKind::InvalidData, format!("{}: {error}", path.display()))
        })?,
        Err(error) if error.kind() == io::ErrorKind::NotFound && has_topics(dir) => {
            // Without the catalog every topic would look like a leftover and be removed.
            let what = format!(
                "{} is missing, but topics/ beside it holds topics; restore it or move topics/ away",
                path.display()
            );
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Stored {
            format: 1,
            cluster_id: Uuid::now_v7().simple().to_string()[10..].to_owned(),
            leader_epoch: -1,
            next_producer_id: 0,
            topics: BTreeMap::new(),
        },
        Err(error) => return Err(error),
    };
    if stored.format != 1 {
        let what = format!("{}: format {} is not known to this version", path.display(), stored.format);
        return Err(io::Error::new(io::ErrorKind::InvalidData, what));
    }
    stored.leader_epoch += 1;
    write(dir, &stored)?;
    Ok(stored)
}

fn has_topics(dir: &Path) -> bool {
    std::fs::read_dir(dir.join("topics")).is_ok_and(|mut entries| entries.next().is_some())
}

fn write(dir: &Path, stored: &Stored) -> io::Result<()> {
    let fresh = dir.join("catalog.json.new");
    let mut file = File::create(&fresh)?;
    file.write_all(&serde_json::to_vec_pretty(stored)?)?;
    file.sync_all()?;
    std::fs::rename(&fresh, dir.join("catalog.json"))?;
    sync_dir(dir)
}

impl Catalog {
    /// Opens the catalog in `dir` and every log it names.
    ///
    /// # Errors
    /// What the file system says; a file that does not parse. A damaged partition is no error
    /// here: it is refused by itself and the others are served.
    pub fn open(dir: &Path, mut context: LogContext) -> io::Result<Self> {
        std::fs::create_dir_all(dir.join("topics"))?;
        let stored = read_and_raise(dir)?;
        context.leader_epoch = stored.leader_epoch;
        let catalog = Self {
            dir: dir.to_owned(),
            context,
            cluster_id: stored.cluster_id.clone(),
            producer_ids: Mutex::new(0..0),
            topics: RwLock::default(),
            stored: Mutex::new(stored.clone()),
        };
        for (name, entry) in &stored.topics {
            catalog.publish(catalog.load(name, entry, &[]));
        }
        catalog.remove_leftovers(&stored);
        Ok(catalog)
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
        self.dir.join("topics").join(format!("{name}.{}", id.simple()))
    }

    /// Opens a topic's logs; `open` are those of its partitions that are open already.
    fn load(&self, name: &str, entry: &TopicEntry, open: &[Partition]) -> Topic {
        let config = Arc::new(TopicConfig::from_set(&entry.settings));
        let dir = self.topic_dir(name, entry.id);
        let mut partitions = open.to_vec();
        for index in partitions.len()..usize::try_from(entry.partitions).unwrap_or(0) {
            let log =
                PartitionLog::open(&dir.join(index.to_string()), Arc::clone(&config), self.context.clone());
            partitions.push(match log {
                Ok(log) => Partition::Open(Arc::new(log)),
                Err(error) => {
                    tracing::error!(topic = name, partition = index, %error, "the partition is not served");
                    Partition::Refused
                }
            });
        }
        Topic { name: name.to_owned(), id: entry.id, settings: entry.settings.clone(), partitions }
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

    /// Replaces the file by what `change` makes of it; nothing is changed when that fails.
    fn replace(
        &self,
        change: impl FnOnce(&mut Stored) -> Result<(), ResponseError>,
    ) -> Result<Stored, ResponseError> {
        let mut stored = self.stored.lock().expect("no holder of the catalog's lock panics");
        let mut fresh = stored.clone();
        change(&mut fresh)?;
        write(&self.dir, &fresh).map_err(|error| {
            tracing::error!(dir = %self.dir.display(), %error, "cannot write the catalog; nothing is changed");
            ResponseError::KafkaStorageError
        })?;
        *stored = fresh.clone();
        Ok(fresh)
    }

    /// Creates a topic; it is durable when this returns.
    ///
    /// # Errors
    /// `TOPIC_ALREADY_EXISTS`; `KAFKA_STORAGE_ERROR` when the disk refuses.
    pub fn create(&self, new: NewTopic) -> Result<Arc<Topic>, ResponseError> {
        let entry = TopicEntry { id: Uuid::now_v7(), partitions: new.partitions, settings: new.settings };
        let topic = {
            let known = self.by_name(&new.name).is_some();
            if known {
                return Err(ResponseError::TopicAlreadyExists);
            }
            self.load(&new.name, &entry, &[])
        };
        if topic.partitions.iter().any(|partition| partition.log().is_err()) {
            return Err(ResponseError::KafkaStorageError);
        }
        self.replace(|stored| {
            if stored.topics.contains_key(&new.name) {
                return Err(ResponseError::TopicAlreadyExists);
            }
            stored.topics.insert(new.name.clone(), entry);
            Ok(())
        })?;
        self.publish(topic);
        self.by_name(&new.name).ok_or(ResponseError::UnknownServerError)
    }

    /// Raises a topic's number of partitions.
    ///
    /// # Errors
    /// `UNKNOWN_TOPIC_OR_PARTITION`, `INVALID_PARTITIONS` when it would not rise, `KAFKA_STORAGE_ERROR`.
    pub fn raise_partitions(&self, name: &str, count: i32) -> Result<(), ResponseError> {
        let topic = self.by_name(name).ok_or(ResponseError::UnknownTopicOrPartition)?;
        let current = i32::try_from(topic.partitions.len()).unwrap_or(i32::MAX);
        if count <= current {
            return Err(ResponseError::InvalidPartitions);
        }
        let entry = TopicEntry { id: topic.id, partitions: count, settings: topic.settings.clone() };
        let larger = self.load(name, &entry, &topic.partitions);
        self.replace(|stored| {
            stored.topics.insert(name.to_owned(), entry);
            Ok(())
        })?;
        self.publish(larger);
        Ok(())
    }

    /// Replaces a topic's settings, which were checked.
    ///
    /// # Errors
    /// `UNKNOWN_TOPIC_OR_PARTITION`, `KAFKA_STORAGE_ERROR`.
    pub fn configure(&self, name: &str, settings: BTreeMap<String, String>) -> Result<(), ResponseError> {
        let topic = self.by_name(name).ok_or(ResponseError::UnknownTopicOrPartition)?;
        self.replace(|stored| {
            let entry = stored.topics.get_mut(name).ok_or(ResponseError::UnknownTopicOrPartition)?;
            entry.settings.clone_from(&settings);
            Ok(())
        })?;
        let config = Arc::new(TopicConfig::from_set(&settings));
        topic
            .partitions
            .iter()
            .filter_map(|p| p.log().ok())
            .for_each(|log| log.reconfigure(Arc::clone(&config)));
        self.publish(Topic { settings, ..(*topic).clone() });
        Ok(())
    }

    /// Deletes a topic and its records.
    ///
    /// # Errors
    /// `UNKNOWN_TOPIC_OR_PARTITION`, `KAFKA_STORAGE_ERROR`.
    pub fn delete(&self, name: &str) -> Result<(), ResponseError> {
        let topic = self.by_name(name).ok_or(ResponseError::UnknownTopicOrPartition)?;
        self.replace(|stored| {
            stored.topics.remove(name).map(drop).ok_or(ResponseError::UnknownTopicOrPartition)
        })?;
        {
            let mut topics = self.topics.write().expect("no holder of the topics' lock panics");
            topics.by_name.remove(name);
            topics.by_id.remove(&topic.id);
        }
        let dir = self.topic_dir(name, topic.id);
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
        let stored = self.replace(|stored| {
            stored.next_producer_id += PRODUCER_ID_BLOCK;
            Ok(())
        })?;
        *block = stored.next_producer_id - PRODUCER_ID_BLOCK..stored.next_producer_id;
        block.next().ok_or(ResponseError::UnknownServerError)
    }
}
