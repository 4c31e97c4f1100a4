//! Why a cluster is not there.

use std::io;
use std::path::Path;
use std::time::Duration;

/// Why a cluster, or one of its nodes, does not do what a test asked of it.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// A program that the harness needs is not installed.
    #[error("{program} is not installed: it comes with `{install}`")]
    Missing {
        /// The program.
        program: String,
        /// The command that installs it.
        install: String,
    },
    /// A program of the harness's own does not succeed.
    #[error("{doing} failed: {output}")]
    Failed {
        /// What it was to do.
        doing: String,
        /// What it printed.
        output: String,
    },
    /// A file, directory or process cannot be made or read.
    #[error("{doing}: {error}")]
    Io {
        /// What was tried.
        doing: String,
        /// What is wrong.
        error: io::Error,
    },
    /// A node's process has ended by itself.
    #[error("node {node} has ended; from its log:\n{log}")]
    Ended {
        /// Its index.
        node: usize,
        /// What its log says of it.
        log: String,
    },
    /// A stranger took a port between the choice of it and the node's start.
    #[error("a port of node {node} is taken")]
    PortTaken {
        /// The node's index.
        node: usize,
    },
    /// Something did not happen in time.
    #[error("{what} did not happen within {} s: {seen}", patience.as_secs())]
    TimedOut {
        /// What was waited for.
        what: String,
        /// For how long.
        patience: Duration,
        /// What was seen last.
        seen: String,
    },
    /// Kafka refuses a request of the harness.
    #[error("{doing}: Kafka answers error {code} {message}")]
    Refused {
        /// What was tried.
        doing: String,
        /// Kafka's error code.
        code: i16,
        /// Kafka's words, if any.
        message: String,
    },
    /// A combination of options that cannot be.
    #[error("{0}")]
    Options(String),
}

impl ClusterError {
    pub(crate) fn io(doing: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let doing = doing.into();
        move |error| Self::Io { doing, error }
    }

    pub(crate) fn file(path: &Path) -> impl FnOnce(io::Error) -> Self {
        Self::io(path.display().to_string())
    }
}
