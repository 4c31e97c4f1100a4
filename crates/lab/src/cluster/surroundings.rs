//! What stands between a node and the world: links that can be cut, disks that can fail.

use super::Listener;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// One kind of connection to a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Link {
    /// Of clients, to one of the listeners for them.
    Client {
        /// The node's index.
        to: usize,
        /// Which listener.
        listener: Listener,
    },
    /// Of the other brokers (replication, and requests passed on), to the listener for brokers.
    Broker {
        /// The node's index.
        to: usize,
    },
    /// Of one node to the controller in another, or in itself.
    Controller {
        /// The index of the node that connects.
        from: usize,
        /// The index of the node connected to.
        to: usize,
    },
}

/// Where others find a node, and where it keeps its data.
///
/// Asked once per link and node, before any node starts; a start that is tried
/// again (a stranger took a port) asks again, with other ports.
pub trait Surroundings: fmt::Debug + Send + Sync {
    /// The address that others are told for a link whose socket listens on `bound`.
    ///
    /// # Errors
    /// When there can be none.
    fn address(&self, link: Link, bound: SocketAddr) -> io::Result<SocketAddr> {
        let _ = link;
        Ok(bound)
    }

    /// An existing directory for the data of node `index`, whose own directory is `dir`.
    ///
    /// # Errors
    /// When there can be none.
    fn log_dir(&self, index: usize, dir: &Path) -> io::Result<PathBuf> {
        let _ = index;
        let log_dir = dir.join("data");
        std::fs::create_dir_all(&log_dir)?;
        Ok(log_dir)
    }
}

/// Nothing in between.
#[derive(Debug)]
pub struct Nothing;

impl Surroundings for Nothing {}
