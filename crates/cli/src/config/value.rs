//! One setting's value and the place it was given at.

use super::keys::Kind;
use std::fmt;
use std::path::PathBuf;

/// A checked value.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// A text or one of a choice's words.
    Text(String),
    /// A switch.
    Bool(bool),
    /// A count or milliseconds.
    Whole(u64),
    /// A ratio.
    Number(f64),
}

/// Where a value was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A file and its line.
    File(PathBuf, usize),
    /// An environment variable.
    Variable(String),
    /// A flag.
    Flag(&'static str),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path, line) => write!(f, "{}:{line}", path.display()),
            Self::Variable(name) => write!(f, "variable {name}"),
            Self::Flag(name) => write!(f, "flag {name}"),
        }
    }
}

/// A value with its place.
#[derive(Debug, Clone, PartialEq)]
pub struct Located {
    pub value: Value,
    pub place: Place,
}

/// Reads a variable's or flag's text as the key's kind.
pub fn from_text(kind: Kind, text: &str) -> Result<Value, ()> {
    let text = text.trim();
    let value = match kind {
        Kind::Text | Kind::Choice(_) => Value::Text(text.to_owned()),
        Kind::Bool => Value::Bool(match text.to_ascii_lowercase().as_str() {
            "true" | "1" | "yes" => true,
            "false" | "0" | "no" => false,
            _ => return Err(()),
        }),
        Kind::Count(_) | Kind::Millis(_) => Value::Whole(text.replace('_', "").parse().map_err(|_| ())?),
        Kind::Ratio(..) => Value::Number(text.parse().map_err(|_| ())?),
    };
    check(kind, value)
}

/// Whether the value is of the key's kind and within its bounds.
pub fn check(kind: Kind, value: Value) -> Result<Value, ()> {
    let fits = match (kind, &value) {
        (Kind::Text, Value::Text(_)) | (Kind::Bool, Value::Bool(_)) => true,
        // A number that a database or client keeps as i64 must fit there too.
        (Kind::Count(least) | Kind::Millis(least), Value::Whole(n)) => *n >= least && *n <= i64::MAX as u64,
        (Kind::Ratio(least, most), Value::Number(n)) => (least..=most).contains(n),
        (Kind::Choice(words), Value::Text(word)) => words.contains(&word.as_str()),
        _ => false,
    };
    if fits { Ok(value) } else { Err(()) }
}
