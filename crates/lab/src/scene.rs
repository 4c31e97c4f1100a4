//! A scene: an outbox with an application at work on it, workers to start and kill, and the comparison at the end.

use crate::checker::{Committed, Report, check, check_unstamped};
use crate::job::{Job, Role, Site};
use crate::process::Worker;
use crate::{backtrace, effects, wire, workload};
use homing::outbox::SqliteOutbox;
use homing_core::StreamName;
use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The stream of every scene.
pub const STREAM: &str = "lab";

/// Any error of a scene's parts.
pub type SceneError = Box<dyn Error + Send + Sync>;

/// How fast the application commits.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Orders in a transaction.
    pub orders: usize,
    /// Pause between two transactions.
    pub pause: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self { orders: 3, pause: Duration::from_millis(5) }
    }
}

/// An application at work, and where its workers find everything.
#[derive(Debug)]
pub struct Scene {
    dir: tempfile::TempDir,
    site: Site,
    program: &'static str,
    topic: String,
    /// Workers write logs, kept when the scene ends badly.
    tells: bool,
    enough: Arc<AtomicBool>,
    application: Option<JoinHandle<Result<(), String>>>,
}

impl Scene {
    /// Creates an outbox and an application that commits orders until it is told to stop.
    ///
    /// `program` is the worker's binary. Topic and group are the scene's own.
    ///
    /// # Errors
    /// When the outbox cannot be created.
    pub fn begin(program: &'static str, site: Site, seed: u64, pace: Pace) -> Result<Self, SceneError> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let dir = tempfile::tempdir()?;
        let (process, count) = (std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let topic = format!("orders-{process}-{count}");
        let outbox = SqliteOutbox::create(dir.path().join("orders.db"), &StreamName::parse(STREAM)?)?;
        let enough = Arc::new(AtomicBool::new(false));
        let mut orders =
            workload::Orders::open(&outbox, &topic, seed, 20).map_err(|error| error.to_string())?;
        let told = Arc::clone(&enough);
        let application = std::thread::spawn(move || {
            while !told.load(Ordering::Relaxed) {
                orders.commit(pace.orders).map_err(|error| error.to_string())?;
                std::thread::sleep(pace.pause);
            }
            Ok(())
        });
        Ok(Self { dir, site, program, topic, tells: false, enough, application: Some(application) })
    }

    /// From now on, workers that are started tell what they do, in files that are kept when the test fails.
    pub fn have_workers_tell(&mut self) {
        self.tells = true;
    }

    /// Writes down where every thread of these workers is, beside their logs; returns the directory.
    pub fn look_into(&self, workers: &[Worker]) -> PathBuf {
        for worker in workers {
            let told = backtrace::of_process(worker.pid());
            let file = self.dir.path().join(format!("threads-{}.txt", worker.pid()));
            if let Err(error) = std::fs::write(&file, told) {
                eprintln!("write {}: {error}", file.display());
            }
        }
        self.dir.path().to_owned()
    }

    /// The topic of the orders.
    #[must_use]
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// The cluster.
    #[must_use]
    pub fn site(&self) -> &Site {
        &self.site
    }

    /// The outbox.
    #[must_use]
    pub fn outbox_path(&self) -> PathBuf {
        self.dir.path().join("orders.db")
    }

    /// The consumer's database.
    #[must_use]
    pub fn effects_path(&self) -> PathBuf {
        self.dir.path().join("effects.db")
    }

    /// Starts a worker and waits until it is ready; `kill` is `STEP:NTH`.
    ///
    /// # Errors
    /// When it does not start.
    pub fn worker(&self, role: Role, kill: Option<&str>) -> Result<Worker, SceneError> {
        self.worker_that_stalls(role, kill, None)
    }

    /// As [`worker`](Self::worker), with a handler that stops before the record `stall_after`.
    ///
    /// # Errors
    /// When it does not start.
    pub fn worker_that_stalls(
        &self,
        role: Role,
        kill: Option<&str>,
        stall_after: Option<u64>,
    ) -> Result<Worker, SceneError> {
        let job = Job {
            role,
            site: self.site.clone(),
            topic: self.topic.clone(),
            group: format!("{}-group", self.topic),
            database: if role.is_relay() { self.outbox_path() } else { self.effects_path() },
            kill: kill.map(str::to_owned),
            log: self.tells.then(|| self.dir.path().join(format!("{role:?}.log").to_lowercase())),
            stall_after,
        };
        let mut worker = Worker::spawn(self.program, [serde_json::to_string(&job)?])?;
        match worker.line()?.as_deref() {
            Some("ready") => Ok(worker),
            other => Err(format!("the {role:?} did not start: {other:?}").into()),
        }
    }

    /// Waits until every row is settled, by the relay that is at work.
    ///
    /// # Errors
    /// What the outbox says is left when `patience` is over.
    pub fn wait_drained(&self, patience: Duration) -> Result<(), SceneError> {
        let (outbox, deadline) = (self.outbox()?, Instant::now() + patience);
        loop {
            let stats = outbox.stats()?;
            match stats.unclaimed + stats.unsettled {
                0 => return Ok(()),
                left if Instant::now() > deadline => {
                    let why = stats.relay.and_then(|relay| relay.trouble);
                    return Err(format!("{left} rows are not settled; the relay says {why:?}").into());
                }
                _ => std::thread::sleep(Duration::from_millis(20)),
            }
        }
    }

    /// The outbox, for looking at it and for auditing.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn outbox(&self) -> Result<SqliteOutbox, SceneError> {
        Ok(SqliteOutbox::open(self.outbox_path(), &StreamName::parse(STREAM)?)?)
    }

    /// How many orders took effect so far.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn effects(&self) -> Result<i64, SceneError> {
        Ok(effects::count(&self.effects_path())?)
    }

    /// Has the application stop; everything it committed.
    ///
    /// # Errors
    /// When the application failed, or its orders cannot be read.
    pub fn stop_committing(&mut self) -> Result<Vec<Committed>, SceneError> {
        self.enough.store(true, Ordering::Relaxed);
        if let Some(application) = self.application.take() {
            application.join().map_err(|_| "the application panicked")??;
        }
        Ok(workload::committed(&self.outbox_path())?)
    }

    /// Lets `workers`, a relay and a consumer, finish what is left, then compares everything.
    ///
    /// # Errors
    /// When a worker gives up, or the topic cannot be read; orders that took no effect are the
    /// report's to tell.
    pub fn finish(&mut self, mut workers: Vec<Worker>, patience: Duration) -> Result<Report, SceneError> {
        let committed = self.stop_committing()?;
        let deadline = Instant::now() + patience;
        while self.effects()? < i64::try_from(committed.len())? && Instant::now() < deadline {
            for worker in &mut workers {
                if let Some(ended) = worker.wait(Duration::from_millis(20))? {
                    return Err(format!("a worker gave up: {ended:?}").into());
                }
            }
        }
        if self.effects()? < i64::try_from(committed.len())? {
            println!("not everything took effect: see {}", self.look_into(&workers).display());
        }
        drop(workers);
        let wire = wire::read_topic(&self.site.bootstrap, &self.topic, patience)?;
        Ok(check(&committed, &wire, &effects::read(&self.effects_path())?))
    }

    /// Waits until nothing takes effect any more for `quiet`, then compares without looking at stamps.
    ///
    /// # Errors
    /// When a worker gives up or a database cannot be read.
    pub fn finish_unstamped(
        &mut self,
        mut workers: Vec<Worker>,
        quiet: Duration,
    ) -> Result<Report, SceneError> {
        let committed = self.stop_committing()?;
        let (mut seen, mut since) = (self.effects()?, Instant::now());
        while since.elapsed() < quiet {
            for worker in &mut workers {
                if let Some(ended) = worker.wait(Duration::from_millis(20))? {
                    return Err(format!("a worker gave up: {ended:?}").into());
                }
            }
            let now = self.effects()?;
            if now != seen {
                (seen, since) = (now, Instant::now());
            }
        }
        drop(workers);
        Ok(check_unstamped(&committed, &effects::read(&self.effects_path())?))
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.enough.store(true, Ordering::Relaxed);
        if let Some(application) = self.application.take() {
            // A panic or an error in there was the test's to see; the directory is about to go.
            let _ = application.join();
        }
        if self.tells && std::thread::panicking() {
            self.dir.disable_cleanup(true);
            println!("logs, statuses and threads: {}", self.dir.path().display());
        }
    }
}
