//! Differences that are there by design; docs/broker.md gives each with its reason.

use super::batch::{Batch, Flaw};
use super::ops::Op;
use std::collections::BTreeSet;

const UNKNOWN_TOPIC_OR_PARTITION: i16 = 3;
const ILLEGAL_GENERATION: i16 = 22;
const INVALID_REQUEST: i16 = 42;
const INCONSISTENT_GROUP_PROTOCOL: i16 = 23;
const UNKNOWN_MEMBER_ID: i16 = 25;
const GROUP_ID_NOT_FOUND: i16 = 69;
const INVALID_REQUIRED_ACKS: i16 = 21;
const INVALID_RECORD: i16 = 87;
const UNKNOWN_SERVER_ERROR: i16 = -1;

/// Why answers may differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Known {
    /// Several things are wrong with one request, and each side names another one first.
    NamesAnotherFault,
    /// Kafka stumbles over an operation on settings, or a compression, that does not exist or is none.
    NoCodeOfItsOwn,
    /// A group in which nobody ever was: kept for a while by one side.
    UntouchedGroup,
}

/// The error codes in an answer, in order.
pub(super) fn codes(answer: &str) -> Vec<i16> {
    let words: Vec<&str> = answer.split([' ', ';', '[', ']', ',']).filter(|word| !word.is_empty()).collect();
    words.windows(2).filter(|pair| pair[0] == "error").filter_map(|pair| pair[1].parse().ok()).collect()
}

/// Why this difference is known, if it is.
#[must_use]
pub fn known(op: &Op, ours: &str, theirs: &str) -> Option<Known> {
    let (mine, other) = (codes(ours), codes(theirs));
    match op {
        Op::AlterConfig { how, .. }
            if !(0..=3).contains(how)
                && mine == [INVALID_REQUEST]
                && matches!(other[..], [UNKNOWN_SERVER_ERROR]) =>
        {
            Some(Known::NoCodeOfItsOwn)
        }
        Op::Produce { batch: Batch::Broken(Flaw::Attributes | Flaw::NotGzip), .. }
            if matches!(mine[..], [INVALID_RECORD | INVALID_REQUIRED_ACKS])
                && other == [UNKNOWN_SERVER_ERROR] =>
        {
            Some(Known::NoCodeOfItsOwn)
        }
        Op::AlterConfig { .. } => {
            let general = [UNKNOWN_TOPIC_OR_PARTITION];
            let several = |one: &[i16], another: &[i16]| matches!((one, another), ([one], [another]) if general.contains(one) && *another != 0);
            (several(&mine, &other) || several(&other, &mine)).then_some(Known::NamesAnotherFault)
        }
        Op::DeleteGroup { .. } if mine == [GROUP_ID_NOT_FOUND] && other == [0] => Some(Known::UntouchedGroup),
        Op::Commit { .. }
            if matches!(mine[..], [ILLEGAL_GENERATION | GROUP_ID_NOT_FOUND])
                && other == [UNKNOWN_MEMBER_ID] =>
        {
            Some(Known::UntouchedGroup)
        }
        Op::Join { .. } => {
            let refusals = [INCONSISTENT_GROUP_PROTOCOL, UNKNOWN_MEMBER_ID];
            let is_refused = |codes: &[i16]| matches!(codes, [code] if refusals.contains(code));
            (is_refused(&mine) && is_refused(&other)).then_some(Known::UntouchedGroup)
        }
        Op::DescribeGroup { .. } => {
            let nobody = |answer: &str| {
                answer.contains("members 0") && (answer.contains("Empty \"\"") || answer.contains("Dead"))
            };
            (nobody(ours) && nobody(theirs)).then_some(Known::UntouchedGroup)
        }
        Op::ListGroups { .. } => {
            let touched = |answer: &str| -> BTreeSet<String> {
                let groups = answer.split(['[', ']', ';']).map(str::trim);
                groups
                    .filter(|group| group.starts_with('g') && !group.contains("\"\""))
                    .map(Into::into)
                    .collect()
            };
            (mine == other && touched(ours) == touched(theirs)).then_some(Known::UntouchedGroup)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::codes;

    #[test]
    fn codes_are_found_wherever_they_stand() {
        assert_eq!(codes("[[-1 error 21 at -1]]"), [21]);
        assert_eq!(codes("error 0 [[0 error 1 from -1 stable -1 to -1: ]]"), [0, 1]);
        assert_eq!(codes("[error -1]"), [-1]);
        assert_eq!(codes("closed"), Vec::<i16>::new());
    }
}
