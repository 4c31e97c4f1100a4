//! The group state machine, step by step, with a clock of its own.

mod coordinator;
mod lifecycle;
mod model;
mod statics;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use kafka_protocol::ResponseError;

use super::group::Group;
use super::member::Protocol;
use super::messages::{Answer, Effects, Identity, Join, JoinRefused, Joined, Sync, Synced, Ticket};
use super::options::GroupOptions;

const SESSION: Duration = Duration::from_secs(10);
const REBALANCE: Duration = Duration::from_secs(60);

/// A group with a clock and everything it ever answered.
struct Bench {
    group: Group,
    now: Instant,
    next: u64,
    joins: BTreeMap<Ticket, Result<Joined, JoinRefused>>,
    syncs: BTreeMap<Ticket, Result<Synced, ResponseError>>,
    stored: usize,
}

impl Bench {
    fn new() -> Self {
        Self::with(GroupOptions::default())
    }

    fn with(options: GroupOptions) -> Self {
        Self {
            group: Group::new(Arc::new(options)),
            now: Instant::now(),
            next: 0,
            joins: BTreeMap::new(),
            syncs: BTreeMap::new(),
            stored: 0,
        }
    }

    fn take(&mut self, effects: Effects) {
        self.stored += usize::from(effects.store);
        for answer in effects.answers {
            let twice = match answer {
                Answer::Join(ticket, result) => self.joins.insert(ticket, result).is_some(),
                Answer::Sync(ticket, result) => self.syncs.insert(ticket, result).is_some(),
            };
            assert!(!twice, "a ticket was answered twice");
        }
    }

    fn ticket(&mut self) -> Ticket {
        self.next += 1;
        Ticket(self.next)
    }

    fn join(&mut self, join: Join) -> Ticket {
        let ticket = self.ticket();
        let effects = self.group.join(self.now, join, ticket);
        self.take(effects);
        ticket
    }

    fn sync(&mut self, sync: Sync) -> Ticket {
        let ticket = self.ticket();
        let effects = self.group.sync(self.now, sync, ticket);
        self.take(effects);
        ticket
    }

    fn leave(&mut self, identity: &Identity) -> Result<(), ResponseError> {
        let (result, effects) = self.group.leave(self.now, identity);
        self.take(effects);
        result
    }

    fn heartbeat(&mut self, id: &str, generation: i32) -> Result<(), ResponseError> {
        self.group.heartbeat(self.now, &dynamic(id), generation)
    }

    fn commit(&mut self, id: &str, generation: i32) -> Result<(), ResponseError> {
        self.group.check_commit(self.now, &dynamic(id), generation)
    }

    /// Lets time pass, ticking at every deadline on the way as the clock does.
    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(at) = self.group.next_deadline().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            let effects = self.group.tick(self.now);
            self.take(effects);
        }
        self.now = end;
    }

    fn joined(&self, ticket: Ticket) -> &Joined {
        self.joins.get(&ticket).expect("not answered").as_ref().expect("refused")
    }

    fn join_error(&self, ticket: Ticket) -> ResponseError {
        self.joins.get(&ticket).expect("not answered").as_ref().expect_err("joined").error
    }

    fn assignment(&self, ticket: Ticket) -> &[u8] {
        &self.syncs.get(&ticket).expect("not answered").as_ref().expect("refused").assignment
    }

    fn sync_error(&self, ticket: Ticket) -> ResponseError {
        *self.syncs.get(&ticket).expect("not answered").as_ref().expect_err("synced")
    }

    fn is_parked(&self, ticket: Ticket) -> bool {
        !self.joins.contains_key(&ticket) && !self.syncs.contains_key(&ticket)
    }

    /// A member joins with an id of its choice, without the v4 round trip.
    fn enter(&mut self, id: &str) -> Ticket {
        self.join(Join { fresh_member_id: id.to_owned(), ..join("") })
    }

    /// Brings members `ids` into one stable generation, the first leading.
    fn stable(&mut self, ids: &[&str]) -> i32 {
        let first = self.enter(ids[0]);
        assert_eq!(self.joined(first).leader, ids[0]);
        for id in &ids[1..] {
            self.enter(id);
        }
        for id in ids {
            self.join(join(id));
        }
        let generation = self.group.generation;
        let each = ids.iter().map(|id| ((*id).to_owned(), format!("for {id}"))).collect::<Vec<_>>();
        let parts: Vec<(&str, &str)> = each.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
        for id in ids {
            let assignments = if self.group.is_leader(id) { &parts[..] } else { &[] };
            self.sync(sync(id, generation, assignments));
        }
        assert_eq!(self.group.state_name(), "Stable");
        generation
    }
}

fn dynamic(id: &str) -> Identity {
    Identity { member_id: id.to_owned(), instance_id: None }
}

fn fixed(id: &str, instance: &str) -> Identity {
    Identity { member_id: id.to_owned(), instance_id: Some(instance.to_owned()) }
}

fn protocols(names: &[&str]) -> Vec<Protocol> {
    names
        .iter()
        .map(|n| Protocol { name: (*n).to_owned(), metadata: Bytes::from(format!("meta {n}")) })
        .collect()
}

fn join(id: &str) -> Join {
    Join {
        identity: dynamic(id),
        fresh_member_id: "fresh".to_owned(),
        client_id: "client".to_owned(),
        client_host: "/127.0.0.1".to_owned(),
        session_timeout: SESSION,
        rebalance_timeout: REBALANCE,
        protocol_type: "consumer".to_owned(),
        protocols: protocols(&["range"]),
        needs_known_id: false,
        can_skip_assignment: false,
    }
}

fn sync(id: &str, generation: i32, assignments: &[(&str, &str)]) -> Sync {
    let owned = |(id, part): &(&str, &str)| ((*id).to_owned(), Bytes::copy_from_slice(part.as_bytes()));
    Sync {
        identity: dynamic(id),
        generation,
        protocol_type: None,
        protocol: None,
        assignments: assignments.iter().map(owned).collect(),
    }
}
