//! `homing dlq`: rows that were set aside, and putting them back.

use crate::cli::Global;
use crate::config::Settings;
use crate::exit::{Ending, Failure, Outcome};
use crate::stdout;
use base64::Engine;
use clap::{Args, Subcommand};
use homing::SqliteOutbox;
use homing::outbox::{DeadLetter, Redriven};
use serde::Serialize;
use serde_json::json;

/// How many are read at once.
const PAGE: u32 = 500;

/// Flags of `homing dlq`.
#[derive(Debug, Args)]
pub struct Flags {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Shows what was set aside before it reached Kafka, oldest first; exit code 1 when there is any
    List {
        /// Shows those that were put back too
        #[arg(long)]
        all: bool,
    },
    /// Puts rows back into the outbox, each under a new number, marked redrive
    Redrive {
        /// Numbers from `homing dlq list`
        #[arg(required_unless_present = "all", value_name = "ID")]
        ids: Vec<i64>,
        /// All of them
        #[arg(long, conflicts_with = "ids")]
        all: bool,
    },
}

/// Lists or redrives.
pub fn run(flags: &Flags, global: &Global) -> Ending {
    let outbox = Settings::load(&global.sources())?.outbox()?;
    match &flags.command {
        Command::List { all } => list(&outbox, *all, global.json),
        Command::Redrive { ids, all } => redrive(&outbox, (!all).then_some(ids), global.json),
    }
}

fn list(outbox: &SqliteOutbox, all: bool, json: bool) -> Ending {
    let (mut after, mut waiting) = (0, 0u64);
    loop {
        let page = outbox.dead_letters(after, PAGE)?;
        let Some(last) = page.last() else { break };
        if stdout::is_closed() {
            break;
        }
        after = last.id;
        for letter in page.iter().filter(|letter| all || letter.redriven_as.is_none()) {
            waiting += u64::from(letter.redriven_as.is_none());
            if json { stdout::json(&LetterJson::of(letter))? } else { stdout::text(&describe(letter))? }
        }
    }
    match (waiting, json) {
        (0, _) => say!("no dead letters"),
        (_, true) => {}
        (_, false) => say!("put them back with `homing dlq redrive ID...`, or --all"),
    }
    Ok(Outcome::of_findings(waiting > 0))
}

fn redrive(outbox: &SqliteOutbox, ids: Option<&Vec<i64>>, json: bool) -> Ending {
    let Redriven { rows: redriven, refused } = outbox.redrive(ids.map(Vec::as_slice))?;
    if json {
        let rows: Vec<_> = redriven.iter().map(|(id, row)| json!({"id": id, "row": row.0})).collect();
        let refused: Vec<_> = refused.iter().map(|(id, why)| json!({"id": id, "reason": why})).collect();
        stdout::json(&json!({"redriven": rows, "refused": refused}))?;
    }
    for (id, row) in &redriven {
        say!("dead letter {id} is row {} of the outbox now", row.0);
    }
    for (id, why) in &refused {
        say!("dead letter {id} was not put back: {why}");
    }
    if !refused.is_empty() {
        return Err(Failure::new(format!("{} dead letters were not put back", refused.len()))
            .help("mend them in homing_dead_letter with plain SQL, then redrive them again"));
    }
    let asked = ids.map(Vec::as_slice).unwrap_or_default();
    let is_missing = |id: &&i64| !redriven.iter().any(|(done, _)| done == *id);
    let missing: Vec<_> = asked.iter().filter(is_missing).map(i64::to_string).collect();
    if !missing.is_empty() {
        return Err(Failure::new(format!("not put back: {}", missing.join(", ")))
            .help("they do not exist or were put back before; see `homing dlq list --all`"));
    }
    if redriven.is_empty() {
        say!("no dead letters to put back");
    }
    Ok(Outcome::Fine)
}

#[derive(Serialize)]
struct LetterJson<'a> {
    id: i64,
    row: i64,
    topic: &'a str,
    key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_encoding: Option<&'static str>,
    payload: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    encoding: Option<&'static str>,
    headers: Option<&'a str>,
    message_id: Option<String>,
    created_at_ms: i64,
    rejected_at_ms: i64,
    code: &'a str,
    reason: &'a str,
    voided: Option<VoidedJson>,
    redriven_as: Option<i64>,
}

#[derive(Serialize)]
struct VoidedJson {
    epoch: u32,
    partition: i32,
    seq: u64,
}

impl<'a> LetterJson<'a> {
    fn of(letter: &'a DeadLetter) -> Self {
        let (key, key_encoding) = text(letter.key.as_ref());
        let (payload, encoding) = text(letter.payload.as_ref());
        let voided = letter.voided.map(|(epoch, partition, seq)| VoidedJson {
            epoch: epoch.0,
            partition: partition.0,
            seq: seq.0,
        });
        Self {
            id: letter.id,
            row: letter.row.0,
            topic: &letter.topic,
            key,
            key_encoding,
            payload,
            encoding,
            headers: letter.headers.as_deref(),
            message_id: letter.message_id.map(|id| id.to_string()),
            created_at_ms: letter.created_at_ms,
            rejected_at_ms: letter.rejected_at_ms,
            code: &letter.code,
            reason: &letter.reason,
            voided,
            redriven_as: letter.redriven_as.map(|row| row.0),
        }
    }
}

/// Text, or base64 and the word that says so.
fn text(bytes: Option<&Vec<u8>>) -> (Option<String>, Option<&'static str>) {
    match bytes.map(|bytes| std::str::from_utf8(bytes).map_err(|_| bytes)) {
        None => (None, None),
        Some(Ok(text)) => (Some(text.to_owned()), None),
        Some(Err(bytes)) => (Some(base64::prelude::BASE64_STANDARD.encode(bytes)), Some("base64")),
    }
}

fn describe(letter: &DeadLetter) -> String {
    let back = letter.redriven_as.map(|row| format!("; put back as row {}", row.0)).unwrap_or_default();
    let (id, row, topic) = (letter.id, letter.row.0, &letter.topic);
    format!("{id:>6}  row {row} to {topic:?}: {} ({}){back}\n", letter.reason, letter.code)
}
