//! Follows the frames of a Kafka connection as they pass, to know which request or answer begins where.
//!
//! A frame is its length (4 bytes) and so many bytes; a request begins with its API's key (2),
//! version (2) and correlation id (4), an answer with the correlation id of its request. A login
//! before version 1 of `SaslHandshake`, and TLS, are no such frames: what is found there means nothing.

const LENGTH: usize = 4;

/// The beginning of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Head {
    /// Of a request.
    Request {
        /// Which API.
        api_key: i16,
        /// What its answer will carry.
        correlation: i32,
    },
    /// Of an answer.
    Answer {
        /// What its request carried.
        correlation: i32,
    },
}

/// Follows one direction of one connection.
#[derive(Debug)]
pub(super) struct Follower {
    /// How many bytes behind the length are wanted of each frame.
    wanted: usize,
    head: Vec<u8>,
    /// Bytes of the current frame behind its head.
    left: usize,
}

impl Follower {
    pub fn of_requests() -> Self {
        Self { wanted: 8, head: Vec::new(), left: 0 }
    }

    pub fn of_answers() -> Self {
        Self { wanted: 4, head: Vec::new(), left: 0 }
    }

    /// The heads that are complete with `bytes`, which came next.
    pub fn follow(&mut self, mut bytes: &[u8]) -> Vec<Head> {
        let mut heads = Vec::new();
        while let Some((byte, rest)) = bytes.split_first() {
            if self.left > 0 {
                let step = self.left.min(bytes.len());
                self.left -= step;
                bytes = &bytes[step..];
                continue;
            }
            self.head.push(*byte);
            bytes = rest;
            let Some(length) = self.head.first_chunk::<LENGTH>() else { continue };
            let length = u32::from_be_bytes(*length) as usize;
            if self.head.len() == LENGTH + length.min(self.wanted) {
                self.left = length.saturating_sub(self.wanted);
                heads.extend(read(&self.head[LENGTH..], self.wanted));
                self.head.clear();
            }
        }
        heads
    }
}

/// `None` of a frame too short to be what it should be.
fn read(head: &[u8], wanted: usize) -> Option<Head> {
    let correlation = i32::from_be_bytes(*head.last_chunk()?);
    if wanted == 4 {
        return Some(Head::Answer { correlation });
    }
    let api_key = i16::from_be_bytes(*head.first_chunk()?);
    (head.len() == wanted).then_some(Head::Request { api_key, correlation })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len()).expect("small");
        [&length.to_be_bytes()[..], body].concat()
    }

    #[test]
    fn heads_are_found_however_the_bytes_are_cut() {
        let produce = frame(&[0, 0, 0, 9, 0, 0, 0, 7, 1, 2, 3]);
        let versions = frame(&[0, 18, 0, 3, 0, 0, 0, 8]);
        let bytes = [produce, frame(&[]), frame(&[0, 1]), versions].concat();
        let expected =
            [Head::Request { api_key: 0, correlation: 7 }, Head::Request { api_key: 18, correlation: 8 }];
        for step in 1..=bytes.len() {
            let mut follower = Follower::of_requests();
            let found: Vec<_> = bytes.chunks(step).flat_map(|chunk| follower.follow(chunk)).collect();
            assert_eq!(found, expected, "in steps of {step}");
        }
        let mut follower = Follower::of_answers();
        let answers = [frame(&[0, 0, 0, 7, 5, 5]), frame(&[0, 0, 0, 8])].concat();
        let expected = [Head::Answer { correlation: 7 }, Head::Answer { correlation: 8 }];
        assert_eq!(follower.follow(&answers), expected);
    }
}
