//! `homing audit`: reads everything back and tells which messages are missing.

mod accept;
mod text;

use crate::cli::Global;
use crate::config::Settings;
use crate::endpoint::Endpoint;
use crate::exit::{Ending, Failure, Outcome};
use crate::{signals, stdout};
use clap::{Args, Subcommand};
use homing::audit::Outcome as Found;
use homing::{AuditReport, Auditor, KafkaConfig};

/// Flags of `homing audit`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Flags {
    /// Tells what earlier audits found, without asking Kafka
    #[arg(long)]
    recall: bool,
    /// Shows every lane's numbers too
    #[arg(long)]
    lanes: bool,
    #[command(subcommand)]
    act: Option<Act>,
}

#[derive(Debug, Subcommand)]
enum Act {
    /// Accepts that messages are lost, by name; without --yes only shows which
    Accept(accept::Flags),
}

/// Audits all there is by now; exit 1 when something is missing, 2 when not everything could be read.
pub fn run(flags: &Flags, global: &Global) -> Ending {
    let settings = Settings::load(&global.sources())?;
    let (outbox, options) = (settings.outbox()?, settings.audit()?);
    if let Some(Act::Accept(flags)) = &flags.act {
        return accept::run(flags, global, &Auditor::new(outbox, KafkaConfig::default(), options)?);
    }
    let report = if flags.recall {
        let report = Auditor::new(outbox, KafkaConfig::default(), options)?.recall()?;
        if report.partitions.is_empty() && report.lanes.iter().any(|lane| lane.settled > 0) {
            return Err(Failure::new("nothing was audited yet").help("run `homing audit`, or `homing run`"));
        }
        report
    } else {
        let shutdown = signals::shutdown_on_signals()?;
        let endpoint = Endpoint::open(&settings)?;
        let report =
            Auditor::new(outbox, endpoint.kafka.clone(), options)?.run_once(&shutdown).map_err(|error| {
                Failure::new(error.to_string())
                    .help("is the broker up? what could not be read cannot be judged")
            })?;
        if shutdown.is_triggered() {
            return Err(Failure::new("interrupted before everything was audited"));
        }
        report
    };
    if global.json {
        stdout::json(&report)?;
    } else {
        stdout::text(&text::describe(&report, flags.lanes))?;
    }
    ending(&report)
}

/// What could not be read outweighs what was found: the findings are printed already.
fn ending(report: &AuditReport) -> Ending {
    match report.unreachable.len() {
        0 => Ok(Outcome::of_findings(report.outcome() == Found::Findings)),
        count => Err(Failure::new(format!("{count} partitions could not be read: nothing is said of them"))
            .help("are all brokers up? what could not be read cannot be judged")),
    }
}
