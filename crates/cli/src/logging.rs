//! Logs go to stderr, by way of a queue; what is shown follows `-v` or HOMING_LOG.

use crate::talk;
use std::io::IsTerminal;
use tracing_subscriber::EnvFilter;

/// Starts logging; a service tells its lifecycle even without `-v`.
pub fn start(verbose: u8, is_service: bool) {
    let level = match (verbose, is_service) {
        (0, false) => "warn",
        (0, true) | (1, false) => "info",
        (1, true) | (2, _) => "debug",
        _ => "trace",
    };
    // The relay says in one line why it waits; librdkafka says the same for each of its connections.
    let client = if is_service && verbose == 0 { "error" } else { level };
    let by_flag = || {
        EnvFilter::new(format!(
            "warn,homing={level},homing::librdkafka={client},homing_broker={level},homing_cli={level}"
        ))
    };
    let filter = match std::env::var("HOMING_LOG") {
        Ok(text) if !text.is_empty() => EnvFilter::try_new(&text).unwrap_or_else(|error| {
            say!("warning: HOMING_LOG={text:?} is no filter ({error}); using the default");
            by_flag()
        }),
        _ => by_flag(),
    };
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(|| talk::LogLine)
        .with_ansi(std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none())
        .with_target(verbose > 0)
        .init();
    say_panics();
}

/// The usual way to report a panic writes to stderr itself and may wait there for ever.
fn say_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let thread = std::thread::current();
        say!("thread {:?}: {panic}", thread.name().unwrap_or("without a name"));
        let trace = std::backtrace::Backtrace::capture();
        if trace.status() == std::backtrace::BacktraceStatus::Captured {
            talk::say(trace);
        }
    }));
}
