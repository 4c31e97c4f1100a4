//! `homing run`: relay, auditor and, when embedded, the broker; until told to stop, then drains.

use super::status::StatusJson;
use crate::cli::Global;
use crate::config::Settings;
use crate::endpoint::Endpoint;
use crate::exit::{During, Ending, Failure, Outcome};
use crate::{signals, stdout};
use clap::Args;
use homing::audit::AuditStatus;
use homing::relay::RelayStatus;
use homing::{AuditError, AuditReport, Auditor, OutboxStats, Relay, RelaySummary, Shutdown, SqliteOutbox};
use serde_json::{Value, json};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Pause between two looks at relay and outbox.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How long `--until-drained` waits for the auditor once all is sent.
const AUDIT_PATIENCE: Duration = Duration::from_secs(5);

/// Flags of `homing run`.
#[derive(Debug, Args)]
pub struct Flags {
    /// Ends once the outbox is empty and what it held was read back
    #[arg(long)]
    until_drained: bool,
    /// Pause between two status lines of --json
    #[arg(long, value_name = "MS", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(10..))]
    every_ms: u64,
}

/// Runs relay and auditor on threads of their own and watches them.
pub fn run(flags: &Flags, global: &Global) -> Ending {
    let settings = Settings::load(&global.sources())?;
    let (outbox, options) = (settings.outbox()?, settings.relay()?);
    let audit_options = settings.is_auditing().then(|| settings.audit()).transpose()?;
    let shutdown = signals::shutdown_on_signals()?;
    let endpoint = Endpoint::open(&settings)?;
    let relay = Relay::new(outbox.clone(), endpoint.kafka.clone(), options)?;
    let auditor = audit_options
        .map(|options| Auditor::new(outbox.clone(), endpoint.kafka.clone(), options))
        .transpose()?;
    tracing::info!(stream = %outbox.stream(), outbox = %outbox.path().display(), "relaying");
    let (status, done) = (relay.status(), Shutdown::new());
    let relaying = start("relay", &done, {
        let shutdown = shutdown.clone();
        move || relay.run(&shutdown)
    })?;
    let auditing = auditor.map(|auditor| Auditing::start(auditor, &shutdown)).transpose()?;
    let audit = auditing.as_ref().map(|auditing| Arc::clone(&auditing.status));
    let watch = Watch { flags, json: global.json, outbox, status, audit };
    let watched = watch.run(&done, &shutdown);
    // A failed watch stops the others too: nobody would see what they do.
    shutdown.trigger();
    let relayed = relaying.join().map_err(|_| Failure::new("the relay panicked; its message is above"))?;
    let audited = auditing.map_or(Outcome::Fine, Auditing::end);
    watched?;
    let summary = relayed.map_err(|error| {
        Failure::new(format!("the relay stopped: {error}"))
            .help("nothing is lost: unsent rows stay in the outbox")
    })?;
    watch.end(&summary)?;
    // Last: the relay drained into it.
    drop(endpoint);
    Ok(audited)
}

fn start<T: Send + 'static>(
    name: &str,
    done: &Shutdown,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<T>, Failure> {
    let done = done.clone();
    std::thread::Builder::new()
        .name(name.into())
        .spawn(move || {
            let ended = work();
            done.trigger();
            ended
        })
        .during(format_args!("start the {name}'s thread"))
}

/// The auditor at work: a leaf, so its end ends nothing else.
struct Auditing {
    status: Arc<AuditStatus>,
    thread: JoinHandle<Result<AuditReport, AuditError>>,
}

impl Auditing {
    fn start(auditor: Auditor, shutdown: &Shutdown) -> Result<Self, Failure> {
        let (status, shutdown) = (auditor.status(), shutdown.clone());
        let work = move || {
            let ended = auditor.run(&shutdown);
            if let Err(error) = &ended {
                tracing::error!(%error, "the audit stopped; relaying goes on, unverified");
            }
            ended
        };
        Ok(Self { status, thread: start("auditor", &Shutdown::new(), work)? })
    }

    fn end(self) -> Outcome {
        match self.thread.join() {
            Ok(Ok(report)) => {
                let missing: u64 = report.confirmed().map(homing::audit::GapReport::seqs).sum();
                if missing > 0 {
                    tracing::error!(missing, "messages are missing in Kafka; see `homing audit`");
                }
                Outcome::of_findings(missing > 0)
            }
            Ok(Err(_)) => Outcome::Findings,
            Err(_) => {
                tracing::error!("the auditor panicked; its message is above");
                Outcome::Findings
            }
        }
    }
}

struct Watch<'a> {
    flags: &'a Flags,
    json: bool,
    outbox: SqliteOutbox,
    status: Arc<RelayStatus>,
    audit: Option<Arc<AuditStatus>>,
}

impl Watch<'_> {
    /// Until the relay has ended; tells its trouble, and status lines with `--json`.
    fn run(&self, done: &Shutdown, shutdown: &Shutdown) -> Result<(), Failure> {
        let mut trouble: Option<String> = None;
        let mut line_due = Instant::now();
        let mut drained = Drained::default();
        while !done.wait(LOOK_EVERY.min(Duration::from_millis(self.flags.every_ms))) {
            let now = self.status.trouble().map(|trouble| trouble.what);
            if now != trouble {
                match &now {
                    Some(what) => tracing::warn!("the relay waits: {what}"),
                    None => tracing::info!("the relay goes on"),
                }
                trouble = now;
            }
            if self.json && Instant::now() >= line_due {
                line_due = Instant::now() + Duration::from_millis(self.flags.every_ms);
                self.print("status", &self.status.summary())?;
            }
            if self.flags.until_drained && !shutdown.is_triggered() && drained.look(self)? {
                shutdown.trigger();
            }
        }
        Ok(())
    }

    fn end(&self, summary: &RelaySummary) -> Result<(), Failure> {
        if self.json {
            self.print("end", summary)?;
        }
        let left = self.outbox.stats()?;
        let waiting = left.unclaimed + left.unsettled;
        tracing::info!(settled = summary.settled, resent = summary.resent, waiting, "stopped");
        Ok(())
    }

    fn print(&self, event: &str, summary: &RelaySummary) -> Result<(), Failure> {
        let outbox = serde_json::to_value(StatusJson::of(&self.outbox.stats()?))?;
        let audit = self.audit.as_ref().and_then(|audit| audit.report()).map(|report| audit_json(&report));
        stdout::json(
            &json!({"event": event, "relay": summary_json(summary), "audit": audit, "outbox": outbox}),
        )
    }
}

/// Whether everything is sent and, if there is an auditor, read back.
#[derive(Default)]
struct Drained {
    /// The relay's counters at the last look: nothing is counted again while it is busy.
    seen: Option<RelaySummary>,
    empty_since: Option<Instant>,
}

impl Drained {
    fn look(&mut self, watch: &Watch<'_>) -> Result<bool, Failure> {
        let now = watch.status.summary();
        if self.seen != Some(now) {
            self.seen = Some(now);
            self.empty_since = None;
            return Ok(false);
        }
        let stats = watch.outbox.stats()?;
        if stats.unclaimed + stats.unsettled + stats.repairs_wanted > 0 {
            self.empty_since = None;
            return Ok(false);
        }
        let since = *self.empty_since.get_or_insert_with(Instant::now);
        Ok(watch.audit.is_none() || is_verified(&stats) || since.elapsed() > AUDIT_PATIENCE)
    }
}

fn is_verified(stats: &OutboxStats) -> bool {
    stats.lanes.iter().all(|lane| lane.verified >= lane.settled)
}

fn audit_json(report: &AuditReport) -> Value {
    let missing: u64 = report.confirmed().map(homing::audit::GapReport::seqs).sum();
    json!({"totals": report.totals, "gaps": report.gaps.len(), "missing": missing})
}

fn summary_json(summary: &RelaySummary) -> Value {
    json!({
        "claimed": summary.claimed,
        "sent": summary.sent,
        "acked": summary.acked,
        "settled": summary.settled,
        "resent": summary.resent,
        "skipped_by_tail_read": summary.skipped_by_tail_read,
        "rejected": summary.rejected,
        "voided": summary.voided,
        "replayed": summary.replayed,
        "pruned": summary.pruned,
        "batches": summary.batches,
        "fenced": summary.fenced,
        "recoveries": summary.recoveries,
    })
}
