//! `homing run`: relay, auditor and, when embedded, the broker; until told to stop, then drains.

mod clock;
mod drained;
mod outbox_file;
mod set_aside;
mod watch;

use crate::cli::Global;
use crate::config::Settings;
use crate::endpoint::Endpoint;
use crate::exit::{During, Ending, Failure, Outcome};
use crate::signals;
use crate::stdout::StatusLines;
use clap::Args;
use homing::audit::AuditStatus;
use homing::{AuditError, AuditReport, Auditor, Relay, RelayError, Shutdown};
use std::sync::Arc;
use std::thread::JoinHandle;
use watch::Watch;

/// Flags of `homing run`.
#[derive(Debug, Args)]
pub struct Flags {
    /// Ends once the outbox is empty and what it held was read back; exit code 1 when rows were set
    /// aside or are missing, 2 when not all could be read back
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
    let lines = global.json.then(StatusLines::start).transpose()?;
    let endpoint = Endpoint::open(&settings)?;
    let relay = Relay::new(outbox.clone(), endpoint.kafka.clone(), options)?;
    let auditor = audit_options
        .as_ref()
        .map(|options| Auditor::new(outbox.clone(), endpoint.kafka.clone(), options.clone()))
        .transpose()?;
    tracing::info!(stream = %outbox.stream(), outbox = %outbox.path().display(), "relaying");
    let (status, done) = (relay.status(), Shutdown::new());
    let mut watch = Watch::new(flags, lines, outbox, status)?;
    let relaying = start("relay", &done, {
        let shutdown = shutdown.clone();
        move || relay.run(&shutdown)
    })?;
    let auditing = auditor.map(|auditor| Auditing::start(auditor, &shutdown)).transpose()?;
    watch.audit = auditing.as_ref().zip(audit_options).map(|(auditing, options)| auditing.watched(&options));
    let watched = watch.run(&done, &shutdown);
    // A failed watch stops the others too: nobody would see what they do.
    shutdown.trigger();
    let relayed = relaying.join().map_err(|_| Failure::new("the relay panicked; its message is above"))?;
    let audited = auditing.map_or(Outcome::Fine, Auditing::end);
    let watched = watched?;
    let summary = relayed.map_err(|error| {
        let failure = Failure::new(format!("the relay stopped: {error}"));
        match error {
            // What is wrong with the outbox itself, the error says.
            RelayError::Outbox(_) => failure,
            _ => failure.help("unsent rows stay in the outbox, and the next `homing run` goes on with them"),
        }
    })?;
    let ended = watch.end(&summary);
    // Last: the relay drained into it.
    drop(endpoint);
    Ok(audited.worse(ended).worse(watched))
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
    done: Shutdown,
    thread: JoinHandle<Result<AuditReport, AuditError>>,
}

impl Auditing {
    fn start(auditor: Auditor, shutdown: &Shutdown) -> Result<Self, Failure> {
        let (status, shutdown, done) = (auditor.status(), shutdown.clone(), Shutdown::new());
        let work = move || {
            let ended = auditor.run(&shutdown);
            if let Err(error) = &ended {
                tracing::error!(%error, "the audit stopped; relaying goes on, unverified");
            }
            ended
        };
        Ok(Self { status, thread: start("auditor", &done, work)?, done })
    }

    fn watched(&self, options: &homing::audit::AuditOptions) -> drained::WatchedAudit {
        drained::WatchedAudit::new(Arc::clone(&self.status), self.done.clone(), options)
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
