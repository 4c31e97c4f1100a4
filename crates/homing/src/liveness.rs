//! Whether a process that holds a lease is still there, as far as this host can tell.

use crate::outbox::store::Owner;
use std::fs;
use std::sync::atomic::{AtomicU64, Ordering};

/// This process as the owner of one run of a relay.
pub(crate) fn this_process(role: &str) -> Owner {
    static RUNS: AtomicU64 = AtomicU64::new(0);
    let pid = std::process::id();
    let host = host().unwrap_or_default();
    let started = process_state(pid).map_or(0, |state| state.started);
    let run = RUNS.fetch_add(1, Ordering::Relaxed);
    Owner { name: format!("{role}:{pid}.{started}.{run}@{host}"), host, pid, started }
}

/// Whether the owner's process lives; `None` when this host cannot tell
/// (another host, another process namespace, a system without `/proc`).
///
/// A pid that was given to another process since is not the owner: its start
/// time differs. A zombie no longer runs, so it counts as dead.
pub(crate) fn alive(owner: &Owner) -> Option<bool> {
    if owner.host.is_empty() || owner.started == 0 || host()? != owner.host {
        return None;
    }
    Some(
        process_state(owner.pid)
            .is_some_and(|state| state.started == owner.started && !matches!(state.code, b'Z' | b'X' | b'x')),
    )
}

/// Names this boot of this machine and this process namespace; pids mean nothing elsewhere.
fn host() -> Option<String> {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let namespace = fs::read_link("/proc/self/ns/pid").ok()?;
    Some(format!("{}/{}", boot.trim(), namespace.display()))
}

struct ProcessState {
    code: u8,
    started: u64,
}

/// Fields 3 and 22 of `/proc/PID/stat` (proc(5)); the name in field 2 may hold anything but ends at the last `)`.
fn process_state(pid: u32) -> Option<ProcessState> {
    let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
    let after_name = stat.iter().rposition(|byte| *byte == b')')? + 1;
    let mut fields = stat[after_name..].split(|byte| *byte == b' ').filter(|field| !field.is_empty());
    let code = *fields.next()?.first()?;
    let started = std::str::from_utf8(fields.nth(18)?).ok()?.parse().ok()?;
    Some(ProcessState { code, started })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_lives_and_a_reused_pid_does_not() {
        let me = this_process("relay");
        assert_eq!(alive(&me), Some(true));
        assert_eq!(alive(&Owner { started: me.started + 1, ..me.clone() }), Some(false));
        assert_eq!(alive(&Owner { host: "elsewhere".into(), ..me.clone() }), None);
        assert_ne!(this_process("relay").name, me.name, "each run has its own name");
    }

    #[test]
    fn a_killed_child_is_dead_even_before_it_is_reaped() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let state = process_state(child.id()).unwrap();
        let owner = Owner { pid: child.id(), started: state.started, ..this_process("relay") };
        assert_eq!(alive(&owner), Some(true));
        child.kill().unwrap();
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while alive(&owner) != Some(false) {
            assert!(std::time::Instant::now() < deadline, "a killed child stays alive");
            std::thread::yield_now();
        }
        child.wait().unwrap();
        assert_eq!(alive(&owner), Some(false));
    }
}
