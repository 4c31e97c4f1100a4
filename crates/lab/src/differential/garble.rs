//! Requests that no client would send: unknown APIs and versions, bodies cut short, too long, or made of noise.

use super::ops::Dice;
use super::side::{Outcome, Side};
use kafka_protocol::messages::ApiKey;
use std::io;

/// A request that cannot be right.
#[derive(Debug, Clone, PartialEq)]
pub struct Garble {
    /// The API's number.
    api: i16,
    /// The version's.
    version: i16,
    /// The whole body.
    body: Vec<u8>,
}

const APIS: [ApiKey; 12] = [
    ApiKey::Produce,
    ApiKey::Fetch,
    ApiKey::ListOffsets,
    ApiKey::Metadata,
    ApiKey::CreateTopics,
    ApiKey::DeleteTopics,
    ApiKey::JoinGroup,
    ApiKey::OffsetCommit,
    ApiKey::OffsetFetch,
    ApiKey::DescribeConfigs,
    ApiKey::DeleteRecords,
    ApiKey::FindCoordinator,
];

impl Garble {
    /// The next one of the dice.
    pub fn random(dice: &mut Dice) -> Self {
        let api = dice.pick(&APIS) as i16;
        // Versions in which all of these exist, from the oldest encoding to the compact one.
        let version = dice.pick(&[4, 5]);
        match dice.below(5) {
            0 => Self { api: dice.pick(&[999, -1, 7]), version: 0, body: vec![0; 8] },
            1 => Self { api, version: dice.pick(&[99, -1]), body: vec![0; 8] },
            2 => Self { api, version, body: Vec::new() },
            // Lengths that announce far more than there is.
            3 => Self { api, version, body: vec![0x7f; 12] },
            _ => {
                let length = 1 + dice.below(3);
                Self { api, version, body: (0..length).map(|_| dice.pick(&[0xff, 0x80, 0x40])).collect() }
            }
        }
    }

    /// Sends it: whether the broker answers or ends the connection.
    pub(super) fn ask(&self, side: &mut Side) -> io::Result<String> {
        Ok(match side.exchange_raw(self.api, self.version, 1, &self.body)? {
            Outcome::Answer(_) => "answered".to_owned(),
            Outcome::Closed => "closed".to_owned(),
            Outcome::Silent => "silent".to_owned(),
        })
    }
}
