//! `homing run`: the relay and, when embedded, the broker; until told to stop, then drains.

use super::status::StatusJson;
use crate::cli::Global;
use crate::config::Settings;
use crate::endpoint::Endpoint;
use crate::exit::{During, Ending, Failure, Outcome};
use crate::{signals, stdout};
use clap::Args;
use homing::relay::RelayStatus;
use homing::{Relay, RelaySummary, Shutdown, SqliteOutbox};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Pause between two looks at the outbox.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Flags of `homing run`.
#[derive(Debug, Args)]
pub struct Flags {
    /// Ends once the outbox is empty
    #[arg(long)]
    until_drained: bool,
    /// Pause between two status lines of --json
    #[arg(long, value_name = "MS", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(10..))]
    every_ms: u64,
}

/// Runs the relay on a thread of its own and watches it.
pub fn run(flags: &Flags, global: &Global) -> Ending {
    let settings = Settings::load(&global.sources())?;
    let (outbox, options) = (settings.outbox()?, settings.relay()?);
    let shutdown = signals::shutdown_on_signals()?;
    let endpoint = Endpoint::open(&settings)?;
    let relay = Relay::new(outbox.clone(), endpoint.kafka.clone(), options)?;
    let status = relay.status();
    let (done, stop) = (Shutdown::new(), shutdown.clone());
    let relay_done = done.clone();
    tracing::info!(stream = %outbox.stream(), outbox = %outbox.path().display(), "relaying");
    let thread = std::thread::Builder::new()
        .name("relay".into())
        .spawn(move || {
            let ended = relay.run(&stop);
            relay_done.trigger();
            ended
        })
        .during("start the relay's thread")?;
    let watch = Watch { flags, json: global.json, outbox, status };
    let watched = watch.run(&done, &shutdown);
    // A failed watch stops the relay too: nobody would see what it does.
    shutdown.trigger();
    let ended = thread.join().map_err(|_| Failure::new("the relay panicked; its message is above"))?;
    watched?;
    let summary = ended.map_err(|error| {
        Failure::new(format!("the relay stopped: {error}"))
            .help("nothing is lost: unsent rows stay in the outbox")
    })?;
    watch.end(&summary)?;
    // Last: the relay drains into it.
    drop(endpoint);
    Ok(Outcome::Fine)
}

struct Watch<'a> {
    flags: &'a Flags,
    json: bool,
    outbox: SqliteOutbox,
    status: Arc<RelayStatus>,
}

impl Watch<'_> {
    /// Until the relay has ended; tells its trouble, and status lines with `--json`.
    fn run(&self, done: &Shutdown, shutdown: &Shutdown) -> Result<(), Failure> {
        let mut trouble: Option<String> = None;
        let mut line_due = Instant::now();
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
            if self.flags.until_drained && !shutdown.is_triggered() {
                let stats = self.outbox.stats()?;
                if stats.unclaimed + stats.unsettled + stats.repairs_wanted == 0 {
                    shutdown.trigger();
                }
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
        stdout::json(&json!({"event": event, "relay": summary_json(summary), "outbox": outbox}))
    }
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
