//! `homing send`: records from a file or standard input into the outbox, durably before they are counted.

use crate::cli::Global;
use crate::config::Settings;
use crate::exit::{During, Ending, Failure, Outcome};
use crate::input::{Format, Plan, Records, Taken};
use crate::progress::{Progress, rate};
use crate::{signals, stdout};
use clap::{Args, ValueEnum};
use homing::outbox::{Outbox, OutboxError};
use homing::{Shutdown, SqliteOutbox, TopicName};
use rusqlite::{Connection, TransactionBehavior};
use serde::Serialize;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

/// Bad lines that are told one by one; the rest is only counted.
const BAD_TOLD_MAX: u64 = 20;
/// Lines read ahead of the database.
const AHEAD: usize = 256;
/// Bytes in one transaction, about.
const BATCH_BYTES_MAX: usize = 8 << 20;
/// How long a record of a slow input waits for others to share its commit.
const LINGER: Duration = Duration::from_millis(20);

/// Flags of `homing send`.
#[derive(Debug, Args)]
pub struct Flags {
    /// The topic the records go to
    #[arg(long)]
    topic: String,
    /// The field (JSON) or column (CSV) that is the key: records of one key keep their order
    #[arg(long, value_name = "F")]
    key_field: Option<String>,
    /// How to read; auto goes by the file's name, else by its first line
    #[arg(long, value_enum, default_value = "auto")]
    format: Format,
    /// What to do about a line that cannot be used
    #[arg(long, value_enum, default_value = "continue")]
    on_bad_line: OnBadLine,
    /// Skips the lines before this one; 1 is the first
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    from_line: u64,
    /// Records in one commit, at most
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    batch_rows: u32,
    /// The longest line, or CSV record; a longer one is a bad line
    #[arg(long, value_name = "BYTES", default_value_t = 16 << 20, value_parser = clap::value_parser!(u32).range(1..=64 << 20))]
    line_bytes_max: u32,
    /// The file; standard input without one, or for -
    file: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum OnBadLine {
    /// Report it and go on
    Continue,
    /// Stop there; what is before it is in the outbox
    Stop,
}

/// What came of it.
#[derive(Debug, Clone, Copy, Serialize)]
struct Report {
    /// Records in the outbox, durably.
    sent: u64,
    /// Lines that could not be used.
    bad: u64,
    /// Lines looked at.
    lines: u64,
    /// The line to go on from.
    next_line: u64,
}

/// What the reading thread hands over.
enum Read {
    Line(Taken),
    /// Something to tell that is no line's.
    Doubt(String),
    /// The end, after so many lines.
    End {
        lines: u64,
    },
    Failed(io::Error),
}

/// Reads, inserts, reports.
pub fn run(flags: &Flags, global: &Global) -> Ending {
    let settings = Settings::load(&global.sources())?;
    let topic = TopicName::parse(&flags.topic).map_err(|error| Failure::new(format!("--topic: {error}")))?;
    let outbox = settings.outbox()?;
    let file = flags.file.as_deref().filter(|path| *path != Path::new("-"));
    let (input, size): (Box<dyn BufRead + Send>, _) = match file {
        None => (Box::new(BufReader::with_capacity(1 << 16, io::stdin())), None),
        Some(path) => {
            let file = File::open(path).during(format_args!("open {}", path.display()))?;
            let size = file.metadata().ok().filter(std::fs::Metadata::is_file).map(|meta| meta.len());
            (Box::new(BufReader::with_capacity(1 << 16, file)), size)
        }
    };
    let plan = Plan {
        topic,
        key_field: flags.key_field.clone(),
        format: flags.format,
        from_line: flags.from_line,
        line_bytes_max: flags.line_bytes_max as usize,
    };
    let shutdown = signals::shutdown_on_signals()?;
    let (sender, input_lines) = sync_channel(AHEAD);
    let name = file.map(Path::to_owned);
    // Left behind at the end: it may wait for input that never comes.
    std::thread::Builder::new()
        .name("read-input".into())
        .spawn(move || read_ahead(input, plan, name.as_deref(), &sender))
        .during("start a thread to read")?;
    let progress = Progress::new(size);
    let report = Report { sent: 0, bad: 0, lines: 0, next_line: flags.from_line };
    let connection = outbox.connect()?;
    let mut sending = Sending { flags, outbox, connection, progress, report, told: 0 };
    let ended = sending.run(&input_lines, &shutdown).unwrap_or_else(Ended::Failed);
    sending.finish(ended, global.json)
}

fn read_ahead(input: Box<dyn BufRead + Send>, plan: Plan, name: Option<&Path>, out: &SyncSender<Read>) {
    let auto = plan.format == Format::Auto;
    let mut records = match Records::open(input, plan, name) {
        Ok(records) => records,
        Err(error) => {
            // The receiver is gone when the command has ended.
            let _ = out.send(Read::Failed(error));
            return;
        }
    };
    if auto {
        tracing::info!(format = ?records.format(), "decided how to read");
    }
    loop {
        let read = match records.next() {
            Ok(Some(taken)) => Read::Line(taken),
            Ok(None) => Read::End { lines: records.lines_read() },
            Err(error) => Read::Failed(error),
        };
        let is_last = !matches!(read, Read::Line(_));
        if let Some(doubt) = records.take_doubt()
            && out.send(Read::Doubt(doubt)).is_err()
        {
            return;
        }
        if out.send(read).is_err() || is_last {
            return;
        }
    }
}

/// Why the reading ended.
enum Ended {
    /// The input had so many lines.
    AtTheEnd(u64),
    AtABadLine(u64),
    Interrupted,
    Failed(Failure),
}

struct Sending<'a> {
    flags: &'a Flags,
    outbox: SqliteOutbox,
    connection: Connection,
    progress: Progress,
    report: Report,
    told: u64,
}

impl Sending<'_> {
    fn run(&mut self, input: &Receiver<Read>, shutdown: &Shutdown) -> Result<Ended, Failure> {
        let mut batch = Vec::new();
        loop {
            let gathered = self.gather(input, shutdown, &mut batch);
            let at_bad_line = self.commit(&mut batch)?;
            if let Some(ended) = at_bad_line.or(gathered) {
                return Ok(ended);
            }
        }
    }

    /// Takes lines until a batch is full, the input pauses, or it ends.
    fn gather(&self, input: &Receiver<Read>, shutdown: &Shutdown, batch: &mut Vec<Taken>) -> Option<Ended> {
        let (mut bytes, mut begun) = (0, None);
        while batch.len() < self.flags.batch_rows as usize && bytes < BATCH_BYTES_MAX {
            if shutdown.is_triggered() {
                return Some(Ended::Interrupted);
            }
            let longest =
                begun.map_or(Duration::from_millis(100), |at: Instant| LINGER.saturating_sub(at.elapsed()));
            match input.recv_timeout(longest) {
                Ok(Read::Line(taken)) => {
                    begun.get_or_insert_with(Instant::now);
                    if let Some(Ok(message)) = &taken.content {
                        bytes += message.payload.as_ref().map_or(0, Vec::len);
                    }
                    let is_stop = matches!(taken.content, Some(Err(_))) && self.stops_at_bad_lines();
                    batch.push(taken);
                    if is_stop {
                        return None;
                    }
                }
                Ok(Read::Doubt(doubt)) => self.progress.say(&format!("warning: {doubt}")),
                Ok(Read::End { lines }) => return Some(Ended::AtTheEnd(lines)),
                Ok(Read::Failed(error)) => {
                    return Some(Ended::Failed(Failure::new(format!("read the input: {error}"))));
                }
                Err(RecvTimeoutError::Disconnected) => {
                    return Some(Ended::Failed(Failure::new("the thread that reads the input panicked")));
                }
                Err(RecvTimeoutError::Timeout) if begun.is_some() => return None,
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
        None
    }

    fn stops_at_bad_lines(&self) -> bool {
        self.flags.on_bad_line == OnBadLine::Stop
    }

    /// One transaction; its records are counted once it is committed.
    fn commit(&mut self, batch: &mut Vec<Taken>) -> Result<Option<Ended>, Failure> {
        if batch.is_empty() {
            return Ok(None);
        }
        let (mut after, mut bytes, mut bad, mut ended) = (self.report, 0, Vec::new(), None);
        let tx = self
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .during("begin a transaction in the outbox")?;
        for taken in batch.drain(..) {
            after.lines += taken.next_line - taken.line;
            bytes = taken.bytes;
            let problem = match &taken.content {
                None => None,
                Some(Err(reason)) => Some(reason.clone()),
                Some(Ok(message)) => match Outbox::enqueue(&tx, message) {
                    Ok(_) => {
                        after.sent += 1;
                        None
                    }
                    Err(OutboxError::Message(error)) => Some(error.to_string()),
                    Err(error) => return Err(error.into()),
                },
            };
            if let Some(reason) = problem {
                after.bad += 1;
                bad.push((taken.line, reason));
                if self.flags.on_bad_line == OnBadLine::Stop {
                    after.next_line = taken.line;
                    ended = Some(Ended::AtABadLine(taken.line));
                    break;
                }
            }
            after.next_line = taken.next_line;
        }
        tx.commit().during("commit to the outbox")?;
        self.outbox.wake();
        self.report = after;
        bad.iter().for_each(|(line, reason)| self.tell(*line, reason));
        self.progress.at(bytes, |elapsed| {
            format!("put {}, bad {}, {}/s", after.sent, after.bad, rate(after.sent, elapsed))
        });
        Ok(ended)
    }

    fn tell(&mut self, line: u64, reason: &str) {
        self.told += 1;
        if self.told <= BAD_TOLD_MAX {
            let reason: String = reason.chars().take(300).collect();
            self.progress.say(&format!("line {line}: {reason}"));
        } else if self.told == BAD_TOLD_MAX + 1 {
            self.progress.say("further bad lines are only counted");
        }
    }

    fn finish(self, ended: Ended, json: bool) -> Ending {
        let elapsed = self.progress.end();
        let report = self.report;
        if json {
            stdout::json(&report)?;
        }
        let source = match self.flags.file.as_deref().filter(|path| *path != Path::new("-")) {
            Some(path) => path.display().to_string(),
            None => "standard input".to_owned(),
        };
        let (seconds, per_second) = (elapsed.as_secs_f64(), rate(report.sent, elapsed));
        say!(
            "put {} into the outbox for topic {} in {seconds:.1} s ({per_second} a second), bad lines {}",
            report.sent,
            self.flags.topic,
            report.bad
        );
        let go_on = format!("all before it is in the outbox; go on with --from-line {}", report.next_line);
        match ended {
            Ended::AtTheEnd(lines) if self.flags.from_line > lines + 1 => {
                let from = self.flags.from_line;
                Err(Failure::new(format!(
                    "--from-line {from}: {source} ends at line {lines}; nothing was put in"
                ))
                .help("is it the right input? a line that was told by `homing send` is at most one more"))
            }
            Ended::AtTheEnd(0) => {
                say!("{source} is empty");
                Ok(Outcome::Fine)
            }
            Ended::AtTheEnd(lines) => {
                let which = if report.bad > 0 { "all good lines" } else { "everything" };
                say!("{which} up to line {lines} of {source} is in the outbox");
                Ok(Outcome::of_findings(report.bad > 0))
            }
            Ended::AtABadLine(line) => {
                say!("stopped at the bad line {line} of {source}; {go_on}");
                Ok(Outcome::Findings)
            }
            Ended::Interrupted => {
                Err(Failure::new(format!("interrupted before line {} of {source}", report.next_line))
                    .help(go_on))
            }
            Ended::Failed(failure) if report.next_line > self.flags.from_line => Err(failure.help(go_on)),
            Ended::Failed(failure) => Err(failure),
        }
    }
}
