//! Child processes that can be killed without mercy and never outlive their parent.
#![allow(unsafe_code)]

use std::ffi::OsStr;
use std::io::{self, BufRead, BufReader};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
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
        // SAFETY: prctl with PR_SET_PDEATHSIG takes no pointer and is async-signal-safe.
        unsafe {
            command.pre_exec(|| {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                Ok(())
            });
        }
        let mut child = command.spawn()?;
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
        let pid = libc::pid_t::try_from(self.child.id()).expect("process ids fit pid_t");
        // SAFETY: kill takes no pointer; the child has not been waited for, so its id is still its own.
        unsafe { libc::kill(pid, signal) };
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
