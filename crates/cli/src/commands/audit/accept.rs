//! `homing audit accept`: closes by name what can never be read back.

use crate::cli::Global;
use crate::exit::{Ending, Failure, Outcome};
use crate::stdout;
use clap::Args;
use homing::audit::{LossOutlook, Through};
use homing::{Auditor, Epoch, Partition, Seq, TopicName};
use std::fmt::Write as _;

/// Flags of `homing audit accept`.
#[derive(Debug, Args)]
pub struct Flags {
    /// The topic whose loss is accepted
    #[arg(long)]
    topic: String,
    /// Only this partition
    #[arg(long)]
    partition: Option<i32>,
    /// Only this epoch
    #[arg(long)]
    epoch: Option<u32>,
    /// Everything up to this number of each lane
    #[arg(long, value_name = "SEQ", required_unless_present = "all", conflicts_with = "all")]
    through: Option<u64>,
    /// Everything that is settled by now, and every doubt
    #[arg(long)]
    all: bool,
    /// Who accepts it; kept for ever
    #[arg(long, value_name = "WHO", required_if_eq("yes", "true"))]
    by: Option<String>,
    /// Why; kept for ever
    #[arg(long, value_name = "TEXT", required_if_eq("yes", "true"))]
    why: Option<String>,
    /// Does it; without, it is only shown
    #[arg(long)]
    yes: bool,
}

/// Shows what would be accepted, and with `--yes` accepts it; exit 1 when it was only shown.
pub fn run(flags: &Flags, global: &Global, auditor: &Auditor) -> Ending {
    let topic = TopicName::parse(&flags.topic).map_err(|error| Failure::new(error.to_string()))?;
    let lanes = (flags.partition.map(Partition), flags.epoch.map(Epoch));
    let through = flags.through.map_or(Through::All, |seq| Through::Seq(Seq(seq)));
    let outlook = match (flags.yes, &flags.by, &flags.why) {
        (true, Some(by), Some(why)) if by.trim().is_empty() || why.trim().is_empty() => {
            return Err(Failure::new("--by and --why may not be empty: whoever reads it later asks"));
        }
        (true, Some(by), Some(why)) => auditor.accept_loss(&topic, lanes, through, (by, why))?,
        _ => auditor.loss_outlook(&topic, lanes, through)?,
    };
    if global.json {
        stdout::json(&serde_json::json!({"accepted": flags.yes, "lanes": outlook}))?;
    } else {
        stdout::text(&describe(&outlook, flags.yes))?;
    }
    Ok(Outcome::of_findings(!flags.yes && !outlook.is_empty()))
}

fn describe(outlook: &[LossOutlook], done: bool) -> String {
    if outlook.is_empty() {
        return "nothing to accept: all of it is verified\n".to_owned();
    }
    let mut out = String::new();
    let name = if done { "accepted" } else { "would accept" };
    for lane in outlook {
        let place = format!("{}[{}] epoch {}", lane.topic, lane.partition, lane.epoch);
        let seqs = match lane.to.checked_sub(lane.from) {
            None => "no number".to_owned(),
            Some(0) => format!("number {}", lane.from),
            Some(_) => format!("numbers {} to {}", lane.from, lane.to),
        };
        let mut said = format!("{place}: {seqs}, {} of them known to be missing", lane.missing);
        if lane.forks > 0 {
            let _ = write!(said, ", {} numbers of two messages", lane.forks); // writing to a String cannot fail
        }
        if lane.strange > 0 {
            let _ = write!(said, ", doubtful numbers up to {}", lane.strange); // as above
        }
        let _ = writeln!(out, "{name:<14}{said}"); // as above
    }
    out.push_str(if done {
        "they count as verified from now on; their rows are pruned with the others\n"
    } else {
        "nothing was changed; add --yes, --by and --why to accept it\n"
    });
    out
}
