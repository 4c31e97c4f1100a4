//! Logs go to stderr; what is shown follows `-v` or HOMING_LOG.

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
    let by_flag = || EnvFilter::new(format!("warn,homing={level},homing_broker={level},homing_cli={level}"));
    let filter = match std::env::var("HOMING_LOG") {
        Ok(text) if !text.is_empty() => EnvFilter::try_new(&text).unwrap_or_else(|error| {
            eprintln!("warning: HOMING_LOG={text:?} is no filter ({error}); using the default");
            by_flag()
        }),
        _ => by_flag(),
    };
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none())
        .with_target(verbose > 0)
        .init();
}
