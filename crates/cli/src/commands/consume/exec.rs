//! Runs a command per record.

use super::ending::{Cause, Commands};
use super::stop::Quota;
use crate::process_group::Group;
use crate::record_json::RecordJson;
use homing::consumer::Context;
use homing::{Outcome, Record};
use std::io::{self, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

/// `sh` says so when it finds no such command, or may not run it.
const NO_COMMAND: std::ops::RangeInclusive<i32> = 126..=127;

/// A command to run for each record.
pub struct Exec {
    command: String,
    quota: Quota,
    commands: Commands,
}

/// How a command ended: by itself, or because it was told to.
struct Ended {
    status: ExitStatus,
    told: Option<Cause>,
}

impl Exec {
    pub fn new(command: String, quota: Quota, commands: Commands) -> Self {
        Self { command, quota, commands }
    }

    /// Runs the command for one record and waits for it.
    pub fn run(&self, record: &Record, context: &Context) -> Outcome {
        if self.quota.take(1) == 0 {
            // Beyond --max-messages: left unfinished, the run is about to end.
            return Outcome::Retry {
                after: Some(Duration::from_secs(3600)),
                reason: "beyond --max-messages".into(),
            };
        }
        let outcome = match self.start(record, context) {
            Ok(ended) => judge(&ended),
            Err(error) => Outcome::retry(format!("run the command: {error}")),
        };
        match outcome {
            Outcome::Ok => self.quota.done(1),
            _ => self.quota.give_back(),
        }
        outcome
    }

    fn start(&self, record: &Record, context: &Context) -> io::Result<Ended> {
        let mut input = serde_json::to_vec(&RecordJson(record))?;
        input.push(b'\n');
        let text =
            |bytes: Option<&[u8]>| String::from_utf8_lossy(bytes.unwrap_or_default()).replace('\0', "");
        let mut command = Command::new("sh");
        command
            .arg("-c")
            .arg(&self.command)
            .stdin(Stdio::piped())
            .env("HOMING_TOPIC", record.topic())
            .env("HOMING_PARTITION", record.partition().to_string())
            .env("HOMING_OFFSET", record.offset().to_string())
            .env("HOMING_KEY", text(record.key()))
            .env("HOMING_SEQ", record.stamp_ref().map(|stamp| stamp.seq.to_string()).unwrap_or_default())
            .env("HOMING_ID", record.id().map(|id| id.to_string()).unwrap_or_default());
        let mut group = Group::start(&mut command)?;
        let id = group.id();
        self.commands.begun(id, context);
        let fed = group.child().stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(&input));
        let status = group.wait();
        let told = self.commands.gone(id);
        match fed {
            // A command need not read its input.
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error),
            _ => Ok(Ended { status: status?, told }),
        }
    }
}

fn judge(Ended { status, told }: &Ended) -> Outcome {
    match told {
        _ if status.success() => {}
        // Not the record's fault, so no attempt: it stays unfinished.
        Some(Cause::Stopping) => return Outcome::fatal("its command was ended, as the consumer stops"),
        Some(Cause::GivenUp) => {
            return Outcome::retry("its command was ended: another member has the record");
        }
        None => {}
    }
    match (status.code(), status.signal()) {
        (Some(0), _) => Outcome::Ok,
        (Some(code), _) if NO_COMMAND.contains(&code) => {
            Outcome::fatal(format!("the shell finds no such command, or may not run it (exit code {code})"))
        }
        (Some(code), _) => Outcome::retry(format!("the command ended with exit code {code}")),
        (None, Some(signal)) => Outcome::retry(format!("the command was ended by signal {signal}")),
        (None, None) => Outcome::retry("the command ended in an unknown way"),
    }
}
