//! Runs a command per record.

use super::stop::Quota;
use crate::record_json::RecordJson;
use homing::{Outcome, Record};
use std::io::{self, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

/// `sh` says so when it finds no such command, or may not run it.
const NO_COMMAND: std::ops::RangeInclusive<i32> = 126..=127;

/// A command to run for each record.
pub struct Exec {
    command: String,
    quota: Quota,
}

impl Exec {
    pub fn new(command: String, quota: Quota) -> Self {
        Self { command, quota }
    }

    /// Runs the command for one record and waits for it.
    pub fn run(&self, record: &Record) -> Outcome {
        if self.quota.take(1) == 0 {
            // Beyond --max-messages: left unfinished, the run is about to end.
            return Outcome::Retry {
                after: Some(Duration::from_secs(3600)),
                reason: "beyond --max-messages".into(),
            };
        }
        let outcome = match self.start(record) {
            Ok(status) => judge(status),
            Err(error) => Outcome::retry(format!("run the command: {error}")),
        };
        match outcome {
            Outcome::Ok => self.quota.done(1),
            _ => self.quota.give_back(),
        }
        outcome
    }

    fn start(&self, record: &Record) -> io::Result<ExitStatus> {
        let mut input = serde_json::to_vec(&RecordJson(record))?;
        input.push(b'\n');
        let text =
            |bytes: Option<&[u8]>| String::from_utf8_lossy(bytes.unwrap_or_default()).replace('\0', "");
        let mut command = Command::new("sh");
        command
            .arg("-c")
            .arg(&self.command)
            .stdin(Stdio::piped())
            // Ctrl-C at the terminal is for us: the command may finish while we drain.
            .process_group(0)
            .env("HOMING_TOPIC", record.topic())
            .env("HOMING_PARTITION", record.partition().to_string())
            .env("HOMING_OFFSET", record.offset().to_string())
            .env("HOMING_KEY", text(record.key()))
            .env("HOMING_SEQ", record.stamp_ref().map(|stamp| stamp.seq.to_string()).unwrap_or_default())
            .env("HOMING_ID", record.id().map(|id| id.to_string()).unwrap_or_default());
        let mut child = command.spawn()?;
        let fed = child.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(&input));
        let status = child.wait()?;
        match fed {
            // A command need not read its input.
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error),
            _ => Ok(status),
        }
    }
}

fn judge(status: ExitStatus) -> Outcome {
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
