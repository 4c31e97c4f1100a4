//! SIGTERM and SIGINT ask for a drain; a second one ends at once.

use crate::exit::{During, Failure};
use homing::Shutdown;
use tokio::signal::unix::{SignalKind, signal};

/// Triggers the returned signal at SIGTERM or SIGINT.
///
/// # Errors
/// [`Failure`] when the handlers cannot be installed.
pub fn shutdown_on_signals() -> Result<Shutdown, Failure> {
    let shutdown = Shutdown::new();
    let triggered = shutdown.clone();
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().during("listen for signals")?;
    let (mut terminate, mut interrupt) = {
        let _context = runtime.enter();
        (
            signal(SignalKind::terminate()).during("listen for SIGTERM")?,
            signal(SignalKind::interrupt()).during("listen for SIGINT")?,
        )
    };
    let wait = move || {
        runtime.block_on(async move {
            let mut told_to_stop = false;
            loop {
                let code = tokio::select! {
                    _ = terminate.recv() => 143,
                    _ = interrupt.recv() => 130,
                };
                if told_to_stop {
                    crate::process_group::kill_all();
                    std::process::exit(code);
                }
                told_to_stop = true;
                tracing::info!("finishing what is under way; a second signal ends at once");
                triggered.trigger();
            }
        });
    };
    std::thread::Builder::new().name("signals".into()).spawn(wait).during("start a thread for signals")?;
    Ok(shutdown)
}
