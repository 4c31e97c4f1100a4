//! Child processes that can be killed without mercy and never outlive their parent.
#![allow(unsafe_code)]

use std::ffi::OsStr;
use std::io::{self, BufRead, BufReader};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::{Mutex, OnceLock, PoisonError, mpsc};
use std::time::{Duration, Instant};

/// How a worker ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// By SIGKILL, its own or ours.
    Killed,
    /// By itself, with this exit code.
    Exited(i32),
}

/// A child process; killed when dropped and when its parent dies.
#[derive(Debug)]
pub struct Worker {
    child: Child,
    stdout: BufReader<ChildStdout>,
}

impl Worker {
    /// Starts `program` with `args`; its standard error goes to ours.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn spawn<A: AsRef<OsStr>>(program: &str, args: impl IntoIterator<Item = A>) -> io::Result<Self> {
        let mut command = Command::new(program);
        command.args(args).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = spawn_bound(command)?;
        let stdout = BufReader::new(child.stdout.take().expect("standard output is piped"));
        Ok(Self { child, stdout })
    }

    /// The process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for the worker's next line of output; `None` at its end.
    ///
    /// # Errors
    /// When its output cannot be read.
    pub fn line(&mut self) -> io::Result<Option<String>> {
        let mut line = String::new();
        let read = self.stdout.read_line(&mut line)?;
        Ok((read > 0).then(|| line.trim_end().to_owned()))
    }

    /// Sends a signal, e.g. `libc::SIGSTOP`.
    pub fn signal(&self, signal: i32) {
        send_signal(&self.child, signal);
    }

    /// Kills with SIGKILL and waits for the end.
    ///
    /// # Errors
    /// When the process cannot be waited for.
    pub fn kill(mut self) -> io::Result<Ended> {
        self.child.kill()?;
        Ok(ended(self.child.wait()?))
    }

    /// Waits until the worker has ended by itself, or `patience` is over (`None`).
    ///
    /// # Errors
    /// When the process cannot be waited for.
    pub fn wait(&mut self, patience: Duration) -> io::Result<Option<Ended>> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(Some(ended(status)));
            }
            if Instant::now() > deadline {
                return Ok(None);
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // Already ended is the usual case here; there is nothing to do about a failure.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A command, and where the child it becomes is handed over.
type Order = (Command, mpsc::SyncSender<io::Result<Child>>);

/// Starts `command` as a child that the kernel kills when this process dies, however it dies.
///
/// The kernel watches the *thread* that forks (`PR_SET_PDEATHSIG`), so all of
/// them are started by one thread that lives as long as the process.
///
/// # Errors
/// When the program cannot be started.
pub fn spawn_bound(mut command: Command) -> io::Result<Child> {
    static SPAWNER: OnceLock<Mutex<mpsc::Sender<Order>>> = OnceLock::new();
    let parent = libc::pid_t::try_from(std::process::id()).expect("process ids fit pid_t");
    // SAFETY: prctl with PR_SET_PDEATHSIG and getppid take no pointer and are async-signal-safe.
    unsafe {
        command.pre_exec(move || {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            // The parent may have died before the line above.
            if libc::getppid() == parent { Ok(()) } else { Err(io::ErrorKind::BrokenPipe.into()) }
        });
    }
    let (answer, child) = mpsc::sync_channel(1);
    let spawner = SPAWNER.get_or_init(|| {
        let (orders, taken) = mpsc::channel::<Order>();
        std::thread::spawn(move || {
            for (mut command, answer) in taken {
                // Whoever ordered waits for the answer below, so it is always taken.
                let _ = answer.send(command.spawn());
            }
        });
        Mutex::new(orders)
    });
    let ended = |_| io::Error::other("the thread that starts processes has ended");
    spawner
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .send((command, answer))
        .map_err(|e| ended(e.to_string()))?;
    child.recv().map_err(|e| ended(e.to_string()))?
}

/// Sends a signal to a child that has not been waited for.
pub fn send_signal(child: &Child, signal: i32) {
    let pid = libc::pid_t::try_from(child.id()).expect("process ids fit pid_t");
    // SAFETY: kill takes no pointer; the child has not been waited for, so its id is still its own.
    unsafe { libc::kill(pid, signal) };
}

fn ended(status: ExitStatus) -> Ended {
    match status.signal() {
        Some(libc::SIGKILL) => Ended::Killed,
        Some(other) => Ended::Exited(128 + other),
        None => Ended::Exited(status.code().unwrap_or(-1)),
    }
}

/// Ends this very process with SIGKILL: no destructor, no flush, no goodbye.
pub fn kill_myself() -> ! {
    // SAFETY: both calls take no pointer; SIGKILL cannot be handled, so the loop is never left.
    unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
    loop {
        std::hint::spin_loop();
    }
}
