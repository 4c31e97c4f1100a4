//! A power cut without root: every log of a killed node is cut back to what Kafka knows to be on the disk.

use std::collections::HashMap;
use std::fs::{self, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

/// Kafka's own note of how far each log was flushed.
const CHECKPOINT: &str = "recovery-point-offset-checkpoint";
/// Bytes of a batch before the next one's length is known.
const BATCH_HEAD: usize = 12;

/// Cuts each log below `data` at its recovery point, as a power cut does in the worst case; answers
/// how many bytes went. The controllers' log stays: it is flushed with each append.
///
/// # Errors
/// When a file cannot be read or cut.
pub fn cut_to_recovery_points(data: &Path) -> io::Result<u64> {
    let points = read_checkpoint(&data.join(CHECKPOINT))?;
    let mut cut = 0;
    for entry in fs::read_dir(data)? {
        let path = entry?.path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if path.is_dir() && is_partition(&name) && !name.starts_with("__cluster_metadata-") {
            cut += cut_log(&path, points.get(&name).copied().unwrap_or(0))?;
        }
    }
    Ok(cut)
}

/// How far Kafka has noted a log below `data` to be flushed: the offset that a cut keeps up to.
///
/// It makes a new note every `log.flush.offset.checkpoint.interval.ms`, a minute by default,
/// however often it flushes.
///
/// # Errors
/// When the note cannot be read.
pub fn recovery_point(data: &Path, topic: &str, partition: i32) -> io::Result<i64> {
    let points = read_checkpoint(&data.join(CHECKPOINT))?;
    Ok(points.get(&format!("{topic}-{partition}")).copied().unwrap_or(0))
}

fn is_partition(name: &str) -> bool {
    name.rsplit_once('-').is_some_and(|(_, number)| number.parse::<u32>().is_ok())
}

/// `topic partition offset`, one a line, behind two lines of version and count.
fn read_checkpoint(path: &Path) -> io::Result<HashMap<String, i64>> {
    let text = match fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(HashMap::new()),
        text => text?,
    };
    let mut points = HashMap::new();
    for line in text.lines().skip(2) {
        if let [topic, partition, offset] = line.split(' ').collect::<Vec<_>>()[..] {
            let offset = offset.parse().map_err(|_| io::Error::other(format!("checkpoint line {line:?}")))?;
            points.insert(format!("{topic}-{partition}"), offset);
        }
    }
    Ok(points)
}

fn cut_log(dir: &Path, recovery_point: i64) -> io::Result<u64> {
    let mut cut = 0;
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("log") => cut += cut_segment(&path, recovery_point)?,
            // Kafka makes them anew; what they say of the tail is no longer so.
            Some("index" | "timeindex" | "snapshot") => fs::remove_file(&path)?,
            _ => {}
        }
    }
    Ok(cut)
}

fn cut_segment(path: &PathBuf, recovery_point: i64) -> io::Result<u64> {
    let bytes = fs::read(path)?;
    let keep = bytes_below(&bytes, recovery_point);
    if keep < bytes.len() {
        OpenOptions::new().write(true).open(path)?.set_len(keep as u64)?;
    }
    Ok((bytes.len() - keep) as u64)
}

/// How many bytes the batches below an offset have.
fn bytes_below(bytes: &[u8], offset: i64) -> usize {
    let mut at = 0;
    while let Some(head) = bytes.get(at..at + BATCH_HEAD) {
        let base = i64::from_be_bytes(head[..8].try_into().expect("eight bytes"));
        let length = u32::from_be_bytes(head[8..12].try_into().expect("four bytes"));
        let end = at + BATCH_HEAD + length as usize;
        if base >= offset || length == 0 || end > bytes.len() {
            break;
        }
        at = end;
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(base: i64, body: usize) -> Vec<u8> {
        let length = u32::try_from(body).expect("small");
        [&base.to_be_bytes()[..], &length.to_be_bytes()[..], &vec![1; body][..]].concat()
    }

    #[test]
    fn a_log_is_cut_at_the_first_batch_that_was_not_flushed() {
        let dir = tempfile::tempdir().expect("a directory");
        let log = dir.path().join("orders-0");
        fs::create_dir_all(&log).expect("a directory");
        fs::write(dir.path().join(CHECKPOINT), "0\n1\norders 0 10\n").expect("a file");
        let segment = log.join("00000000000000000000.log");
        fs::write(&segment, [batch(0, 20), batch(10, 30), batch(15, 5)].concat()).expect("a file");
        fs::write(log.join("00000000000000000000.index"), b"x").expect("a file");
        assert_eq!(cut_to_recovery_points(dir.path()).expect("cut"), (12 + 30) + (12 + 5));
        assert_eq!(fs::read(&segment).expect("a file"), batch(0, 20));
        assert!(!log.join("00000000000000000000.index").exists());
    }

    #[test]
    fn a_log_that_was_never_flushed_is_cut_to_nothing() {
        let dir = tempfile::tempdir().expect("a directory");
        let log = dir.path().join("orders-0");
        fs::create_dir_all(&log).expect("a directory");
        fs::write(log.join("00000000000000000000.log"), batch(0, 20)).expect("a file");
        assert_eq!(cut_to_recovery_points(dir.path()).expect("cut"), 32);
    }
}
