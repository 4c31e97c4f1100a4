//! Commands run in process groups of their own: waited for, and ended with all their children.
//!
//! A group's number is signalled only while its first process has not been reaped, so that it
//! can never be a stranger's.
#![allow(unsafe_code)]

use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The groups whose first process has not been reaped. Global, as a second signal ends the
/// process from a thread that knows nothing of them.
static ALIVE: Mutex<Vec<GroupId>> = Mutex::new(Vec::new());

/// Names a process group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupId(libc::pid_t);

/// How a group is asked to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    /// SIGTERM: finish.
    Term,
    /// SIGKILL: at once.
    Kill,
}

/// A running command.
pub struct Group {
    child: Child,
    id: GroupId,
}

fn alive() -> MutexGuard<'static, Vec<GroupId>> {
    ALIVE.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Group {
    /// Starts a command in a group of its own: Ctrl-C at the terminal does not reach it.
    pub fn start(command: &mut Command) -> io::Result<Self> {
        command.process_group(0);
        // Held over the start, so that `kill_all` misses none.
        let mut alive = alive();
        let child = command.spawn()?;
        let id = GroupId(libc::pid_t::try_from(child.id()).expect("process ids fit pid_t"));
        alive.push(id);
        Ok(Self { child, id })
    }

    pub fn id(&self) -> GroupId {
        self.id
    }

    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Waits for the command's own end; what it left in the background goes on.
    pub fn wait(mut self) -> io::Result<ExitStatus> {
        self.await_exit()?;
        self.forget();
        self.child.wait()
    }

    /// Returns when the first process has ended, and leaves it to be reaped.
    fn await_exit(&self) -> io::Result<()> {
        let id = self.id.0.unsigned_abs();
        loop {
            // SAFETY: the all-zero pattern is valid for a siginfo_t, and it outlives the call.
            let result = unsafe {
                let mut info: libc::siginfo_t = std::mem::zeroed();
                libc::waitid(libc::P_PID, id, &raw mut info, libc::WEXITED | libc::WNOWAIT)
            };
            match result {
                0 => return Ok(()),
                _ => {
                    let error = io::Error::last_os_error();
                    if error.kind() != io::ErrorKind::Interrupted {
                        return Err(error);
                    }
                }
            }
        }
    }

    fn forget(&self) {
        alive().retain(|id| *id != self.id);
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.forget();
    }
}

/// Signals a group unless it has been reaped.
pub fn ask(id: GroupId, how: Ask) {
    let alive = alive();
    if alive.contains(&id) {
        signal(id, how);
    }
}

/// Ends all groups at once, for a process that is about to end without waiting.
pub fn kill_all() {
    alive().iter().for_each(|id| signal(*id, Ask::Kill));
}

fn signal(GroupId(id): GroupId, how: Ask) {
    let signal = match how {
        Ask::Term => libc::SIGTERM,
        Ask::Kill => libc::SIGKILL,
    };
    // SAFETY: no memory is involved. A group that has just ended is no error for us.
    unsafe { libc::kill(-id, signal) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;

    #[test]
    fn a_command_is_ended_with_its_children() {
        let mut command = Command::new("sh");
        let group = Group::start(command.args(["-c", "sleep 600 & sleep 600; true"])).unwrap();
        let id = group.id();
        assert!(alive().contains(&id));
        ask(id, Ask::Kill);
        assert_eq!(group.wait().unwrap().signal(), Some(libc::SIGKILL));
        assert!(!alive().contains(&id));
        // Signal 0 only asks whether anybody is there; the sleeps are gone once init reaped them.
        let begun = std::time::Instant::now();
        // SAFETY: as in `signal`.
        while unsafe { libc::kill(-id.0, 0) } == 0 {
            assert!(begun.elapsed().as_secs() < 60, "a child of the command still runs");
            std::thread::yield_now();
        }
    }
}
