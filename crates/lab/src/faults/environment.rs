//! What stands between the nodes of one cluster and the world: their links and their disks.

use super::disk::{Disk, may_mount};
use super::links::{End, Links};
use crate::cluster::{ClusterOptions, Link, Storage};
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// Links and disks of a cluster, as its options ask for them.
#[derive(Debug, Default)]
pub struct Environment {
    links: Option<Links>,
    disk_mib: Option<u32>,
    disks: Mutex<BTreeMap<usize, Arc<Disk>>>,
}

impl Environment {
    /// What `options` ask for; nothing is opened or mounted yet.
    ///
    /// # Errors
    /// When disks of their own are asked for and this process may not mount.
    pub fn new(options: &ClusterOptions) -> io::Result<Self> {
        let disk_mib = match options.storage {
            Storage::Directory => None,
            Storage::LoopMounts { mib } if may_mount() => Some(mib),
            Storage::LoopMounts { .. } => {
                return Err(io::Error::other("only root may mount disks for nodes"));
            }
        };
        Ok(Self { links: options.link_proxies.then(Links::default), disk_mib, disks: Mutex::default() })
    }

    /// The address that others are told for a link whose socket listens on `bound`.
    ///
    /// # Errors
    /// When no proxy can be opened.
    pub fn address(&self, link: Link, bound: SocketAddr) -> io::Result<SocketAddr> {
        let Some(links) = &self.links else { return Ok(bound) };
        match link {
            Link::Client { to, .. } => links.open(Some(End::Client), to, bound),
            Link::Broker { to } => links.open(None, to, bound),
            // A node's way to its own controller leads over no network.
            Link::Controller { from, to } if from == to => Ok(bound),
            Link::Controller { from, to } => links.open(Some(End::Node(from)), to, bound),
        }
    }

    /// An existing directory for the data of node `index`, whose own directory is `dir`.
    ///
    /// # Errors
    /// When it cannot be made, or its disk not be mounted.
    pub fn log_dir(&self, index: usize, dir: &Path) -> io::Result<PathBuf> {
        let log_dir = match self.disk_mib {
            None => dir.join("data"),
            Some(mib) => {
                let disk = Disk::create(dir, mib)?;
                let log_dir = disk.path().join("data");
                self.disks.lock().unwrap_or_else(PoisonError::into_inner).insert(index, Arc::new(disk));
                log_dir
            }
        };
        std::fs::create_dir_all(&log_dir)?;
        Ok(log_dir)
    }

    /// The links, when the cluster has proxies.
    #[must_use]
    pub fn links(&self) -> Option<&Links> {
        self.links.as_ref()
    }

    /// A node's disk, when it has one of its own.
    #[must_use]
    pub fn disk(&self, index: usize) -> Option<Arc<Disk>> {
        self.disks.lock().unwrap_or_else(PoisonError::into_inner).get(&index).cloned()
    }
}
