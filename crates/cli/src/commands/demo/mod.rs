//! `homing demo`: the whole path under kills, beside the code most teams write.
//!
//! | process | Homing's side | the usual side |
//! |---|---|---|
//! | application | commits order and outbox row in one transaction | commits the order, then sends without waiting |
//! | relay | `homing run` | – |
//! | consumer | key order, inbox and effect in one transaction | auto-commit, records handed to a worker pool |
//! | broker | one of ours, or three of Apache Kafka; shared by both | |
//!
//! All of them are killed with SIGKILL, both sides at the same moments. Then
//! everything is started once more and left alone until it is done, and each
//! committed order is compared with its effects.

mod application;
mod check;
mod consumer;
mod kafka;
mod kills;
mod orders;
mod stage;
mod usual;
mod view;
mod wire;

use crate::cli::Global;
use crate::exit::{Ending, Failure, Outcome};
use crate::{signals, stdout};
use check::Result as Compared;
use clap::{Args, ValueEnum};
use homing::Shutdown;
use kafka::KafkaBrokers;
use kills::Plan;
use stage::Stage;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use view::View;

/// How long everything may take to finish after the last kill.
const FINISH_PATIENCE: Duration = Duration::from_secs(90);
/// The usual side tells nobody when it is done: it counts as done when nothing happened for so long.
const USUAL_QUIET: Duration = Duration::from_secs(3);

/// Flags of `homing demo`.
#[derive(Debug, Args)]
pub struct Flags {
    /// How long orders are committed and processes killed
    #[arg(long, default_value_t = 25, value_parser = clap::value_parser!(u64).range(3..=600))]
    seconds: u64,
    /// Orders committed per second, on each side
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..=5000))]
    rate: u64,
    /// On three Apache Kafka brokers, killed too; needs a JDK, and Maven to fetch Kafka the first time
    #[arg(long)]
    kafka: bool,
    /// Keeps the databases and the broker's data, and says where
    #[arg(long)]
    keep: bool,
}

/// A process of the demo.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Role {
    /// Commits orders with their outbox rows.
    Application,
    /// Applies orders through the inbox.
    Consumer,
    /// Commits orders and sends them without waiting.
    UsualApplication,
    /// Auto-commits and hands records to a worker pool.
    UsualConsumer,
}

/// Flags of a process of the demo.
#[derive(Debug, Args)]
pub struct ChildFlags {
    /// What it is
    role: Role,
    /// The demo's directory
    #[arg(long)]
    dir: PathBuf,
    /// The broker
    #[arg(long)]
    bootstrap: String,
    /// Orders per second
    #[arg(long, default_value_t = 300)]
    rate: u64,
}

/// Runs one process of the demo.
pub fn run_child(flags: &ChildFlags) -> Ending {
    let shutdown = signals::shutdown_on_signals()?;
    let ChildFlags { role, dir, bootstrap, rate } = flags;
    match role {
        Role::Application => application::run(dir, *rate, &shutdown),
        Role::Consumer => consumer::run(dir, bootstrap, &shutdown),
        Role::UsualApplication => usual::application(dir, bootstrap, *rate, &shutdown),
        Role::UsualConsumer => usual::consumer(dir, bootstrap, &shutdown),
    }
}

/// Runs the demo.
pub fn run(flags: &Flags, global: &Global) -> Ending {
    let shutdown = signals::shutdown_on_signals()?;
    let began = Instant::now();
    let mut directory = tempfile::Builder::new().prefix("homing-demo-").tempdir()?;
    directory.disable_cleanup(true);
    let dir = directory.path().to_owned();
    let result = play(flags, global, &shutdown, &dir, began);
    let lost_something = !matches!(result, Ok(Outcome::Fine));
    if flags.keep || lost_something {
        eprintln!("databases and broker data: {}", dir.display());
    } else {
        directory.disable_cleanup(false);
    }
    result
}

fn play(
    flags: &Flags,
    global: &Global,
    shutdown: &Shutdown,
    dir: &std::path::Path,
    began: Instant,
) -> Ending {
    let mut view = View::new(global.json, Duration::from_secs(flags.seconds));
    let brokers = flags.kafka.then(|| {
        view.say("starting three Apache Kafka brokers; they are fetched when they are not there yet");
        KafkaBrokers::start()
    });
    let mut stage = Stage::set(dir, flags.rate, brokers.transpose()?)?;
    view.say(
        "an application commits orders; a relay sends them; a consumer applies them; all of them get killed",
    );
    let mut plan = Plan::new(Duration::from_secs(flags.seconds));
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(flags.seconds) {
        if shutdown.wait(Duration::from_millis(50)) {
            return Err(Failure::new("interrupted; nothing was compared"));
        }
        for act in plan.due(started.elapsed()) {
            if let Some(told) = stage.perform(act)? {
                view.killed(&told);
            }
        }
        stage.look_after()?;
        view.progress(&stage.progress(), started.elapsed());
    }
    view.say("no more kills: everything is started once more and finishes");
    stage.finish_committing()?;
    finish(&mut stage, &mut view, shutdown, started)?;
    let wire = wire::read(&stage.kafka())?;
    stage.strike();
    let compared = check::compare(dir, wire, stage.kills(), began.elapsed())?;
    report(&compared, global.json)?;
    Ok(compared.outcome())
}

/// Waits until every order of ours took effect and the usual side is quiet.
fn finish(
    stage: &mut Stage,
    view: &mut View,
    shutdown: &Shutdown,
    started: Instant,
) -> std::result::Result<(), Failure> {
    let deadline = Instant::now() + FINISH_PATIENCE;
    let mut usual = (stage.progress().usual_effects, Instant::now());
    while Instant::now() < deadline {
        if shutdown.wait(Duration::from_millis(50)) {
            return Err(Failure::new("interrupted; nothing was compared"));
        }
        stage.look_after()?;
        let progress = stage.progress();
        view.progress(&progress, started.elapsed());
        if progress.usual_effects != usual.0 {
            usual = (progress.usual_effects, Instant::now());
        }
        if progress.effects >= progress.committed && usual.1.elapsed() > USUAL_QUIET {
            break;
        }
    }
    view.end();
    Ok(())
}

fn report(compared: &Compared, json: bool) -> std::result::Result<(), Failure> {
    if json { stdout::json(&compared.json()) } else { stdout::text(&compared.table()) }
}
