//! Random interleavings of members that join, sync, stall, crash, come back and commit late.
//!
//! Whatever the order: generations only rise; all members of a generation know one leader and
//! one protocol; each gets exactly what that leader gave it, so no partition has two owners in
//! one generation; a commit from another generation is refused; every parked request is
//! answered, once.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

const PARTITIONS: usize = 6;

#[derive(Debug, Clone, Copy)]
enum Act {
    Join,
    Sync,
    Heartbeat,
    Leave,
    Commit,
    /// The process dies: it forgets everything and the group hears nothing.
    Crash,
    Pass(u64),
}

/// What one client process believes.
#[derive(Debug, Default, Clone)]
struct Client {
    id: Option<String>,
    generation: Option<i32>,
    leads: Vec<String>,
    waiting: Option<Ticket>,
}

struct World {
    bench: Bench,
    clients: Vec<Client>,
    lives: usize,
    /// Per generation: leader and protocol as the first answer named them.
    named: BTreeMap<i32, (String, String)>,
    /// Per generation: what its leader gave to whom.
    given: BTreeMap<i32, BTreeMap<String, Bytes>>,
    /// Who asked with which sync.
    asked: BTreeMap<Ticket, (String, i32)>,
    issued: Vec<Ticket>,
    highest: i32,
    /// Every (member, generation) ever told.
    ever: BTreeSet<(String, i32)>,
}

impl World {
    fn new(clients: usize, delay: Duration) -> Self {
        let options = GroupOptions { initial_rebalance_delay: delay, ..GroupOptions::default() };
        Self {
            bench: Bench::with(options),
            clients: vec![Client::default(); clients],
            lives: 0,
            named: BTreeMap::new(),
            given: BTreeMap::new(),
            asked: BTreeMap::new(),
            issued: Vec::new(),
            highest: 0,
            ever: BTreeSet::new(),
        }
    }

    fn act(&mut self, who: usize, act: Act) {
        match act {
            Act::Join => self.join(who),
            Act::Sync => self.sync(who),
            Act::Heartbeat => self.heartbeat(who),
            Act::Leave => {
                if let Some(id) = self.clients[who].id.take() {
                    let _ = self.bench.leave(&dynamic(&id));
                    self.clients[who] = Client::default();
                }
            }
            Act::Commit => self.commits(),
            Act::Crash => self.clients[who] = Client::default(),
            Act::Pass(ms) => self.bench.pass(Duration::from_millis(ms)),
        }
        self.read_answers();
        assert!(self.bench.group.generation >= self.highest, "a generation came back");
        self.highest = self.bench.group.generation;
    }

    fn join(&mut self, who: usize) {
        let client = &self.clients[who];
        if client.waiting.is_some() {
            return;
        }
        self.lives += 1;
        let request = Join {
            fresh_member_id: format!("m{}", self.lives),
            needs_known_id: who.is_multiple_of(2),
            protocols: protocols(if who == 0 { &["range", "roundrobin"] } else { &["roundrobin", "range"] }),
            ..join(client.id.as_deref().unwrap_or_default())
        };
        let ticket = self.bench.join(request);
        self.issued.push(ticket);
        self.clients[who].waiting = Some(ticket);
    }

    fn sync(&mut self, who: usize) {
        let Client { id: Some(id), generation: Some(generation), leads, waiting: None } = &self.clients[who]
        else {
            return;
        };
        let parts = share_out(leads, *generation);
        let completing = self.bench.group.phase == super::super::group::Phase::CompletingRebalance;
        let accepted = completing
            && *generation == self.bench.group.generation
            && self.bench.group.is_leader(id)
            && !leads.is_empty();
        if accepted {
            self.given.insert(*generation, parts.iter().cloned().collect());
        }
        let request = Sync { assignments: parts, ..sync(id, *generation, &[]) };
        let asked = (id.clone(), *generation);
        let ticket = self.bench.sync(request);
        self.issued.push(ticket);
        self.asked.insert(ticket, asked);
        self.clients[who].waiting = Some(ticket);
    }

    fn heartbeat(&mut self, who: usize) {
        let Client { id: Some(id), generation: Some(generation), .. } = self.clients[who].clone() else {
            return;
        };
        match self.bench.heartbeat(&id, generation) {
            Err(ResponseError::UnknownMemberId) => self.clients[who] = Client::default(),
            Err(ResponseError::IllegalGeneration) => self.clients[who].generation = None,
            _ => {}
        }
    }

    /// Everybody who ever was a member tries to commit.
    fn commits(&mut self) {
        for (id, generation) in self.ever.clone() {
            let ok = self.bench.commit(&id, generation).is_ok();
            if ok {
                assert_eq!(generation, self.bench.group.generation, "{id} committed from another generation");
                assert!(self.bench.group.members.contains_key(&id), "{id} committed from outside");
            }
        }
    }

    fn read_answers(&mut self) {
        for who in 0..self.clients.len() {
            let Some(ticket) = self.clients[who].waiting else { continue };
            if let Some(answer) = self.bench.joins.get(&ticket).cloned() {
                self.clients[who].waiting = None;
                self.read_join(who, answer);
            } else if let Some(answer) = self.bench.syncs.get(&ticket).cloned() {
                self.clients[who].waiting = None;
                if answer == Err(ResponseError::UnknownMemberId) {
                    self.clients[who] = Client::default();
                }
            }
        }
        for (ticket, (id, generation)) in &self.asked {
            if let Some(Ok(synced)) = self.bench.syncs.get(ticket) {
                let given = self.given.get(generation).expect("a sync was answered before the leader's");
                let mine = given.get(id).cloned().unwrap_or_default();
                assert_eq!(synced.assignment, mine, "{id} in generation {generation}");
            }
        }
    }

    fn read_join(&mut self, who: usize, answer: Result<Joined, JoinRefused>) {
        let client = &mut self.clients[who];
        match answer {
            Ok(joined) => {
                let named = (joined.leader.clone(), joined.protocol.clone());
                let first = self.named.entry(joined.generation).or_insert_with(|| named.clone());
                assert_eq!(*first, named, "generation {} has two minds", joined.generation);
                assert_eq!(joined.members.is_empty(), joined.leader != joined.member_id);
                client.leads = joined.members.iter().map(|m| m.identity.member_id.clone()).collect();
                client.generation = Some(joined.generation);
                client.id = Some(joined.member_id.clone());
                self.ever.insert((joined.member_id, joined.generation));
            }
            Err(refused) if refused.error == ResponseError::MemberIdRequired => {
                client.id = Some(refused.member_id);
            }
            Err(refused) if refused.error == ResponseError::UnknownMemberId => *client = Client::default(),
            Err(_) => {}
        }
    }
}

/// Partitions 0..6 dealt to the members in turn; the generation makes each deal unlike others.
fn share_out(members: &[String], generation: i32) -> Vec<(String, Bytes)> {
    let part = |nth: usize| (nth..PARTITIONS).step_by(members.len().max(1)).map(|p| p as u8);
    let with_generation = |nth| generation.to_be_bytes().into_iter().chain(part(nth)).collect();
    members.iter().enumerate().map(|(nth, id)| (id.clone(), with_generation(nth))).collect()
}

fn acts() -> impl Strategy<Value = Vec<(usize, Act)>> {
    let act = prop_oneof![
        6 => Just(Act::Join),
        6 => Just(Act::Sync),
        4 => Just(Act::Heartbeat),
        1 => Just(Act::Leave),
        3 => Just(Act::Commit),
        1 => Just(Act::Crash),
        3 => (1u64..9_000).prop_map(Act::Pass),
        1 => (1u64..90_000).prop_map(Act::Pass),
    ];
    proptest::collection::vec((0usize..4, act), 1..120)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn no_interleaving_breaks_a_generation(acts in acts(), delay_ms in prop_oneof![Just(0), 1u64..4000]) {
        let mut world = World::new(4, Duration::from_millis(delay_ms));
        for (who, act) in acts {
            world.act(who, act);
        }
        world.bench.pass(Duration::from_secs(3600));
        world.read_answers();
        for ticket in &world.issued {
            prop_assert!(!world.bench.is_parked(*ticket), "{ticket:?} was never answered");
        }
        prop_assert!(world.bench.group.is_empty(), "silent members stay: {:?}", world.bench.group);
    }
}

#[test]
fn the_model_reaches_stable_groups_of_several_members() {
    // A property test that only ever saw refusals would prove nothing.
    let mut world = World::new(3, Duration::ZERO);
    for _ in 0..6 {
        for who in 0..3 {
            world.act(who, Act::Join);
        }
        for who in 0..3 {
            world.act(who, Act::Sync);
        }
    }
    world.act(0, Act::Commit);
    assert!(world.given.values().any(|given| given.len() == 3), "{:?}", world.given);
    let accepted = world.ever.clone().into_iter().filter(|(id, g)| world.bench.commit(id, *g).is_ok());
    assert_eq!(accepted.count(), world.bench.group.members.len());
}
