//! What an error code of Kafka's means for a record, its lane, its topic or the client.
//!
//! A record is set aside only for what is wrong with this very record, for
//! certain. Everything else waits, says why, and is tried again.

use super::error_codes::TABLE;

/// Whose fault an error is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// This very record's: sent alone and refused again, it is set aside.
    Record,
    /// The topic's: its lanes wait and are tried apart.
    Topic,
    /// The lane's: it waits and is tried apart.
    Lane,
    /// The client's, its clock's, format's, rights' or settings': the lane waits and is tried apart.
    Client,
    /// Nobody's for certain: the record may be in the log, which is asked.
    Indeterminate,
}

/// One error code: what it means and what follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// Kafka's number, or librdkafka's own (negative).
    pub code: i32,
    /// Its name there.
    pub name: &'static str,
    /// Whose fault it is.
    pub class: Class,
    /// The finding it is a sign of.
    pub finding: Option<&'static str>,
    /// Why, and what helps.
    pub reason: &'static str,
}

/// What a code means; one that is not known is indeterminate.
#[must_use]
pub fn verdict(code: i32) -> Verdict {
    let known = TABLE.iter().find(|verdict| verdict.code == code);
    known.copied().unwrap_or(Verdict {
        code,
        name: "an unknown error",
        class: Class::Indeterminate,
        finding: None,
        reason: "the log is read for what arrived",
    })
}

impl Class {
    /// The class in words, as the documentation has it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Record => "record: set aside when it is refused alone",
            Self::Topic => "topic: its lanes wait",
            Self::Lane => "lane: it waits",
            Self::Client => "client, clock, format, rights, settings: the lane waits",
            Self::Indeterminate => "indeterminate: the log is asked",
        }
    }
}

/// The table as `docs/errors.md` shows it.
#[must_use]
pub fn as_markdown() -> String {
    let mut lines = String::from(
        "| code | name | whose fault, and what follows | finding | why |\n|---|---|---|---|---|\n",
    );
    for Verdict { code, name, class, finding, reason } in TABLE {
        let finding = finding.unwrap_or("");
        lines.push_str(&format!("| {code} | {} | {} | {finding} | {reason} |\n", name, class.as_str()));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_of_the_protocol_has_one_verdict() {
        for code in -1..=129 {
            assert_eq!(TABLE.iter().filter(|verdict| verdict.code == code).count(), 1, "{code}");
        }
        let mut codes: Vec<_> = TABLE.iter().map(|verdict| verdict.code).collect();
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), TABLE.len());
        assert_eq!(verdict(4711).class, Class::Indeterminate);
    }

    #[test]
    fn only_what_is_about_this_very_record_sets_it_aside() {
        let aside: Vec<_> = TABLE.iter().filter(|v| v.class == Class::Record).map(|v| v.name).collect();
        let want =
            ["MESSAGE_TOO_LARGE", "RECORD_LIST_TOO_LARGE", "INVALID_RECORD", "_INVALID_DIFFERENT_RECORD"];
        assert_eq!(aside, want);
    }

    #[test]
    fn the_documentation_shows_the_table() {
        let docs = include_str!("../../../../docs/errors.md");
        assert!(docs.contains(&as_markdown()), "docs/errors.md should hold:\n{}", as_markdown());
    }
}
