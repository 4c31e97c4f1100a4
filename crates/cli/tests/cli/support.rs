//! A directory with an outbox, commands run in it, and processes that never outlive a test.
#![allow(dead_code)] // part of two test binaries; each uses some of it

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use serde_json::Value;
use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

pub const PATIENCE: Duration = Duration::from_secs(60);

/// How a command ended.
#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Ended {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    pub fn json_lines(&self) -> Vec<Value> {
        self.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Checks the exit code and what stderr says.
    pub fn expect(self, code: i32, said: &[&str]) -> Self {
        assert_eq!(self.code, Some(code), "{self:?}");
        for part in said {
            assert!(self.err.contains(part), "{part:?} is not in: {}", self.err);
        }
        self
    }
}

/// A directory to work in.
pub struct Home {
    dir: tempfile::TempDir,
    /// A topic that nobody else uses.
    pub orders: String,
    /// A consumer group that nobody else is in.
    pub group: String,
}

impl Home {
    pub fn empty() -> Self {
        let unique = uuid::Uuid::now_v7().simple().to_string();
        let [orders, group] = ["orders", "g"].map(|what| format!("{what}-{}", &unique[20..]));
        Self { dir: tempfile::tempdir().unwrap(), orders, group }
    }

    /// With a homing.toml and an outbox, as `homing init` leaves them.
    pub fn embedded() -> Self {
        let home = Self::empty();
        home.run(["init"]).expect(0, &[]);
        home
    }

    /// The same on the cluster that `HOMING_TEST_BOOTSTRAP` names, if it does.
    pub fn new() -> Self {
        let home = Self::embedded();
        if let Ok(bootstrap) = std::env::var("HOMING_TEST_BOOTSTRAP") {
            let path = home.path().join("homing.toml");
            let written = std::fs::read_to_string(&path).unwrap();
            let given = written.replacen("bootstrap = \"embedded\"", &kafka_section(&bootstrap), 1);
            assert_ne!(given, written);
            std::fs::write(path, given).unwrap();
        }
        home
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    pub fn command<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_homing"));
        for (name, _) in std::env::vars_os() {
            if name.to_str().is_some_and(|name| name.starts_with("HOMING_")) {
                command.env_remove(name);
            }
        }
        command.args(args).current_dir(self.path()).env("NO_COLOR", "1").stdin(Stdio::null());
        command
    }

    pub fn run<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Ended {
        finish(self.command(args))
    }

    pub fn run_with<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>, input: &[u8]) -> Ended {
        let mut child = self
            .command(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let input = input.to_vec();
        // A command that ends early leaves its input unread.
        let writing = std::thread::spawn(move || stdin.write_all(&input).is_ok());
        let ended = ended(child);
        writing.join().unwrap();
        ended
    }

    /// Starts a process that is killed when dropped; its stderr goes to `NAME.err`.
    pub fn start<A: AsRef<OsStr>>(&self, name: &str, args: impl IntoIterator<Item = A>) -> Running {
        let log = self.path().join(format!("{name}.err"));
        let stderr = std::fs::File::create(&log).unwrap();
        let mut command = self.command(args);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(stderr).spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        Running { child, stdout, log }
    }

    /// The outbox as any SQLite program sees it.
    pub fn sql(&self) -> rusqlite::Connection {
        let connection = rusqlite::Connection::open(self.path().join("orders.db")).unwrap();
        connection.busy_timeout(PATIENCE).unwrap();
        connection
    }

    pub fn rows(&self) -> i64 {
        self.sql().query_row("SELECT COUNT(*) FROM homing_outbox", [], |row| row.get(0)).unwrap()
    }

    /// All records of a topic for a new group.
    pub fn consume_all(&self, topic: &str, group: &str) -> Vec<Value> {
        let args = ["consume", "--topic", topic, "--group", group, "--until-idle", "1"];
        self.run(args).expect(0, &[]).json_lines()
    }
}

/// The keys of `[kafka]` for a cluster, whose topics are replicated as far as its size allows.
fn kafka_section(bootstrap: &str) -> String {
    static BROKERS: OnceLock<usize> = OnceLock::new();
    let brokers = *BROKERS.get_or_init(|| {
        let asking: BaseConsumer = ClientConfig::new().set("bootstrap.servers", bootstrap).create().unwrap();
        asking.fetch_metadata(None, PATIENCE).expect("HOMING_TEST_BOOTSTRAP answers").brokers().len()
    });
    let (replicas, insync) = if brokers < 3 { (1, 1) } else { (3, 2) };
    format!(
        "bootstrap = \"{bootstrap}\"\ncreate_topics = true\n\
         replication_factor = {replicas}\nmin_insync_replicas = {insync}"
    )
}

fn finish(mut command: Command) -> Ended {
    ended(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
}

fn ended(child: Child) -> Ended {
    let pid = child.id();
    let (done, waiting) = std::sync::mpsc::channel();
    let watch = std::thread::spawn(move || {
        if waiting.recv_timeout(PATIENCE).is_err() {
            signal(pid, "KILL");
            return true;
        }
        false
    });
    let output = child.wait_with_output().unwrap();
    // The watch is over already when time was up.
    let _ = done.send(());
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    let ended = Ended { code: output.status.code(), out: text(&output.stdout), err: text(&output.stderr) };
    assert!(!watch.join().unwrap(), "took longer than {PATIENCE:?}: {}", ended.err);
    ended
}

/// A process in the background.
pub struct Running {
    child: Child,
    stdout: BufReader<ChildStdout>,
    log: PathBuf,
}

impl Running {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn line(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        assert!(!line.is_empty(), "ended: {}", self.err());
        line.trim_end().to_owned()
    }

    pub fn write(&mut self, input: &[u8]) {
        self.child.stdin.as_mut().unwrap().write_all(input).unwrap();
    }

    pub fn err(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// No goodbye.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Sends a signal and waits for the end.
    pub fn stop(mut self, name: &str) -> Ended {
        signal(self.child.id(), name);
        self.wait_for_end()
    }

    /// Waits for the end.
    pub fn wait_for_end(&mut self) -> Ended {
        let log = self.log.clone();
        wait_until("the process ends", || self.child.try_wait().unwrap().is_some());
        let mut out = String::new();
        std::io::Read::read_to_string(&mut self.stdout, &mut out).unwrap();
        Ended { code: self.child.wait().unwrap().code(), out, err: std::fs::read_to_string(log).unwrap() }
    }

    /// Closes the reading end of its standard output and waits for the end.
    pub fn hang_up(mut self) -> Ended {
        let mut other = Command::new("true").stdout(Stdio::piped()).spawn().unwrap();
        other.wait().unwrap();
        self.stdout = BufReader::new(other.stdout.take().unwrap());
        self.wait_for_end()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Ended already is the usual case.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends a signal by its name.
pub fn signal(pid: u32, name: &str) {
    let status = Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).status().unwrap();
    assert!(status.success());
}

/// Waits on a condition, with a deadline.
#[track_caller]
pub fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "did not happen within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
