//! The catalog's file: replaced as a whole, and what is believed when that fails halfway.
//!
//! | killed or failed | afterwards |
//! |---|---|
//! | before the rename | the old catalog stands |
//! | after it | the new one |
//! | the rename is done and cannot be made durable | the old one is put back; when that fails too, which one a power cut leaves is not known: no change is taken until a restart |

use crate::disk::{Directory, Replaced};
use crate::trouble::Troubles;
use kafka_protocol::ResponseError;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use uuid::Uuid;

const NAME: &str = "catalog.json";

/// What the file holds of a topic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicEntry {
    pub id: Uuid,
    pub partitions: i32,
    pub settings: BTreeMap<String, String>,
}

/// What the file holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stored {
    format: u32,
    pub cluster_id: String,
    pub leader_epoch: i32,
    pub next_producer_id: i64,
    pub topics: BTreeMap<String, TopicEntry>,
}

/// Why the file was not replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotReplaced {
    /// The old contents stand.
    Unchanged(ResponseError),
    /// Old or new: only a restart tells. Nothing may be built on either.
    InDoubt,
}

impl From<NotReplaced> for ResponseError {
    fn from(not: NotReplaced) -> Self {
        match not {
            NotReplaced::Unchanged(error) => error,
            NotReplaced::InDoubt => Self::KafkaStorageError,
        }
    }
}

/// The file and what stands in it.
#[derive(Debug)]
pub struct CatalogFile {
    dir: Directory,
    stored: Stored,
    in_doubt: bool,
    troubles: Troubles,
}

impl CatalogFile {
    /// Reads the file, or begins one, and raises the leader epoch for this start.
    ///
    /// # Errors
    /// What the file system says; a file that does not parse, or is missing beside topics.
    pub fn open(dir: &Path, troubles: Troubles) -> io::Result<Self> {
        let mut stored = read(dir)?;
        stored.leader_epoch += 1;
        let dir = Directory::open(dir)?;
        match dir.replace(NAME, &serde_json::to_vec_pretty(&stored)?) {
            Replaced::Durable => Ok(Self { dir, stored, in_doubt: false, troubles }),
            Replaced::Not(error) | Replaced::InDoubt(error) => Err(error),
        }
    }

    /// What stands in it.
    pub fn stored(&self) -> &Stored {
        &self.stored
    }

    /// Replaces the file by what `change` makes of it; it is durable when this returns.
    ///
    /// # Errors
    /// [`NotReplaced`] says whether the old contents are sure to stand.
    pub fn replace(
        &mut self,
        change: impl FnOnce(&mut Stored) -> Result<(), ResponseError>,
    ) -> Result<(), NotReplaced> {
        let refused = NotReplaced::Unchanged(ResponseError::KafkaStorageError);
        if self.in_doubt {
            return Err(refused);
        }
        let mut fresh = self.stored.clone();
        change(&mut fresh).map_err(NotReplaced::Unchanged)?;
        match self.write(&fresh) {
            Replaced::Durable => {
                self.stored = fresh;
                self.troubles.clear(&self.path());
                Ok(())
            }
            Replaced::Not(error) => {
                self.troubles.report(&self.path(), &error);
                tracing::error!(dir = %self.dir.path().display(), %error, "cannot write the catalog; nothing is changed");
                Err(refused)
            }
            Replaced::InDoubt(error) => {
                self.troubles.report(&self.path(), &error);
                tracing::error!(dir = %self.dir.path().display(), %error, "cannot make the new catalog durable; the old one is put back");
                if let Replaced::Not(error) | Replaced::InDoubt(error) = self.write(&self.stored) {
                    tracing::error!(dir = %self.dir.path().display(), %error, "cannot put the old catalog back; topics cannot be changed until a restart");
                    self.in_doubt = true;
                    return Err(NotReplaced::InDoubt);
                }
                Err(refused)
            }
        }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join(NAME)
    }

    fn write(&self, stored: &Stored) -> Replaced {
        match serde_json::to_vec_pretty(stored) {
            Ok(json) => self.dir.replace(NAME, &json),
            Err(error) => Replaced::Not(error.into()),
        }
    }
}

fn read(dir: &Path) -> io::Result<Stored> {
    let invalid = |what| io::Error::new(io::ErrorKind::InvalidData, what);
    let path = dir.join(NAME);
    let stored = match std::fs::read(&path) {
        Ok(bytes) => serde_json::from_slice::<Stored>(&bytes)
            .map_err(|error| invalid(format!("{}: {error}", path.display())))?,
        Err(error) if error.kind() == io::ErrorKind::NotFound && has_topics(dir) => {
            // Without the catalog every topic would look like a leftover and be removed.
            return Err(invalid(format!(
                "{} is missing, but topics/ beside it holds topics; restore it or move topics/ away",
                path.display()
            )));
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
        return Err(invalid(what));
    }
    Ok(stored)
}

fn has_topics(dir: &Path) -> bool {
    std::fs::read_dir(dir.join("topics")).is_ok_and(|mut entries| entries.next().is_some())
}
