//! A broker in a process of its own, to be killed or starved: this test binary, started again
//! to run the same test, which finds in its environment that it is to serve.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::embedded_broker;

const SERVE_DIR: &str = "HOMING_TEST_SERVE_DIR";
const SERVE_AT: &str = "HOMING_TEST_SERVE_AT";

/// What the child process is started with.
#[derive(Clone, Copy)]
pub struct Serve<'a> {
    /// The test that starts it, as libtest names it.
    pub test: &'a str,
    pub dir: &'a Path,
    /// None: a free port.
    pub at: Option<SocketAddr>,
    /// Writing beyond this size of a file fails, as on a full disk.
    pub file_kib_max: Option<u32>,
}

/// A broker in a child process; killed when dropped.
pub struct Served {
    child: Child,
    pub address: SocketAddr,
}

impl Served {
    /// Called first in every test that starts one: in the child it serves until it is killed
    /// or its parent is gone, and returns true.
    pub fn was_the_child() -> bool {
        let Some(dir) = std::env::var_os(SERVE_DIR) else { return false };
        let at = std::env::var(SERVE_AT).unwrap_or_default();
        let at = if at.is_empty() { None } else { Some(at.parse().unwrap()) };
        let broker = embedded_broker(Path::new(&dir), at);
        println!("serving at {}", broker.addr());
        // The end of its parent closes the pipe.
        let _ = std::io::stdin().lines().next();
        true
    }

    pub fn start(serve: Serve<'_>) -> Self {
        let itself = std::env::current_exe().unwrap();
        let mut command = match serve.file_kib_max {
            None => Command::new(itself),
            Some(kib) => {
                // Ignored, the signal for "file too large" becomes an error of the write.
                let script = "trap '' XFSZ; ulimit -S -f \"$0\"; exec \"$@\"";
                let mut shell = Command::new("bash");
                shell.args(["-c", script, &kib.to_string()]).arg(itself);
                shell
            }
        };
        let mut child = command
            .args(["--exact", serve.test, "--nocapture"])
            .env(SERVE_DIR, serve.dir)
            .env(SERVE_AT, serve.at.map(|at| at.to_string()).unwrap_or_default())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let address = lines.map_while(Result::ok).find_map(|line| {
            // libtest prints the test's name on the same line.
            line.split("serving at ").nth(1).map(|address| address.trim().parse().unwrap())
        });
        Self { child, address: address.expect("the child serves") }
    }

    /// Takes the limit on file sizes away: the disk has room again.
    pub fn make_room(&self) {
        let pid = self.child.id().to_string();
        let status = Command::new("prlimit").args(["--fsize=unlimited:", "--pid", &pid]).status().unwrap();
        assert!(status.success(), "prlimit (package util-linux) failed");
    }

    /// The child's process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Changes how many files it may have open: `SOFT:HARD`, or `SOFT:`.
    pub fn limit_files(&self, limit: &str) {
        let pid = self.child.id().to_string();
        let limit = format!("--nofile={limit}");
        let status = Command::new("prlimit").args([&limit, "--pid", &pid]).status().unwrap();
        assert!(status.success(), "prlimit (package util-linux) failed");
    }

    /// The most memory it ever had, in KiB.
    pub fn memory_peak_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        peak.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// SIGKILL.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
