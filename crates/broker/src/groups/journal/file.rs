//! The journal's file: frames, reading them back after any crash, and rewriting it small.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use bytes::{Buf, BufMut, Bytes};

use super::Entry;
use crate::disk::Directory;

const MAGIC: &[u8; 4] = b"HJ01";
const HEADER_BYTES: usize = 12;
const DELETED: u32 = u32::MAX;
/// No append is near this; a longer length field is damage.
pub(super) const BODY_BYTES_MAX: usize = 256 << 20;
/// Entries of one frame when the file is rewritten.
const COMPACTED_FRAME_ENTRIES: usize = 256;

/// The last value of each key.
pub type LiveEntries = HashMap<Bytes, Bytes>;

/// Applies a change to the live entries and returns by how many bytes they grew.
pub(super) fn apply(live: &mut LiveEntries, entry: Entry) -> i64 {
    let size = |key: &Bytes, value: &Bytes| (key.len() + value.len() + 8) as i64;
    match entry.value {
        Some(value) => {
            let new = size(&entry.key, &value);
            let old = live.insert(entry.key.clone(), value).map_or(0, |old| size(&entry.key, &old));
            new - old
        }
        None => live.remove(&entry.key).map_or(0, |old| -size(&entry.key, &old)),
    }
}

/// Appends one frame with `entries` to `out`.
pub(super) fn encode_frame(entries: &[Entry], out: &mut Vec<u8>) {
    let start = out.len();
    out.put_slice(MAGIC);
    out.put_u64(0);
    for entry in entries {
        put_bytes(out, &entry.key);
        match &entry.value {
            Some(value) => put_bytes(out, value),
            None => out.put_u32(DELETED),
        }
    }
    let body = start + HEADER_BYTES;
    let length = (out.len() - body) as u32;
    let crc = crc32c::crc32c(&out[body..]);
    out[start + 4..start + 8].copy_from_slice(&length.to_be_bytes());
    out[start + 8..body].copy_from_slice(&crc.to_be_bytes());
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    out.put_u32(bytes.len() as u32);
    out.put_slice(bytes);
}

/// The frame at the start of `data`: its entries and its length; none when it is not whole.
fn decode_frame(data: &Bytes) -> Option<(Vec<Entry>, usize)> {
    let mut header = data.get(..HEADER_BYTES)?;
    if !header.starts_with(MAGIC) {
        return None;
    }
    header.advance(MAGIC.len());
    let length = header.get_u32() as usize;
    let crc = header.get_u32();
    if length > BODY_BYTES_MAX {
        return None;
    }
    let end = HEADER_BYTES + length;
    if crc32c::crc32c(data.get(HEADER_BYTES..end)?) != crc {
        return None;
    }
    let mut body = data.slice(HEADER_BYTES..end);
    let mut entries = Vec::new();
    while body.has_remaining() {
        let key_length = body.try_get_u32().ok()? as usize;
        let key = take(&mut body, key_length)?;
        let value = match body.try_get_u32().ok()? {
            DELETED => None,
            length => Some(take(&mut body, length as usize)?),
        };
        entries.push(Entry { key, value });
    }
    Some((entries, end))
}

fn take(body: &mut Bytes, length: usize) -> Option<Bytes> {
    // Copied, so that one live entry does not keep a whole file in memory.
    (body.len() >= length).then(|| Bytes::copy_from_slice(&body.split_to(length)))
}

/// Reads the file back, repairs it, and opens it for appending at the length returned.
pub(super) fn recover(path: &Path, dir: &Directory) -> io::Result<(File, u64, LiveEntries)> {
    remove_if_there(&sibling(path, "new"))?;
    let data = match std::fs::read(path) {
        Ok(data) => Bytes::from(data),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Bytes::new(),
        Err(e) => return Err(e),
    };
    let mut live = LiveEntries::new();
    let mut at = 0;
    let mut end_of_good = 0;
    let mut damaged = Vec::new();
    while at < data.len() {
        if let Some((entries, length)) = decode_frame(&data.slice(at..)) {
            for entry in entries {
                apply(&mut live, entry);
            }
            at += length;
            end_of_good = at;
            continue;
        }
        let Some(next) = next_whole_frame(&data, at + 1) else { break };
        damaged.push(at..next);
        at = next;
    }
    let file = OpenOptions::new().create(true).read(true).append(true).open(path)?;
    if !damaged.is_empty() {
        let kept = sibling(path, "damaged");
        std::fs::copy(path, &kept)?;
        tracing::error!(
            file = %path.display(), ranges = ?damaged, copy = %kept.display(),
            "the group journal was damaged in the middle; the commits in these byte ranges are lost and \
             their groups go back to earlier offsets"
        );
        drop(file);
        let rewritten = rewrite(path, dir, &live)?;
        rewritten.in_doubt.map_or(Ok(()), Err)?;
        return Ok((rewritten.file, rewritten.length, live));
    }
    if end_of_good < data.len() {
        tracing::warn!(
            file = %path.display(), bytes = data.len() - end_of_good,
            "cut a torn end off the group journal; it was never confirmed to a client"
        );
        file.set_len(end_of_good as u64)?;
        file.sync_all()?;
    }
    dir.sync()?;
    Ok((file, end_of_good as u64, live))
}

/// Where the next readable frame starts, looking only at places which carry the magic.
fn next_whole_frame(data: &Bytes, from: usize) -> Option<usize> {
    (from..data.len().saturating_sub(HEADER_BYTES - 1))
        .find(|&at| data[at..].starts_with(MAGIC) && decode_frame(&data.slice(at..)).is_some())
}

/// A file in the place of the old one.
pub(super) struct Rewritten {
    pub file: File,
    pub length: u64,
    /// Why its name may not survive a power cut, which then brings the old file back.
    pub in_doubt: Option<io::Error>,
}

/// Writes a new file with nothing but the live entries and puts it in the old one's place.
///
/// # Errors
/// The old file stands. After the rename there is no way back: whoever went on in the old file
/// would write into one that has no name any more.
pub(super) fn rewrite(path: &Path, dir: &Directory, live: &LiveEntries) -> io::Result<Rewritten> {
    let new_path = sibling(path, "new");
    remove_if_there(&new_path)?;
    let written = write_all_live(&new_path, live).and_then(|written| {
        std::fs::rename(&new_path, path)?;
        Ok(written)
    });
    match written {
        Ok((file, length)) => Ok(Rewritten { file, length, in_doubt: dir.sync().err() }),
        Err(error) => {
            remove_if_there(&new_path)?;
            Err(error)
        }
    }
}

fn write_all_live(path: &Path, live: &LiveEntries) -> io::Result<(File, u64)> {
    let mut file = OpenOptions::new().create_new(true).read(true).append(true).open(path)?;
    let mut length = 0;
    let mut frame = Vec::new();
    let mut entries = Vec::with_capacity(COMPACTED_FRAME_ENTRIES);
    let mut flush = |entries: &mut Vec<Entry>| -> io::Result<()> {
        frame.clear();
        encode_frame(entries, &mut frame);
        entries.clear();
        length += frame.len() as u64;
        file.write_all(&frame)
    };
    for (key, value) in live {
        entries.push(Entry { key: key.clone(), value: Some(value.clone()) });
        if entries.len() == COMPACTED_FRAME_ENTRIES {
            flush(&mut entries)?;
        }
    }
    if !entries.is_empty() {
        flush(&mut entries)?;
    }
    file.sync_all()?;
    Ok((file, length))
}

fn sibling(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    PathBuf::from(name)
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}
