//! SIGTERM, SIGINT and SIGHUP ask for a drain; a second SIGTERM or SIGINT ends at once.
//!
//! The second one kills the commands that `consume --exec` runs and is then left to the
//! kernel: whatever another thread of ours waits for, the process ends. SIGHUP comes several times when a terminal closes, so it never
//! cuts a drain short; where it was ignored from the start (`nohup`), it stays so.

use crate::exit::{During, Failure};
use homing::Shutdown;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// `timeout` and some terminals send one request twice; both within this time count as one.
const ONE_REQUEST: Duration = Duration::from_millis(50);

/// Triggers the returned signal at SIGTERM, SIGINT or SIGHUP.
///
/// # Errors
/// [`Failure`] when the handlers cannot be installed.
pub fn shutdown_on_signals() -> Result<Shutdown, Failure> {
    let shutdown = Shutdown::new();
    let triggered = shutdown.clone();
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().during("listen for signals")?;
    let (mut terminate, mut interrupt, mut hang_up) = {
        let _context = runtime.enter();
        (
            signal(SignalKind::terminate()).during("listen for SIGTERM")?,
            signal(SignalKind::interrupt()).during("listen for SIGINT")?,
            if kernel::is_ignored(SignalKind::hangup()) {
                None
            } else {
                Some(signal(SignalKind::hangup()).during("listen for SIGHUP")?)
            },
        )
    };
    let wait = move || {
        runtime.block_on(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
                () = received(hang_up.as_mut()) => {}
            }
            triggered.trigger();
            tracing::info!("finishing what is under way; a second signal ends at once");
            tokio::time::sleep(ONE_REQUEST).await;
            drain_repeats(&mut terminate, &mut interrupt).await;
            let second = tokio::select! {
                _ = terminate.recv() => SignalKind::terminate(),
                _ = interrupt.recv() => SignalKind::interrupt(),
            };
            crate::process_group::kill_all();
            kernel::end_at_once(second);
        });
    };
    std::thread::Builder::new().name("signals".into()).spawn(wait).during("start a thread for signals")?;
    Ok(shutdown)
}

/// Takes what came within the time in which repeats count as one request.
async fn drain_repeats(terminate: &mut Signal, interrupt: &mut Signal) {
    for signal in [terminate, interrupt] {
        drop(tokio::time::timeout(Duration::ZERO, signal.recv()).await);
    }
}

async fn received(signal: Option<&mut Signal>) {
    match signal {
        Some(signal) => drop(signal.recv().await),
        None => std::future::pending().await,
    }
}

/// What the kernel does about a signal.
#[allow(unsafe_code)]
mod kernel {
    use tokio::signal::unix::SignalKind;

    /// Whether it is ignored, as `nohup` asks for.
    pub fn is_ignored(signal: SignalKind) -> bool {
        let mut now = std::mem::MaybeUninit::<libc::sigaction>::zeroed();
        // SAFETY: a null action changes nothing; the present one is written to `now`.
        unsafe {
            libc::sigaction(signal.as_raw_value(), std::ptr::null(), now.as_mut_ptr()) == 0
                && now.assume_init().sa_sigaction == libc::SIG_IGN
        }
    }

    /// Ends the process by the signal's default action, whatever its other threads wait for.
    pub fn end_at_once(signal: SignalKind) {
        // SAFETY: the default action is always allowed for these signals, and raising takes no memory.
        unsafe {
            libc::signal(signal.as_raw_value(), libc::SIG_DFL);
            libc::kill(libc::getpid(), signal.as_raw_value());
        }
    }
}
