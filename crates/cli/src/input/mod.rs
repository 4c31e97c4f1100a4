//! Reads messages from text: JSON lines, CSV with a header, or plain lines, in constant memory.

mod csv;
mod json;
mod lines;

use homing::{Message, TopicName};
use lines::{Line, Lines};
use std::io::{self, BufRead};
use std::path::Path;

/// How the text is to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// By the file's name, else by its first line.
    Auto,
    /// One JSON value per line; the line is the payload.
    Json,
    /// A header line, then records; each becomes a JSON object of texts.
    Csv,
    /// Each line is a payload.
    Lines,
}

/// What is read, and into which messages.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The messages' topic.
    pub topic: TopicName,
    /// The field or column that is the key.
    pub key_field: Option<String>,
    /// How to read; decided for [`Format::Auto`] by [`Records::open`].
    pub format: Format,
    /// The first line to take; 1 is the first of the file.
    pub from_line: u64,
    /// The longest line, or CSV record, in bytes.
    pub line_bytes_max: usize,
}

/// What one line, or one CSV record of several, came to.
#[derive(Debug)]
pub struct Taken {
    /// Its first line; 1 is the first of the file.
    pub line: u64,
    /// The line after it.
    pub next_line: u64,
    /// Bytes read so far, up to its end.
    pub bytes: u64,
    /// The message, or what is wrong with the line; `None` for a blank line between records.
    pub content: Option<Result<Message, String>>,
}

/// Messages out of a text, in order.
pub struct Records<R> {
    lines: Lines<R>,
    plan: Plan,
    header: Option<csv::Header>,
    /// The line that decided the format, not yet handed out.
    held: Option<Line>,
    /// What looks wrong about the whole, until someone takes it.
    doubt: Option<String>,
}

impl<R: BufRead> Records<R> {
    /// Decides the format and reads a CSV header.
    ///
    /// # Errors
    /// What reading says, or that the header cannot be used.
    pub fn open(input: R, mut plan: Plan, name: Option<&Path>) -> io::Result<Self> {
        let mut lines = Lines::new(input, plan.line_bytes_max);
        let mut held = None;
        if plan.format == Format::Auto {
            let by_name =
                name.and_then(Path::extension).and_then(|e| e.to_str()).map(str::to_ascii_lowercase);
            plan.format = match by_name.as_deref() {
                Some("csv") => Format::Csv,
                Some("json" | "jsonl" | "ndjson") => Format::Json,
                _ => {
                    held = lines.next()?;
                    held.as_ref().map_or(Format::Lines, |line| guess(&line.bytes, plan.key_field.as_deref()))
                }
            };
        }
        let mut records = Self { lines, plan, header: None, held, doubt: None };
        if records.plan.format == Format::Csv {
            records.read_header()?;
        } else if records.plan.format == Format::Lines && records.plan.key_field.is_some() {
            return Err(invalid("plain lines have no fields, so --key-field cannot be used with them"));
        }
        Ok(records)
    }

    /// The format that is read.
    pub fn format(&self) -> Format {
        self.plan.format
    }

    /// What looks wrong about the input as a whole; once.
    pub fn take_doubt(&mut self) -> Option<String> {
        self.doubt.take()
    }

    /// How many lines were read so far.
    pub fn lines_read(&self) -> u64 {
        self.lines.next_number() - 1
    }

    /// The next line's message; `None` at the end.
    ///
    /// # Errors
    /// What reading says; a bad line is no error but a [`Taken`] with its reason.
    pub fn next(&mut self) -> io::Result<Option<Taken>> {
        loop {
            let Some(mut line) = self.next_line()? else { return Ok(None) };
            if self.plan.format == Format::Csv {
                self.lines.join_quoted(&mut line)?;
            }
            if line.number < self.plan.from_line {
                continue;
            }
            if self.plan.format == Format::Json && line.number == self.plan.from_line {
                self.doubt = is_array(&line.bytes).then(|| {
                    "this looks like one JSON array: each line is one message here; write each element on a line \
                     of its own, e.g. with: jq -c '.[]' FILE"
                        .into()
                });
            }
            let content = self.read(&line);
            return Ok(Some(Taken {
                line: line.number,
                next_line: self.lines.next_number(),
                bytes: self.lines.bytes_read(),
                content,
            }));
        }
    }

    fn next_line(&mut self) -> io::Result<Option<Line>> {
        match self.held.take() {
            Some(line) => Ok(Some(line)),
            None => self.lines.next(),
        }
    }

    fn read_header(&mut self) -> io::Result<()> {
        let Some(mut line) = self.next_line()? else { return Ok(()) };
        self.lines.join_quoted(&mut line)?;
        let text = text_of(&line).map_err(|reason| invalid(format!("line 1: {reason}")))?;
        let doubt = csv::other_separator(text);
        let header = csv::Header::read(text, self.plan.key_field.as_deref()).map_err(|reason| {
            invalid(doubt.as_ref().map_or_else(|| reason.clone(), |doubt| format!("{reason}; {doubt}")))
        })?;
        self.doubt = doubt;
        self.header = Some(header);
        Ok(())
    }

    fn read(&self, line: &Line) -> Option<Result<Message, String>> {
        let text = match text_of(line) {
            Ok(text) => text,
            Err(reason) => return Some(Err(reason)),
        };
        let key_field = self.plan.key_field.as_deref();
        let parts = match self.plan.format {
            Format::Lines | Format::Auto => Ok((None, text.as_bytes().to_vec())),
            _ if text.trim().is_empty() => return None,
            Format::Json => json::read(text, key_field),
            Format::Csv => match &self.header {
                Some(header) => header.record(text),
                None => return None,
            },
        };
        Some(parts.map(|(key, payload)| Message {
            topic: self.plan.topic.clone(),
            key,
            payload: Some(payload),
            headers: Vec::new(),
            id: None,
        }))
    }
}

/// Key and payload.
type Parts = (Option<Vec<u8>>, Vec<u8>);

fn text_of(line: &Line) -> Result<&str, String> {
    if let Some(trouble) = &line.trouble {
        return Err(trouble.clone());
    }
    std::str::from_utf8(&line.bytes).map_err(|error| format!("not UTF-8 at byte {}", error.valid_up_to() + 1))
}

/// Whether a file's first line begins an array rather than being one of many values.
fn is_array(first: &[u8]) -> bool {
    first.trim_ascii_start().starts_with(b"[")
}

fn guess(first: &[u8], key_field: Option<&str>) -> Format {
    let text = String::from_utf8_lossy(first);
    let is_column = |field| csv::Header::read(&text, Some(field)).is_ok();
    if text.trim_start().starts_with(['{', '[']) {
        Format::Json
    } else if key_field.is_some_and(is_column) {
        Format::Csv
    } else {
        Format::Lines
    }
}

fn invalid(reason: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    type Read = (u64, u64, Option<Result<(Option<String>, String), String>>);

    fn read_with(text: &[u8], format: Format, key: Option<&str>, from_line: u64) -> io::Result<Vec<Read>> {
        let plan = Plan {
            topic: TopicName::parse("t").unwrap(),
            key_field: key.map(str::to_owned),
            format,
            from_line,
            line_bytes_max: 100,
        };
        let mut records = Records::open(text, plan, None)?;
        let mut all = Vec::new();
        while let Some(taken) = records.next()? {
            let utf8 = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
            let content = taken
                .content
                .map(|read| read.map(|message| (message.key.map(utf8), utf8(message.payload.unwrap()))));
            all.push((taken.line, taken.next_line, content));
        }
        Ok(all)
    }

    fn read(text: &[u8], format: Format, key: Option<&str>) -> Vec<Read> {
        read_with(text, format, key, 1).unwrap()
    }

    fn good(line: u64, key: Option<&str>, payload: &str) -> Read {
        (line, line + 1, Some(Ok((key.map(str::to_owned), payload.to_owned()))))
    }

    fn reason(read: &Read) -> &str {
        read.2.as_ref().unwrap().as_ref().unwrap_err()
    }

    #[test]
    fn json_lines_keep_their_text_and_give_their_key() {
        let text = b"{\"id\": 7, \"n\":1}\r\n\n{\"id\":\"a\\u00e9\"}\n{\"id\":1.5}\n{\"id\":true}";
        let all = read(text, Format::Auto, Some("id"));
        assert_eq!(all[0], good(1, Some("7"), "{\"id\": 7, \"n\":1}"));
        assert_eq!(all[1], (2, 3, None));
        assert_eq!(all[2], good(3, Some("aé"), "{\"id\":\"a\\u00e9\"}"));
        assert_eq!(all[3].2.as_ref().unwrap().as_ref().unwrap().0.as_deref(), Some("1.5"));
        assert_eq!(all[4].2.as_ref().unwrap().as_ref().unwrap().0.as_deref(), Some("true"));
    }

    #[test]
    fn bad_json_lines_say_why_and_the_rest_goes_on() {
        let text = b"{\"id\":1}\n{\"id\":\n{\"no\":1}\n{\"id\":null}\n[1]\n{\"id\":[1]}\n\xff\xfe\n{\"id\":123456789012345678901}\n{\"id\":2}\n";
        let all = read(text, Format::Json, Some("id"));
        assert_eq!(all.len(), 9);
        assert!(reason(&all[1]).contains("not a whole JSON value"), "{}", reason(&all[1]));
        assert!(reason(&all[2]).contains("no field \"id\""), "{}", reason(&all[2]));
        assert!(reason(&all[3]).contains("null"), "{}", reason(&all[3]));
        assert!(reason(&all[4]).contains("not a JSON object"), "{}", reason(&all[4]));
        assert!(reason(&all[5]).contains("list"), "{}", reason(&all[5]));
        assert!(reason(&all[6]).contains("not UTF-8 at byte 1"), "{}", reason(&all[6]));
        assert!(reason(&all[7]).contains("too large"), "{}", reason(&all[7]));
        assert_eq!(all[8], good(9, Some("2"), "{\"id\":2}"));
    }

    #[test]
    fn csv_records_become_objects_and_may_span_lines() {
        let text = b"\xef\xbb\xbfid,note\n1,plain\n2,\"two\nlines, \"\"quoted\"\"\"\n3\n\n4,last";
        let all = read(text, Format::Auto, Some("id"));
        assert_eq!(all[0], good(2, Some("1"), "{\"id\":\"1\",\"note\":\"plain\"}"));
        let two =
            Some(Ok((Some("2".into()), "{\"id\":\"2\",\"note\":\"two\\nlines, \\\"quoted\\\"\"}".into())));
        assert_eq!(all[1], (3, 5, two));
        assert!(reason(&all[2]).contains("1 field") && reason(&all[2]).contains("2"), "{}", reason(&all[2]));
        assert_eq!(all[3], (6, 7, None));
        assert_eq!(all[4], good(7, Some("4"), "{\"id\":\"4\",\"note\":\"last\"}"));
    }

    #[test]
    fn a_csv_header_without_the_key_column_is_refused() {
        let error = read_with(b"a,b\n1,2\n", Format::Csv, Some("id"), 1).unwrap_err().to_string();
        assert!(error.contains("\"id\"") && error.contains("a, b"), "{error}");
        assert!(read_with(b"a,a\n1,2\n", Format::Csv, None, 1).unwrap_err().to_string().contains("twice"));
        assert!(read_with(b"hello\n", Format::Lines, Some("id"), 1).is_err());
    }

    #[test]
    fn an_array_and_another_separator_are_doubted_once() {
        let doubt = |text: &[u8], format| {
            let plan = Plan {
                topic: TopicName::parse("t").unwrap(),
                key_field: None,
                format,
                from_line: 1,
                line_bytes_max: 100,
            };
            let mut records = Records::open(text, plan, None).unwrap();
            records.next().unwrap();
            let doubt = records.take_doubt();
            assert_eq!(records.take_doubt(), None);
            doubt
        };
        let array = doubt(b"[\n {\"a\": 1}\n]\n", Format::Auto).unwrap();
        assert!(array.contains("JSON array") && array.contains("jq -c"), "{array}");
        assert!(doubt(b"[{\"a\":1},{\"a\":2}]\n", Format::Json).is_some());
        assert_eq!(doubt(b"{\"a\":[1]}\n", Format::Json), None);
        let header = doubt(b"id;name\n1;Ada\n", Format::Csv).unwrap();
        assert!(header.contains("id;name") && header.contains("commas"), "{header}");
        assert_eq!(doubt(b"id,a;b\n1,2\n", Format::Csv), None);
        let error = read_with(b"id;name\n1;Ada\n", Format::Csv, Some("id"), 1).unwrap_err().to_string();
        assert!(error.contains("no column \"id\"") && error.contains("commas"), "{error}");
    }

    #[test]
    fn lines_are_payloads_and_an_empty_file_is_no_message() {
        assert_eq!(read(b"", Format::Auto, None), []);
        assert_eq!(read(b"", Format::Csv, None), []);
        let all = read(b"one\n\ntwo", Format::Auto, None);
        assert_eq!(all, [good(1, None, "one"), good(2, None, ""), good(3, None, "two")]);
    }

    #[test]
    fn reading_from_a_line_on_keeps_the_numbers_and_the_header() {
        let all = read_with(b"id\n1\n2\n3\n", Format::Csv, Some("id"), 3).unwrap();
        assert_eq!(all, [good(3, Some("2"), "{\"id\":\"2\"}"), good(4, Some("3"), "{\"id\":\"3\"}")]);
        assert_eq!(read_with(b"a\nb\n", Format::Auto, None, 2).unwrap(), [good(2, None, "b")]);
    }

    #[test]
    fn a_line_beyond_the_limit_is_bad_and_costs_no_memory() {
        let text = [b"short\n".as_slice(), &vec![b'x'; 10_000], b"\nagain\n"].concat();
        let all = read(&text, Format::Lines, None);
        assert!(reason(&all[1]).contains("longer than 100 bytes"), "{}", reason(&all[1]));
        assert_eq!(all[2], good(3, None, "again"));
        let text = [b"id,n\n1,\"never closed\n".as_slice(), &b"2,x\n".repeat(60)].concat();
        let all = read(&text, Format::Csv, None);
        assert!(reason(&all[0]).contains("quote"), "{}", reason(&all[0]));
    }
}
