//! One Kafka process: started, killed, paused, stopped, started again with other settings.

use super::fetch::Kafka;
use super::options::Jvm;
use super::{ClusterError, properties};
use crate::process::{send_signal, spawn_bound};
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long a clean stop may take; a node without a quorum may need its own time limits.
const STOP_PATIENCE: Duration = Duration::from_secs(60);
/// How long the ports of a node that has just ended may be busy.
const PORTS_PATIENCE: Duration = Duration::from_secs(10);
/// How much of a log an error quotes.
const LOG_LINES_QUOTED: usize = 20;

const LOG4J2: &str = "status=ERROR
appender.out.type=Console
appender.out.name=out
appender.out.layout.type=PatternLayout
appender.out.layout.pattern=%d{ISO8601} %p %m (%c)%n
rootLogger.level=INFO
rootLogger.appenderRef.out.ref=out
";

/// For versions that bring log4j 1.
const LOG4J: &str = "log4j.rootLogger=INFO, out
log4j.appender.out=org.apache.log4j.ConsoleAppender
log4j.appender.out.layout=org.apache.log4j.PatternLayout
log4j.appender.out.layout.ConversionPattern=%d{ISO8601} %p %m (%c)%n
";

/// One node of a cluster, broker and controller in one.
#[derive(Debug)]
pub struct Node {
    index: usize,
    kafka: Kafka,
    jvm: Jvm,
    dir: PathBuf,
    /// Every address it binds.
    sockets: Vec<SocketAddr>,
    settings: Mutex<BTreeMap<String, String>>,
    /// The process, while there is one.
    process: Mutex<Option<Process>>,
}

#[derive(Debug)]
struct Process {
    child: Child,
    paused: bool,
    /// Where its part of the log begins.
    log_from: u64,
}

impl Node {
    pub(super) fn new(
        index: usize,
        kafka: Kafka,
        jvm: Jvm,
        dir: PathBuf,
        sockets: Vec<SocketAddr>,
        settings: BTreeMap<String, String>,
    ) -> Result<Self, ClusterError> {
        let node = Self {
            index,
            kafka,
            jvm,
            dir,
            sockets,
            settings: Mutex::new(settings),
            process: Mutex::new(None),
        };
        node.write("log4j2.properties", LOG4J2)?;
        node.write("log4j.properties", LOG4J)?;
        node.write_settings()?;
        Ok(node)
    }

    /// The node's index; its id in Kafka is one more.
    #[must_use]
    pub fn index(&self) -> usize {
        self.index
    }

    /// The node's directory: settings, log, and its data unless the storage is elsewhere.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where the node keeps its topics (its `log.dirs`).
    #[must_use]
    pub fn data_dir(&self) -> PathBuf {
        PathBuf::from(self.locked_settings().get("log.dirs").cloned().unwrap_or_default())
    }

    /// What the node writes about itself, of all its starts.
    #[must_use]
    pub fn log_path(&self) -> PathBuf {
        self.dir.join("node.log")
    }

    /// The process id, while it runs or is paused.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        let mut process = self.locked();
        if has_ended(&mut process) { None } else { process.as_ref().map(|process| process.child.id()) }
    }

    /// Whether the process is there and not paused.
    #[must_use]
    pub fn is_running(&self) -> bool {
        let mut process = self.locked();
        !has_ended(&mut process) && process.as_ref().is_some_and(|process| !process.paused)
    }

    /// Starts the process; [`Cluster::wait_ready`](super::Cluster::wait_ready) tells when it serves.
    ///
    /// # Errors
    /// When it runs already, its ports are taken, or there is no starting it.
    pub fn start(&self) -> Result<(), ClusterError> {
        let mut process = self.locked();
        if process.is_some() && !has_ended(&mut process) {
            return Err(ClusterError::Options(format!("node {} is running already", self.index)));
        }
        self.wait_for_ports()?;
        let path = self.log_path();
        let log =
            OpenOptions::new().create(true).append(true).open(&path).map_err(ClusterError::file(&path))?;
        let log_from = log.metadata().map_err(ClusterError::file(&path))?.len();
        let same = log.try_clone().map_err(ClusterError::file(&path))?;
        let mut command = self.kafka.java();
        command
            .args(self.jvm.arguments())
            .arg(format!("-Dlog4j2.configurationFile={}", self.dir.join("log4j2.properties").display()))
            .arg(format!("-Dlog4j.configuration=file:{}", self.dir.join("log4j.properties").display()))
            .arg("-cp")
            .arg(self.kafka.classpath())
            .arg("kafka.Kafka")
            .arg(self.dir.join("server.properties"))
            .current_dir(&self.dir)
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(same)
            // Ctrl-C is for the test, whose end is the node's.
            .process_group(0);
        let child = spawn_bound(command).map_err(ClusterError::io("starting java"))?;
        *process = Some(Process { child, paused: false, log_from });
        Ok(())
    }

    /// Kills the process with SIGKILL and waits until it is gone. Nothing happens when there is none.
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub fn kill(&self) -> Result<(), ClusterError> {
        let Some(mut process) = self.locked().take() else { return Ok(()) };
        let gone = process.child.kill().and_then(|()| process.child.wait());
        gone.map(drop).map_err(ClusterError::io(format!("killing node {}", self.index)))
    }

    /// Halts the process with SIGSTOP: its sockets stay open, nobody answers.
    ///
    /// # Errors
    /// When there is no process.
    pub fn pause(&self) -> Result<(), ClusterError> {
        self.set_paused(true)
    }

    /// Lets a paused process go on, with SIGCONT.
    ///
    /// # Errors
    /// When there is no process.
    pub fn resume(&self) -> Result<(), ClusterError> {
        self.set_paused(false)
    }

    fn set_paused(&self, paused: bool) -> Result<(), ClusterError> {
        let mut process = self.locked();
        let ended = has_ended(&mut process);
        let none = || ClusterError::Options(format!("node {} does not run", self.index));
        let process = process.as_mut().ok_or_else(none)?;
        if ended {
            return Err(self.ended(process.log_from));
        }
        send_signal(&process.child, if paused { libc::SIGSTOP } else { libc::SIGCONT });
        process.paused = paused;
        Ok(())
    }

    /// Stops the process cleanly with SIGTERM: leaders move away first. Nothing happens when there is none.
    ///
    /// A node needs the controllers' quorum for that: stop the last ones with
    /// [`Cluster::stop_all`](super::Cluster::stop_all).
    ///
    /// # Errors
    /// When it has not ended after a minute; it is killed then.
    pub fn stop(&self) -> Result<(), ClusterError> {
        self.terminate();
        self.wait_ended(STOP_PATIENCE)
    }

    /// Asks the process to end.
    pub(super) fn terminate(&self) {
        if let Some(process) = self.locked().as_ref() {
            send_signal(&process.child, libc::SIGTERM);
            send_signal(&process.child, libc::SIGCONT);
        }
    }

    /// Waits for the end of a process that was asked to; kills it, and tells, when it does not come.
    pub(super) fn wait_ended(&self, patience: Duration) -> Result<(), ClusterError> {
        let Some(mut process) = self.locked().take() else { return Ok(()) };
        let deadline = Instant::now() + patience;
        let waiting = format!("waiting for node {}", self.index);
        while process.child.try_wait().map_err(ClusterError::io(&waiting))?.is_none() {
            if Instant::now() > deadline {
                process
                    .child
                    .kill()
                    .and_then(|()| process.child.wait())
                    .map_err(ClusterError::io(&waiting))?;
                return Err(ClusterError::TimedOut {
                    what: format!("the clean stop of node {}", self.index),
                    patience,
                    seen: telling_part(&self.log_since(process.log_from)),
                });
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// Stops the process cleanly and starts it with these settings changed; they stay changed.
    ///
    /// Kafka 4.1 and later keep `min.insync.replicas` of the first start for the whole
    /// cluster, dynamically: change it per topic.
    ///
    /// # Errors
    /// As [`Self::stop`] and [`Self::start`].
    pub fn restart_with(&self, settings: &[(&str, &str)]) -> Result<(), ClusterError> {
        self.stop()?;
        self.set(settings)?;
        self.start()
    }

    /// Changes settings for the next start.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn set(&self, settings: &[(&str, &str)]) -> Result<(), ClusterError> {
        let pairs = settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        self.locked_settings().extend(pairs);
        self.write_settings()
    }

    /// An error when the process has ended by itself.
    pub(super) fn check(&self) -> Result<(), ClusterError> {
        let mut process = self.locked();
        match (has_ended(&mut process), process.as_ref()) {
            (true, Some(process)) => Err(self.ended(process.log_from)),
            _ => Ok(()),
        }
    }

    fn ended(&self, log_from: u64) -> ClusterError {
        let log = self.log_since(log_from);
        if log.contains("Address already in use") {
            return ClusterError::PortTaken { node: self.index };
        }
        ClusterError::Ended { node: self.index, log: telling_part(&log) }
    }

    fn log_since(&self, from: u64) -> String {
        let read = || {
            let mut log = File::open(self.log_path())?;
            log.seek(SeekFrom::Start(from))?;
            let mut bytes = Vec::new();
            log.read_to_end(&mut bytes)?;
            Ok::<_, std::io::Error>(String::from_utf8_lossy(&bytes).into_owned())
        };
        read().unwrap_or_else(|error| format!("(no log: {error})"))
    }

    /// A client's socket may hold one of our ports for a moment while we are away.
    fn wait_for_ports(&self) -> Result<(), ClusterError> {
        let deadline = Instant::now() + PORTS_PATIENCE;
        for socket in &self.sockets {
            while TcpListener::bind(socket).is_err() {
                if Instant::now() > deadline {
                    return Err(ClusterError::PortTaken { node: self.index });
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        Ok(())
    }

    fn write_settings(&self) -> Result<(), ClusterError> {
        let text = properties::render(&self.locked_settings());
        self.write("server.properties", &text)
    }

    fn write(&self, name: &str, text: &str) -> Result<(), ClusterError> {
        let path = self.dir.join(name);
        fs::write(&path, text).map_err(ClusterError::file(&path))
    }

    fn locked(&self) -> MutexGuard<'_, Option<Process>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn locked_settings(&self) -> MutexGuard<'_, BTreeMap<String, String>> {
        self.settings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Err(error) = self.kill() {
            tracing::warn!(node = self.index, %error, "cannot stop a Kafka node");
        }
    }
}

/// What follows the first error, or the end when there is none.
fn telling_part(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    let bad =
        |line: &&str| [" ERROR ", " FATAL ", "Exception", "Error:"].iter().any(|sign| line.contains(sign));
    let from = lines.iter().position(bad).unwrap_or(lines.len().saturating_sub(LOG_LINES_QUOTED));
    lines[from..].iter().take(LOG_LINES_QUOTED).copied().collect::<Vec<_>>().join("\n")
}

/// Whether there was a process and it has ended by itself.
fn has_ended(process: &mut Option<Process>) -> bool {
    process.as_mut().is_some_and(|process| matches!(process.child.try_wait(), Ok(Some(_))))
}
