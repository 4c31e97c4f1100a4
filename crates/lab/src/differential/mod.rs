//! The same requests to two brokers, and the first answer that differs.
//!
//! A sequence is made from a seed, run on topics and groups of its own on both
//! sides, and compared answer by answer after what must differ (ids, times,
//! addresses, words) is taken out. A sequence that shows a difference is made
//! shorter as long as it still does.

mod ask;
mod batch;
mod garble;
mod known;
mod ops;
mod side;

pub use known::{Known, known};
pub use ops::Op;
pub use side::Side;

use known::codes;
use ops::Dice;
use std::fmt;
use std::io;
use std::time::{Duration, Instant};

/// How long an answer about what just changed may differ, while the news spreads.
const SPREADS_WITHIN: Duration = Duration::from_secs(3);
const NOT_LEADER_OR_FOLLOWER: i16 = 6;

/// Two brokers under comparison.
#[derive(Debug)]
pub struct Pair {
    ours: Side,
    theirs: Side,
    runs: u64,
    compared: u64,
}

/// An answer that differs.
#[derive(Debug, Clone)]
pub struct Difference {
    /// The sequence, as short as it was found to show it; the last operation is the one that differs.
    pub ops: Vec<Op>,
    /// Our answer.
    pub ours: String,
    /// Apache Kafka's.
    pub theirs: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for op in &self.ops {
            writeln!(f, "  {op:?}")?;
        }
        writeln!(f, "  embedded: {}\n  Kafka:    {}", self.ours, self.theirs)
    }
}

impl Pair {
    /// Connects to both and agrees on the versions that both offer.
    ///
    /// # Errors
    /// When one of them cannot be reached.
    pub fn new(ours: &str, theirs: &str) -> io::Result<Self> {
        let (mut ours, mut theirs) = (Side::connect(ours)?, Side::connect(theirs)?);
        let versions = ours.versions_shared_with(&mut theirs)?;
        ours.versions.clone_from(&versions);
        theirs.versions = versions;
        theirs.wait_for_coordinators()?;
        Ok(Self { ours, theirs, runs: 0, compared: 0 })
    }

    /// How many requests were compared so far.
    #[must_use]
    pub fn compared(&self) -> u64 {
        self.compared
    }

    /// Makes `length` operations of a seed and runs them; `is_known` tells differences that are documented.
    ///
    /// # Errors
    /// When a broker stops answering.
    pub fn try_seed(
        &mut self,
        seed: u64,
        length: usize,
        is_known: &mut dyn FnMut(&Op, &str, &str) -> bool,
    ) -> io::Result<Option<Difference>> {
        let mut dice = Dice::new(seed);
        let random = (0..length).map(|_| Op::random(&mut dice));
        let mut ops: Vec<Op> = Op::beginning().into_iter().chain(random).collect();
        let Some((at, mut ours, mut theirs)) = self.run(&ops, is_known)? else { return Ok(None) };
        ops.truncate(at + 1);
        let mut left_out = 0;
        while left_out + 1 < ops.len() {
            let mut shorter = ops.clone();
            shorter.remove(left_out);
            match self.run(&shorter, is_known)? {
                Some((at, mine, other)) if at + 1 == shorter.len() => {
                    (ops, ours, theirs) = (shorter, mine, other);
                }
                _ => left_out += 1,
            }
        }
        Ok(Some(Difference { ops, ours, theirs }))
    }

    /// Runs a sequence; where the answers first differ, and what they are.
    fn run(
        &mut self,
        ops: &[Op],
        is_known: &mut dyn FnMut(&Op, &str, &str) -> bool,
    ) -> io::Result<Option<(usize, String, String)>> {
        self.runs += 1;
        let name = format!("d{}-{}", std::process::id(), self.runs);
        self.ours.begin(&name);
        self.theirs.begin(&name);
        for (at, op) in ops.iter().enumerate() {
            self.compared += 1;
            let (mut ours, mut theirs) = (op.ask(&mut self.ours)?, op.ask(&mut self.theirs)?);
            let deadline = Instant::now() + SPREADS_WITHIN;
            // A leader that is just being made refuses, and did nothing.
            while codes(&theirs).contains(&NOT_LEADER_OR_FOLLOWER) && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(20));
                theirs = op.ask(&mut self.theirs)?;
            }
            while ours != theirs
                && op.only_reads()
                && !is_known(op, &ours, &theirs)
                && Instant::now() < deadline
            {
                std::thread::sleep(Duration::from_millis(50));
                (ours, theirs) = (op.ask(&mut self.ours)?, op.ask(&mut self.theirs)?);
            }
            if ours != theirs && !is_known(op, &ours, &theirs) {
                return Ok(Some((at, ours, theirs)));
            }
            if let Some(look) = op.settles() {
                while look.ask(&mut self.ours)? != look.ask(&mut self.theirs)? && Instant::now() < deadline {
                    std::thread::sleep(Duration::from_millis(20));
                }
            }
        }
        Ok(None)
    }
}
