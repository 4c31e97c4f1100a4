//! Splits a text into numbered lines of bounded length.

use std::io::{self, BufRead};

/// One line, without its end.
#[derive(Debug)]
pub struct Line {
    /// 1 is the first.
    pub number: u64,
    /// Its bytes, cut at the limit.
    pub bytes: Vec<u8>,
    /// Why it cannot be used.
    pub trouble: Option<String>,
}

/// Lines of a text; never holds more than the limit.
pub struct Lines<R> {
    input: R,
    bytes_max: usize,
    next_number: u64,
    bytes_read: u64,
}

impl<R: BufRead> Lines<R> {
    pub fn new(input: R, bytes_max: usize) -> Self {
        Self { input, bytes_max, next_number: 1, bytes_read: 0 }
    }

    /// The number of the line that is read next.
    pub fn next_number(&self) -> u64 {
        self.next_number
    }

    /// Bytes read so far, line ends included.
    pub fn bytes_read(&self) -> u64 {
        self.bytes_read
    }

    /// The next line; `None` at the end.
    pub fn next(&mut self) -> io::Result<Option<Line>> {
        let mut line = Line { number: self.next_number, bytes: Vec::new(), trouble: None };
        let mut any = false;
        loop {
            let chunk = match self.input.fill_buf() {
                Ok(chunk) => chunk,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            if chunk.is_empty() {
                break;
            }
            any = true;
            let end = memchr(b'\n', chunk);
            let part = &chunk[..end.unwrap_or(chunk.len())];
            let room = (self.bytes_max + 1).saturating_sub(line.bytes.len());
            line.bytes.extend_from_slice(&part[..part.len().min(room)]);
            let used = part.len() + usize::from(end.is_some());
            self.input.consume(used);
            self.bytes_read += used as u64;
            if end.is_some() {
                break;
            }
        }
        if !any {
            return Ok(None);
        }
        self.next_number += 1;
        if line.number == 1 && line.bytes.starts_with(b"\xef\xbb\xbf") {
            line.bytes.drain(..3);
        }
        if line.bytes.last() == Some(&b'\r') {
            line.bytes.pop();
        }
        if line.bytes.len() > self.bytes_max {
            line.trouble = Some(self.too_long());
        }
        Ok(Some(line))
    }

    /// Appends lines while a double quote is open, so that `line` is one CSV record.
    pub fn join_quoted(&mut self, line: &mut Line) -> io::Result<()> {
        let mut open = quotes(&line.bytes) % 2 == 1;
        while open && line.trouble.is_none() {
            let Some(more) = self.next()? else {
                line.trouble = Some("a quote is opened and never closed, up to the end".into());
                break;
            };
            open ^= quotes(&more.bytes) % 2 == 1;
            line.bytes.push(b'\n');
            line.bytes.extend_from_slice(&more.bytes);
            if line.bytes.len() > self.bytes_max || more.trouble.is_some() {
                line.bytes.truncate(self.bytes_max);
                let last = more.number;
                line.trouble =
                    Some(format!("a quote is opened; the record up to line {last} is {}", self.too_long()));
            }
        }
        Ok(())
    }

    fn too_long(&self) -> String {
        format!("longer than {} bytes (--line-bytes-max)", self.bytes_max)
    }
}

fn quotes(bytes: &[u8]) -> usize {
    bytes.iter().filter(|byte| **byte == b'"').count()
}

fn memchr(needle: u8, haystack: &[u8]) -> Option<usize> {
    haystack.iter().position(|byte| *byte == needle)
}
