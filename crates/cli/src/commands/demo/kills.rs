//! When what is killed and comes back: a fixed plan, so that both sides suffer the same.

use std::time::Duration;

/// A pair of processes, one of each side, or what both share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// Our relay; the usual application, which does its own sending.
    Sender,
    /// Both applications.
    Application,
    /// Both consumers.
    Consumer,
    /// The broker.
    Broker,
}

/// One act of the plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// SIGKILL.
    Kill(Target),
    /// Start again what was killed.
    Start(Target),
}

/// One round: what happens how many ms after it began.
///
/// The broker is away for 900 ms, and in that time a sender dies: a deploy
/// during an outage is where messages that were not waited for are lost.
const ROUND: &[(u64, Act)] = &[
    (600, Act::Kill(Target::Sender)),
    (750, Act::Start(Target::Sender)),
    (1400, Act::Kill(Target::Consumer)),
    (1550, Act::Start(Target::Consumer)),
    (2200, Act::Kill(Target::Application)),
    (2350, Act::Start(Target::Application)),
    (3000, Act::Kill(Target::Broker)),
    (3600, Act::Kill(Target::Sender)),
    (3900, Act::Start(Target::Broker)),
    (4000, Act::Start(Target::Sender)),
    (4700, Act::Kill(Target::Consumer)),
    (4850, Act::Start(Target::Consumer)),
];
const ROUND_LENGTH: Duration = Duration::from_millis(5200);
/// Kills begin when everything is at work.
const FIRST: Duration = Duration::from_millis(1500);

/// The plan and how far it is.
#[derive(Debug)]
pub struct Plan {
    acts: Vec<(Duration, Act)>,
    done: usize,
}

impl Plan {
    /// As many rounds as fit into `length`, at least the first acts of one.
    pub fn new(length: Duration) -> Self {
        let rounds = (0..).map(|n| FIRST + ROUND_LENGTH * n).take_while(|start| *start < length);
        let acts = rounds
            .flat_map(|start| ROUND.iter().map(move |(ms, act)| (start + Duration::from_millis(*ms), *act)));
        let acts = acts.filter(|(at, act)| *at < length || matches!(act, Act::Start(_)));
        Self { acts: acts.collect(), done: 0 }
    }

    /// What is due by now and was not given out before.
    pub fn due(&mut self, now: Duration) -> Vec<Act> {
        let due = self.acts[self.done..].iter().take_while(|(at, _)| *at <= now).count();
        let acts = self.acts[self.done..self.done + due].iter().map(|(_, act)| *act).collect();
        self.done += due;
        acts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_that_is_killed_is_killed_again_only_after_it_was_started() {
        let mut plan = Plan::new(Duration::from_secs(30));
        let mut down = Vec::new();
        let acts = plan.due(Duration::MAX);
        assert!(acts.iter().filter(|act| matches!(act, Act::Kill(_))).count() > 20);
        for act in acts {
            match act {
                Act::Kill(target) => {
                    assert!(!down.contains(&target), "{target:?} is down already");
                    down.push(target);
                }
                Act::Start(target) => down.retain(|other| *other != target),
            }
        }
        assert_eq!(down, []);
    }

    #[test]
    fn each_act_is_given_out_once() {
        let mut plan = Plan::new(Duration::from_secs(5));
        let first = plan.due(Duration::from_secs(3));
        let rest = plan.due(Duration::MAX);
        assert!(!first.is_empty() && !rest.is_empty());
        assert!(plan.due(Duration::MAX).is_empty());
    }
}
