//! Lines for a reader that may be slow, stopped or gone: whoever says one never waits and never fails.
//!
//! A pipe whose reader stopped takes nothing more, one whose reader is gone takes nothing
//! ever, and a full disk takes nothing for a while. None of that may hold up the relay, so
//! lines go into a queue of bounded size and a thread writes them out:
//!
//! | the other side | what becomes of lines |
//! |---|---|
//! | reads | written, in order |
//! | is slow, or stopped | kept up to the limit, then dropped and counted |
//! | is a full disk | dropped and counted |
//! | is gone | dropped; it does not come back |
//!
//! When lines get through again after a loss, one line says how many are missing.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Pause before a descriptor that does not block is tried again.
const RETRY_EVERY: Duration = Duration::from_millis(10);

/// What became of the lines so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Losses {
    /// Lines that nobody got.
    pub dropped: u64,
    /// Whether nobody reads any more, for good.
    pub reader_gone: bool,
}

#[derive(Debug, Default)]
struct Queue {
    lines: VecDeque<Vec<u8>>,
    bytes: usize,
    /// Whether the thread has taken a line that is not written yet.
    writing: bool,
    losses: Losses,
    /// Lines dropped since one was written last.
    unsaid: u64,
    closed: bool,
}

#[derive(Debug)]
struct Shared {
    bytes_max: usize,
    /// Guards the queue; held for no longer than pushing or taking a line.
    queue: Mutex<Queue>,
    changed: Condvar,
}

/// The way in; cheap to clone.
#[derive(Debug, Clone)]
pub struct BackgroundWriter {
    shared: Arc<Shared>,
}

impl BackgroundWriter {
    /// Writes to `out` from a thread of its own, and keeps at most `bytes_max` for it.
    ///
    /// # Errors
    /// [`io::Error`] when the descriptor cannot be duplicated or no thread started.
    pub fn start(out: impl AsFd, bytes_max: usize, missing: fn(u64) -> String) -> io::Result<Self> {
        let out = File::from(out.as_fd().try_clone_to_owned()?);
        let shared = Arc::new(Shared { bytes_max, queue: Mutex::default(), changed: Condvar::new() });
        let for_thread = Arc::clone(&shared);
        std::thread::Builder::new()
            .name("writer".into())
            .spawn(move || for_thread.write_out(out, missing))?;
        Ok(Self { shared })
    }

    /// Takes one whole line, its end included.
    pub fn say(&self, line: Vec<u8>) {
        let mut queue = self.shared.lock();
        if queue.losses.reader_gone || queue.bytes + line.len() > self.shared.bytes_max {
            queue.lost();
            return;
        }
        queue.bytes += line.len();
        queue.lines.push_back(line);
        self.shared.changed.notify_all();
    }

    /// What was lost so far.
    pub fn losses(&self) -> Losses {
        self.shared.lock().losses
    }

    /// Waits until everything is written, at most for `patience`; returns whether it is.
    pub fn flush(&self, patience: Duration) -> bool {
        let until = Instant::now() + patience;
        let mut queue = self.shared.lock();
        while !queue.losses.reader_gone && (queue.writing || !queue.lines.is_empty()) {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            queue = self.shared.changed.wait_timeout(queue, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        queue.losses.dropped == 0
    }

    /// Lets the thread end once everything is written.
    #[cfg(test)]
    fn close(&self) {
        self.shared.lock().closed = true;
        self.shared.changed.notify_all();
    }
}

/// One write is one line: what the log's formatter hands over.
impl Write for BackgroundWriter {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.say(line.to_vec());
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Queue {
    fn lost(&mut self) {
        self.losses.dropped += 1;
        self.unsaid += 1;
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_out(&self, mut out: File, missing: fn(u64) -> String) {
        while let Some(line) = self.take() {
            let written = write_whole(&mut out, &line);
            let mut queue = self.lock();
            match written {
                Ok(()) => {
                    let lost = std::mem::take(&mut queue.unsaid);
                    if lost > 0 && queue.lines.is_empty() {
                        let line = missing(lost).into_bytes();
                        queue.bytes += line.len();
                        queue.lines.push_back(line);
                    } else {
                        queue.unsaid = lost;
                    }
                }
                Err(error) => {
                    queue.lost();
                    queue.losses.reader_gone |= is_gone(&error);
                    if queue.losses.reader_gone {
                        let left = queue.lines.len() as u64;
                        queue.losses.dropped += left;
                        queue.lines.clear();
                        queue.bytes = 0;
                    }
                }
            }
            queue.writing = false;
            self.changed.notify_all();
        }
    }

    /// The next line; `None` when it is over.
    fn take(&self) -> Option<Vec<u8>> {
        let mut queue = self.lock();
        loop {
            if let Some(line) = queue.lines.pop_front() {
                queue.bytes -= line.len();
                queue.writing = true;
                return Some(line);
            }
            if queue.closed || queue.losses.reader_gone {
                return None;
            }
            queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// As `write_all`, and patient with a descriptor that another program set not to block.
fn write_whole(out: &mut File, mut line: &[u8]) -> io::Result<()> {
    while !line.is_empty() {
        match out.write(line) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => line = &line[count..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => std::thread::sleep(RETRY_EVERY),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// A closed pipe or a terminal that hung up; a full disk may have room again.
fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EPIPE | libc::EIO | libc::EBADF))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    const PATIENCE: Duration = Duration::from_secs(60);

    fn missing(lost: u64) -> String {
        format!("{lost} lost\n")
    }

    #[test]
    fn a_reader_that_stopped_costs_lines_and_never_time_and_hears_how_many() {
        let (mut reader, writer) = io::pipe().unwrap();
        let talk = BackgroundWriter::start(&writer, 1000, missing).unwrap();
        drop(writer);
        for n in 0..20_000 {
            talk.say(format!("line {n:06}\n").into_bytes());
        }
        let lost = talk.losses().dropped;
        assert!(lost > 0, "a pipe and 1000 bytes hold less than 20 000 lines");
        assert!(!talk.flush(Duration::from_millis(1)), "nobody reads");
        let reading = std::thread::spawn(move || {
            let mut text = String::new();
            reader.read_to_string(&mut text).unwrap();
            text
        });
        talk.flush(PATIENCE);
        talk.close();
        drop(talk);
        let text = reading.join().unwrap();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], "line 000000");
        // It says so whenever there is room again, so perhaps more than once.
        let told: Vec<u64> =
            lines.iter().filter_map(|line| line.strip_suffix(" lost")).map(|n| n.parse().unwrap()).collect();
        assert!(lines[lines.len() - 1].ends_with(" lost"), "the end says what is missing");
        assert_eq!(told.iter().sum::<u64>(), lost);
        assert_eq!((lines.len() - told.len()) as u64 + lost, 20_000);
    }

    #[test]
    fn a_reader_that_is_gone_ends_nothing() {
        let (reader, writer) = io::pipe().unwrap();
        let talk = BackgroundWriter::start(&writer, 1000, missing).unwrap();
        drop(reader);
        talk.say(b"one\n".to_vec());
        assert!(!talk.flush(PATIENCE));
        talk.say(b"two\n".to_vec());
        assert_eq!(talk.losses(), Losses { dropped: 2, reader_gone: true });
    }

    #[test]
    fn a_full_disk_costs_lines_and_nothing_else() {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let talk = BackgroundWriter::start(&full, 1000, missing).unwrap();
        talk.say(b"one\n".to_vec());
        assert!(!talk.flush(PATIENCE));
        assert_eq!(talk.losses(), Losses { dropped: 1, reader_gone: false });
    }
}
