//! Ends the commands that still run when their records have to be given up.
//!
//! | when | a running command |
//! |---|---|
//! | told to stop | may finish for three quarters of the drain time, then SIGTERM, then SIGKILL, all before the consumer leaves its group |
//! | its partition was taken away and the drain time is over | SIGTERM, after a second SIGKILL |
//! | a second signal | SIGKILL |

use crate::exit::{During, Failure};
use crate::process_group::{Ask, GroupId, ask};
use homing::Shutdown;
use homing::consumer::Context;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How often the running commands are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// From SIGTERM to SIGKILL, at most.
const TERM_MAX: Duration = Duration::from_secs(1);
/// How long a killed command may take to be gone.
const GONE_WITHIN: Duration = Duration::from_secs(5);

/// Why a command was ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// The whole consumer stops.
    Stopping,
    /// Its record is another member's now.
    GivenUp,
}

struct Running {
    id: GroupId,
    context: Context,
    told: Option<(Cause, Instant)>,
    killed: bool,
}

/// The commands that run, shared by those who run them and the one who ends them.
#[derive(Clone, Default)]
pub struct Commands {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    /// Guards the list; held for a look.
    running: Mutex<Vec<Running>>,
    ended: AtomicU64,
}

impl Commands {
    fn running(&self) -> MutexGuard<'_, Vec<Running>> {
        self.inner.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a command that has begun.
    pub fn begun(&self, id: GroupId, context: &Context) {
        let context = context.clone();
        self.running().push(Running { id, context, told: None, killed: false });
    }

    /// Notes that it is gone; says why it was told to end, if it was.
    pub fn gone(&self, id: GroupId) -> Option<Cause> {
        let mut running = self.running();
        let at = running.iter().position(|running| running.id == id)?;
        running.swap_remove(at).told.map(|(cause, _)| cause)
    }

    /// Commands that were told to end.
    pub fn ended(&self) -> u64 {
        self.inner.ended.load(Ordering::Relaxed)
    }

    fn look(&self, stopping: bool, patience: Duration) {
        for running in self.running().iter_mut() {
            match running.told {
                None => {
                    let cause = match (stopping, running.context.is_cancelled()) {
                        (true, _) => Cause::Stopping,
                        (false, true) => Cause::GivenUp,
                        (false, false) => continue,
                    };
                    running.told = Some((cause, Instant::now()));
                    self.inner.ended.fetch_add(1, Ordering::Relaxed);
                    ask(running.id, Ask::Term);
                }
                Some((_, at)) if !running.killed && at.elapsed() >= patience => {
                    running.killed = true;
                    ask(running.id, Ask::Kill);
                }
                Some(_) => {}
            }
        }
    }
}

/// The thread that ends commands.
pub struct Ending {
    commands: Commands,
    over: Shutdown,
    thread: JoinHandle<()>,
}

impl Ending {
    /// Starts watching; after `shutdown`, commands have a part of `drain_timeout` to finish.
    pub fn start(commands: &Commands, shutdown: &Shutdown, drain_timeout: Duration) -> Result<Self, Failure> {
        let (commands, shutdown, over) = (commands.clone(), shutdown.clone(), Shutdown::new());
        let (watched, until) = (commands.clone(), over.clone());
        let patience = TERM_MAX.min(drain_timeout / 8);
        let watch = move || {
            let mut since = None;
            while !until.wait(LOOK_EVERY) {
                if since.is_none() && shutdown.is_triggered() {
                    since = Some(Instant::now());
                }
                let stopping = since.is_some_and(|since| since.elapsed() >= drain_timeout / 4 * 3);
                watched.look(stopping, patience);
            }
        };
        let thread =
            std::thread::Builder::new().name("ends-commands".into()).spawn(watch).during("start a thread")?;
        Ok(Self { commands, over, thread })
    }

    /// Waits, for a moment, until no command runs; says how many still do.
    pub fn finish(self) -> usize {
        let begun = Instant::now();
        let left = loop {
            let left = self.commands.running().len();
            if left == 0 || begun.elapsed() > GONE_WITHIN {
                break left;
            }
            std::thread::sleep(LOOK_EVERY);
        };
        self.over.trigger();
        if self.thread.join().is_err() {
            tracing::error!("the thread that ends commands panicked");
        }
        left
    }
}
