//! The demo's processes: started, killed and counted.
#![allow(unsafe_code)]

use super::application::STREAM;
use super::kafka::KafkaBrokers;
use super::kills::{Act, Target};
use super::orders;
use crate::exit::{During, Failure};
use homing::kafka::ensure::ensure_topics;
use homing::{KafkaConfig, SqliteOutbox, StreamName};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a process may take to end after SIGTERM, before it is killed.
const STOP_PATIENCE: Duration = Duration::from_secs(15);

/// What has happened so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Orders our application committed.
    pub committed: u64,
    /// Effects of our consumer.
    pub effects: u64,
    /// Orders the usual application committed.
    pub usual_committed: u64,
    /// Effects of the usual consumer.
    pub usual_effects: u64,
    /// Processes killed.
    pub kills: u64,
}

/// One process: how it is started, and whether it runs.
struct Actor {
    name: &'static str,
    args: Vec<String>,
    target: Target,
    running: Option<Child>,
    /// Whether it is meant to run; one that ends by itself then has failed.
    wanted: bool,
}

/// All processes on their directory.
pub struct Stage {
    dir: PathBuf,
    program: PathBuf,
    bootstrap: String,
    actors: Vec<Actor>,
    /// Apache Kafka's, when they are not ours: then no actor is a broker.
    brokers: Option<KafkaBrokers>,
    kills: u64,
}

impl Stage {
    /// Creates the databases and starts everything, on `brokers` or else on a broker of our own.
    ///
    /// # Errors
    /// [`Failure`] naming what cannot be created or started.
    pub fn set(dir: &Path, rate: u64, brokers: Option<KafkaBrokers>) -> Result<Self, Failure> {
        SqliteOutbox::create(dir.join(orders::DATABASE), &StreamName::parse(STREAM)?)?;
        for database in [orders::DATABASE, orders::USUAL_DATABASE] {
            orders::create_orders(&orders::open(&dir.join(database))?)?;
        }
        for database in [orders::EFFECTS, orders::USUAL_EFFECTS] {
            orders::create_effects(&orders::open(&dir.join(database))?)?;
        }
        homing::inbox::Inbox::create(&orders::open(&dir.join(orders::EFFECTS))?)?;
        let mut stage = Self {
            dir: dir.to_owned(),
            program: std::env::current_exe().during("find this program")?,
            bootstrap: brokers.as_ref().map(KafkaBrokers::bootstrap).unwrap_or_default(),
            actors: Vec::new(),
            brokers,
            kills: 0,
        };
        if stage.brokers.is_none() {
            stage.start_broker_first()?;
        }
        stage.write_config()?;
        stage.create_usual_topic()?;
        stage.add_actors(rate)?;
        Ok(stage)
    }

    /// The first start takes a free port; every later one serves on the same.
    fn start_broker_first(&mut self) -> Result<(), Failure> {
        let dir = self.dir.join("broker").display().to_string();
        let args = |listen: &str| ["broker", "--dir", &dir, "--listen", listen].map(str::to_owned).to_vec();
        let mut child = self
            .command(&args("127.0.0.1:0"), "broker")?
            .stdout(Stdio::piped())
            .spawn()
            .during("start the broker")?;
        let mut line = String::new();
        let stdout = child.stdout.take().expect("standard output is piped");
        BufReader::new(stdout).read_line(&mut line).during("read the broker's address")?;
        if line.trim().is_empty() {
            return Err(Failure::new("the broker did not start")
                .help(format!("see {}", self.log("broker").display())));
        }
        line.trim().clone_into(&mut self.bootstrap);
        let args = args(&self.bootstrap);
        self.actors.push(Actor {
            name: "broker",
            args,
            target: Target::Broker,
            running: Some(child),
            wanted: true,
        });
        Ok(())
    }

    fn write_config(&self) -> Result<(), Failure> {
        let kafka = self.kafka();
        let text = format!(
            "[stream]\nname = \"{STREAM}\"\ndatabase = \"sqlite:{}\"\n\
             [kafka]\nbootstrap = \"{}\"\ncreate_topics = true\nreplication_factor = {}\nmin_insync_replicas = {}\n",
            self.dir.join(orders::DATABASE).display(),
            self.bootstrap,
            kafka.replication_factor,
            kafka.min_insync_replicas,
        );
        std::fs::write(self.dir.join("homing.toml"), text).during("write the demo's homing.toml")
    }

    /// Both sides get a topic of the same shape; ours is created by the relay.
    fn create_usual_topic(&self) -> Result<(), Failure> {
        let topic = homing::TopicName::parse(orders::USUAL_TOPIC)?;
        ensure_topics(&self.kafka(), &[topic], Duration::from_secs(10))?;
        Ok(())
    }

    fn add_actors(&mut self, rate: u64) -> Result<(), Failure> {
        let (dir, rate) = (self.dir.display().to_string(), rate.to_string());
        let config = self.dir.join("homing.toml").display().to_string();
        let child = |role: &str| {
            let args = ["demo-child", role, "--dir", &dir, "--bootstrap", &self.bootstrap, "--rate", &rate];
            args.map(str::to_owned).to_vec()
        };
        let actors = [
            ("relay", vec!["run".into(), "--config".into(), config], Target::Sender),
            ("consumer", child("consumer"), Target::Consumer),
            ("application", child("application"), Target::Application),
            ("usual consumer", child("usual-consumer"), Target::Consumer),
            ("usual application", child("usual-application"), Target::Application),
        ];
        for (name, args, target) in actors {
            self.actors.push(Actor { name, args, target, running: None, wanted: false });
        }
        (0..self.actors.len()).try_for_each(|at| if self.actors[at].wanted { Ok(()) } else { self.start(at) })
    }

    fn log(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{}.log", name.replace(' ', "-")))
    }

    fn command(&self, args: &[String], name: &str) -> Result<Command, Failure> {
        let path = self.log(name);
        let log = File::options().create(true).append(true).open(&path).during(path.display())?;
        let mut command = Command::new(&self.program);
        command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        // Settings of the caller's environment are not the demo's.
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("HOMING_")) {
            command.env_remove(name);
        }
        // SAFETY: prctl with PR_SET_PDEATHSIG takes no pointer and is async-signal-safe.
        unsafe {
            command.pre_exec(|| {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                Ok(())
            });
        }
        Ok(command)
    }

    fn start(&mut self, at: usize) -> Result<(), Failure> {
        let (name, args) = (self.actors[at].name, self.actors[at].args.clone());
        let child = self.command(&args, name)?.spawn().during(format!("start the {name}"))?;
        self.actors[at].running = Some(child);
        self.actors[at].wanted = true;
        Ok(())
    }

    /// The actors of a target: the usual application sends for itself, so it suffers as a sender too.
    fn cast(&self, target: Target) -> Vec<usize> {
        let suffers = |actor: &Actor| {
            actor.target == target || (target == Target::Sender && actor.name == "usual application")
        };
        (0..self.actors.len()).filter(|at| suffers(&self.actors[*at])).collect()
    }

    /// Does one act of the plan; tells who was killed.
    ///
    /// # Errors
    /// [`Failure`] when a process cannot be killed or started.
    pub fn perform(&mut self, act: Act) -> Result<Option<String>, Failure> {
        match (act, &mut self.brokers) {
            (Act::Kill(Target::Broker), Some(brokers)) => {
                let name = brokers.kill()?;
                self.kills += 1;
                Ok(Some(name))
            }
            (Act::Start(Target::Broker), Some(brokers)) => brokers.start_again().map(|()| None),
            (Act::Kill(target), _) => {
                let cast = self.cast(target);
                for &at in &cast {
                    self.kill(at)?;
                }
                let names: Vec<_> = cast.iter().map(|at| self.actors[*at].name).collect();
                Ok(Some(names.join(" and ")))
            }
            (Act::Start(target), _) => {
                for at in self.cast(target) {
                    if !self.actors[at].wanted {
                        self.start(at)?;
                    }
                }
                Ok(None)
            }
        }
    }

    fn kill(&mut self, at: usize) -> Result<(), Failure> {
        let actor = &mut self.actors[at];
        actor.wanted = false;
        if let Some(mut child) = actor.running.take() {
            child.kill().and_then(|()| child.wait()).during(format!("kill the {}", actor.name))?;
            self.kills += 1;
        }
        Ok(())
    }

    /// Looks whether everything that should run does; the usual code is started again, as a supervisor would.
    ///
    /// # Errors
    /// [`Failure`] when one of ours has ended by itself.
    pub fn look_after(&mut self) -> Result<(), Failure> {
        for at in 0..self.actors.len() {
            let actor = &mut self.actors[at];
            let Some(child) = actor.running.as_mut() else { continue };
            let Some(status) = child.try_wait().during(format!("look after the {}", actor.name))? else {
                continue;
            };
            let name = actor.name;
            if !name.starts_with("usual") {
                let failure = Failure::new(format!("the {name} ended by itself: {status}"));
                return Err(failure.help(format!("see {}", self.log(name).display())));
            }
            self.start(at)?;
        }
        Ok(())
    }

    /// Starts whatever is down, then has both applications stop in an orderly way.
    ///
    /// # Errors
    /// [`Failure`] when a process cannot be started or stopped.
    pub fn finish_committing(&mut self) -> Result<(), Failure> {
        if let Some(brokers) = &mut self.brokers {
            brokers.start_again()?;
            brokers.wait_ready()?;
        }
        for at in 0..self.actors.len() {
            if !self.actors[at].wanted {
                self.start(at)?;
            }
        }
        for at in self.cast(Target::Application) {
            self.terminate(at)?;
        }
        Ok(())
    }

    fn terminate(&mut self, at: usize) -> Result<(), Failure> {
        let actor = &mut self.actors[at];
        actor.wanted = false;
        let Some(mut child) = actor.running.take() else { return Ok(()) };
        let pid = libc::pid_t::try_from(child.id()).expect("process ids fit pid_t");
        // SAFETY: kill takes no pointer; the child was not waited for, so the id is still its own.
        unsafe { libc::kill(pid, libc::SIGTERM) };
        let deadline = Instant::now() + STOP_PATIENCE;
        while child.try_wait().during(format!("stop the {}", actor.name))?.is_none() {
            if Instant::now() > deadline {
                child.kill().and_then(|()| child.wait()).during(format!("kill the {}", actor.name))?;
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// Stops everything, the broker last.
    pub fn strike(&mut self) {
        for actor in self.actors.iter_mut().rev() {
            actor.wanted = false;
            if let Some(mut child) = actor.running.take() {
                // It may have ended by itself; there is nothing left to do then.
                let _ = child.kill();
                let _ = child.wait();
            }
        }
    }

    /// How to reach the broker.
    pub fn kafka(&self) -> KafkaConfig {
        let (replication_factor, min_insync_replicas) = if self.brokers.is_some() { (3, 2) } else { (1, 1) };
        KafkaConfig {
            create_topics: true,
            replication_factor,
            min_insync_replicas,
            ..KafkaConfig::new(&self.bootstrap)
        }
    }

    /// How many processes were killed.
    pub fn kills(&self) -> u64 {
        self.kills
    }

    /// Counts what has happened so far.
    pub fn progress(&self) -> Progress {
        let count = |database, table| orders::count(&self.dir.join(database), table);
        Progress {
            committed: count(orders::DATABASE, "orders"),
            effects: count(orders::EFFECTS, "effects"),
            usual_committed: count(orders::USUAL_DATABASE, "orders"),
            usual_effects: count(orders::USUAL_EFFECTS, "effects"),
            kills: self.kills,
        }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.strike();
    }
}
