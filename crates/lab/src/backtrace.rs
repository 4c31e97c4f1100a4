//! Where every thread of another process is: by gdb, or without one by what the kernel tells.

use std::fmt::Write as _;
use std::fs;
use std::process::{Command, Stdio};

/// The backtraces of all threads, as text; what could not be found out is said in it.
#[must_use]
pub fn of_process(pid: u32) -> String {
    let gdb = Command::new("gdb")
        .args(["-p", &pid.to_string(), "-batch", "-nx", "-ex", "set pagination off"])
        .args(["-ex", "thread apply all backtrace 40"])
        .stdin(Stdio::null())
        .output();
    match gdb {
        Ok(told) if told.status.success() => String::from_utf8_lossy(&told.stdout).into_owned(),
        Ok(told) => format!("gdb: {}\n{}", String::from_utf8_lossy(&told.stderr), by_the_kernel(pid)),
        Err(error) => format!("gdb: {error}\n{}", by_the_kernel(pid)),
    }
}

/// Name, state, wait channel and kernel stack of each thread; the last two need rights.
fn by_the_kernel(pid: u32) -> String {
    let mut told = String::new();
    let threads = match fs::read_dir(format!("/proc/{pid}/task")) {
        Ok(threads) => threads,
        Err(error) => return format!("/proc/{pid}/task: {error}\n"),
    };
    for thread in threads.flatten() {
        for file in ["comm", "wchan", "syscall", "stack", "status"] {
            let what = thread.path().join(file);
            let text = fs::read_to_string(&what).unwrap_or_else(|error| error.to_string());
            // Writing to a string cannot fail.
            let _ = writeln!(told, "{}: {}", what.display(), text.trim_end());
        }
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_names_every_thread_of_a_process() {
        let told = by_the_kernel(std::process::id());
        assert!(told.contains("wchan") && told.contains("State:"), "{told}");
    }
}
