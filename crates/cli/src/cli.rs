//! The command line: every command and flag, and what its help says.

use crate::commands::{audit, broker, consume, demo, dlq, init, run, send, status, topic};
use crate::config::Sources;
use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;

/// Every message your application commits reaches its Kafka consumers, or Homing says which one did not.
#[derive(Debug, Parser)]
#[command(name = "homing", version, propagate_version = true, max_term_width = 100)]
#[command(after_help = "Exit codes: 0 fine, 1 findings, 2 could not tell (or wrong usage).\n\
                        stdout is data, stderr is talk. Begin with `homing init`, or see `homing demo`.")]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// Flags of every command.
    #[command(flatten)]
    pub global: Global,
}

/// Flags of every command.
#[derive(Debug, Args)]
pub struct Global {
    /// The settings' file [default: homing.toml, when there is one]
    #[arg(long, global = true, value_name = "FILE", env = "HOMING_CONFIG")]
    pub config: Option<PathBuf>,
    /// Sets one setting, over variables and file; e.g. --set relay.poll_max_ms=20
    #[arg(long, global = true, value_name = "SECTION.KEY=VALUE")]
    pub set: Vec<String>,
    /// Prints JSON: one object, or one per line
    #[arg(long, global = true)]
    pub json: bool,
    /// Says more on stderr; twice says most. HOMING_LOG takes a filter, e.g. homing::relay=debug
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
}

impl Global {
    /// Where the settings come from.
    pub fn sources(&self) -> Sources {
        Sources { config: self.config.clone(), set: self.set.clone() }
    }
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Shows the whole path under kills, beside the code most teams write
    Demo(demo::Flags),
    /// Writes a short homing.toml and creates the outbox
    Init(init::Flags),
    /// Puts records from a file or standard input into the outbox
    Send(send::Flags),
    /// Relays and audits until told to stop; SIGTERM drains
    Run(run::Flags),
    /// Prints records as JSON lines, or runs a command per record
    Consume(consume::Flags),
    /// Tells what is on its way, and why it waits
    Status(status::Flags),
    /// Reads everything back and tells which messages are missing
    Audit(audit::Flags),
    /// Lists rows that were set aside, and puts them back
    Dlq(dlq::Flags),
    /// Shows, closes or reopens a topic that was deleted, made anew or is not there
    Topic(topic::Flags),
    /// Serves the embedded broker alone
    Broker(broker::Flags),
    /// A process of the demo
    #[command(hide = true)]
    DemoChild(demo::ChildFlags),
}
