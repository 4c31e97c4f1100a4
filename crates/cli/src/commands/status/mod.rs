//! `homing status`: what is on its way, and why it waits. Asks the outbox and the system, never Kafka.

mod surroundings;

use crate::cli::Global;
use crate::config::Settings;
use crate::exit::{Ending, Outcome};
use crate::stdout;
use clap::Args;
use homing::OutboxStats;
use homing::outbox::{LaneStats, RelayStats, TopicWarning};
use serde::Serialize;
use std::fmt::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};
use surroundings::Surroundings;

/// Flags of `homing status`.
#[derive(Debug, Args)]
pub struct Flags {
    /// Shows every lane's numbers too
    #[arg(long)]
    lanes: bool,
}

/// What `homing status --json` prints.
#[derive(Debug, Serialize)]
struct Report<'a> {
    #[serde(flatten)]
    outbox: StatusJson,
    /// What keeps the database from being written.
    database: Option<&'a str>,
    /// Directories whose disks are full.
    full: &'a [String],
    broker: Option<&'a surroundings::BrokerJson>,
}

/// The outbox's numbers as JSON.
#[derive(Debug, Serialize)]
pub struct StatusJson {
    stream: String,
    cluster_id: Option<String>,
    rows: u64,
    unclaimed: u64,
    unsettled: u64,
    settled: u64,
    oldest_unsettled_ms: Option<u64>,
    dead_letters: u64,
    voided: u64,
    repairs_wanted: u64,
    waits_because: Option<String>,
    /// The finding's code of `waits_because`.
    waits_code: Option<String>,
    waits_since_ms: Option<i64>,
    warnings: Vec<WarningJson>,
    relay: Option<RelayJson>,
    lanes: Vec<LaneJson>,
}

#[derive(Debug, Serialize)]
struct RelayJson {
    owner: String,
    pid: u32,
    alive: bool,
    token: u64,
    lease_until_ms: i64,
    trouble: Option<String>,
    trouble_since_ms: Option<i64>,
}

#[derive(Debug, Serialize)]
struct WarningJson {
    topic: String,
    code: String,
    what: String,
    since_ms: i64,
}

#[derive(Debug, Serialize)]
struct LaneJson {
    topic: String,
    epoch: u32,
    open: bool,
    partition: i32,
    next_seq: u64,
    settled: u64,
    verified: u64,
    next_offset: i64,
}

/// Prints the status; exit 1 when something waits that will not go on by itself.
pub fn run(flags: &Flags, global: &Global) -> Ending {
    let settings = Settings::load(&global.sources())?;
    let outbox = settings.outbox()?;
    let stats = outbox.stats()?;
    let around = Surroundings::look(&settings, &outbox)?;
    let because = waits_because(&stats);
    let is_finding = because.is_some() || stats.dead_letters > 0 || around.is_finding();
    if global.json {
        let outbox = StatusJson::of(&stats);
        let (database, full, broker) = (around.database.as_deref(), &around.full[..], around.broker.as_ref());
        stdout::json(&Report { outbox, database, full, broker })?;
    } else {
        stdout::text(&describe(&stats, because.as_deref(), flags.lanes, &around))?;
    }
    Ok(Outcome::of_findings(is_finding))
}

impl StatusJson {
    /// The numbers of one moment.
    pub fn of(stats: &OutboxStats) -> Self {
        let because = waits_because(stats);
        let waiting = stats.relay.as_ref().filter(|relay| relay.alive && because.is_some());
        Self {
            waits_code: waiting.and_then(RelayStats::trouble_code).map(str::to_owned),
            waits_since_ms: waiting.and_then(|relay| relay.trouble_since_ms),
            warnings: stats.warnings.iter().map(WarningJson::of).collect(),
            stream: stats.stream.to_string(),
            cluster_id: stats.cluster_id.clone(),
            rows: stats.rows,
            unclaimed: stats.unclaimed,
            unsettled: stats.unsettled,
            settled: stats.settled,
            oldest_unsettled_ms: stats.oldest_unsettled_ms,
            dead_letters: stats.dead_letters,
            voided: stats.voided,
            repairs_wanted: stats.repairs_wanted,
            waits_because: because,
            relay: stats.relay.as_ref().map(RelayJson::of),
            lanes: stats.lanes.iter().map(LaneJson::of).collect(),
        }
    }
}

impl RelayJson {
    fn of(relay: &RelayStats) -> Self {
        Self {
            owner: relay.owner.clone(),
            pid: relay.pid,
            alive: relay.alive,
            token: relay.token,
            lease_until_ms: relay.lease_until_ms,
            trouble: relay.trouble.clone(),
            trouble_since_ms: relay.trouble_since_ms,
        }
    }
}

impl WarningJson {
    fn of(warning: &TopicWarning) -> Self {
        Self {
            topic: warning.topic.clone(),
            code: warning.code.clone(),
            what: warning.what.clone(),
            since_ms: warning.since_ms,
        }
    }
}

impl LaneJson {
    fn of(lane: &LaneStats) -> Self {
        Self {
            topic: lane.topic.to_string(),
            epoch: lane.epoch.0,
            open: lane.open,
            partition: lane.partition.0,
            next_seq: lane.next_seq.0,
            settled: lane.settled,
            verified: lane.verified,
            next_offset: lane.next_offset.0,
        }
    }
}

/// Why messages wait, when they do and it is not just the moment.
fn waits_because(stats: &OutboxStats) -> Option<String> {
    let waiting = stats.unclaimed + stats.unsettled;
    match &stats.relay {
        _ if waiting == 0 && stats.repairs_wanted == 0 => None,
        None => Some("no relay has ever run; start one with `homing run`".into()),
        Some(relay) if !relay.alive => {
            let said = relay.trouble.as_deref().map(|words| format!("; its last words: {words}"));
            Some(format!("no relay is running{}; start one with `homing run`", said.unwrap_or_default()))
        }
        Some(relay) => relay.trouble.clone(),
    }
}

fn describe(stats: &OutboxStats, because: Option<&str>, lanes: bool, around: &Surroundings) -> String {
    let mut out = String::new();
    let mut line = |name: &str, text: String| {
        let _ = writeln!(out, "{name:<14}{text}"); // writing to a String cannot fail
    };
    let cluster = stats.cluster_id.as_ref().map(|id| format!(" → cluster {id}")).unwrap_or_default();
    line("stream", format!("{}{cluster}", stats.stream));
    let age =
        stats.oldest_unsettled_ms.map(|ms| format!(", the oldest for {}", span(ms))).unwrap_or_default();
    let sending =
        if stats.unsettled > 0 { format!(" ({} being sent)", stats.unsettled) } else { String::new() };
    line("waiting", format!("{}{sending}{age}", stats.unclaimed + stats.unsettled));
    if let Some(because) = because {
        let since = stats.relay.as_ref().filter(|relay| relay.alive).and_then(|relay| relay.trouble_since_ms);
        let since = since.map(|ms| format!(" (for {})", span(now_ms().saturating_sub(ms.max(0) as u64))));
        line("because", format!("{because}{}", since.unwrap_or_default()));
    }
    if let Some(what) = &around.database {
        line("database", what.clone());
    }
    for what in &around.full {
        line("disk full", what.clone());
    }
    let given: u64 = stats.lanes.iter().map(|lane| lane.settled).sum();
    let verified: u64 = stats.lanes.iter().map(|lane| lane.verified).sum();
    line("sent", format!("{given}, of these {verified} read back; rows kept: {}", stats.settled));
    let relay = match &stats.relay {
        None => "none has ever run".to_owned(),
        Some(relay) if relay.alive => format!("running, process {}", relay.pid),
        Some(relay) => format!("not running; the last was process {}", relay.pid),
    };
    line("relay", relay);
    if let Some(broker) = &around.broker {
        let (address, pid) = (&broker.address, broker.pid);
        let served = if broker.alive { format!("served by process {pid}") } else { "not running".to_owned() };
        line("broker", format!("{address}, {served}"));
    }
    if stats.dead_letters > 0 {
        line("dead letters", format!("rows set aside: {}; see `homing dlq list`", stats.dead_letters));
    }
    if stats.voided > 0 {
        line("voided", format!("{} numbers of dead letters", stats.voided));
    }
    if stats.repairs_wanted > 0 {
        line("repairs", format!("{} wait for the relay", stats.repairs_wanted));
    }
    for warning in &stats.warnings {
        line("warning", format!("{}: {}", warning.code, warning.what));
    }
    for lane in stats.lanes.iter().filter(|_| lanes) {
        let closed = if lane.open { "" } else { ", closed" };
        let place = format!("{}[{}] epoch {}{closed}", lane.topic, lane.partition.0, lane.epoch.0);
        let given = lane.next_seq.0.saturating_sub(1);
        line("lane", format!("{place}: given {given}, settled {}, verified {}", lane.settled, lane.verified));
    }
    out
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// A span of time in the unit people use.
fn span(ms: u64) -> String {
    match ms / 1000 {
        0 => format!("{ms} ms"),
        s @ 1..=119 => format!("{s} s"),
        s @ 120..=7199 => format!("{} min", s / 60),
        s @ 7200..=172_799 => format!("{} h", s / 3600),
        s => format!("{} days", s / 86_400),
    }
}
