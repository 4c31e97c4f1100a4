//! Who may own a thing (an outbox's relay) now: lease and fencing token.
//!
//! The lease lives in one row of the store; reading it, deciding and writing
//! it back happen in one transaction there. The token rises with each change
//! of owner, and every later write of the owner checks it: a lease that is
//! lost unnoticed costs time, never a message.
//!
//! | row says | I hold | decision |
//! |---|---|---|
//! | nothing | no token | acquire the first token |
//! | my token | this token | renew, even when it has run out: nobody took it |
//! | another token, or nothing | a token | lost |
//! | a holder that is known dead | no token | acquire the next token |
//! | a lease that has run out | no token | acquire the next token |
//! | a lease that runs | no token | wait |

/// Rises by one with each change of owner; a write under an older one is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FencingToken(pub u64);

impl FencingToken {
    /// The first owner's token.
    pub const FIRST: Self = Self(1);

    /// The next owner's token.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl std::fmt::Display for FencingToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// The lease as the store has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseState {
    /// Who holds it; unique to one run of one process.
    pub owner: String,
    /// The holder's token.
    pub token: FencingToken,
    /// When it runs out, in milliseconds since 1970 by the store's or the holder's clock.
    pub until_ms: i64,
}

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claimant<'a> {
    /// Its name; unique to one run of one process.
    pub owner: &'a str,
    /// The token it believes to hold.
    pub held: Option<FencingToken>,
}

/// What the one who asks does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaseDecision {
    /// Become the owner under this token.
    Acquire(FencingToken),
    /// Still the owner: write a later end under the same token.
    Renew(FencingToken),
    /// Someone else owns it; look again after this time, or when it is known to be dead.
    Wait {
        /// Until the lease runs out, in milliseconds, 1 or more.
        for_ms: u64,
    },
    /// It was taken away: stop all work under the old token at once.
    Lost,
}

/// Decides for `me`, given the lease as the store has it (`None`: nobody ever held it).
///
/// `holder_alive` is what is known about the process that holds it: `None`
/// when nothing is, as on another host.
///
/// ```
/// use homing_core::lease::{Claimant, FencingToken, LeaseDecision, LeaseState, decide};
/// let state = LeaseState { owner: "a:17".into(), token: FencingToken(3), until_ms: 10_000 };
/// let me = Claimant { owner: "b:4", held: None };
/// assert_eq!(decide(Some(&state), 9_000, me, None), LeaseDecision::Wait { for_ms: 1_000 });
/// assert_eq!(decide(Some(&state), 9_000, me, Some(false)), LeaseDecision::Acquire(FencingToken(4)));
/// ```
#[must_use]
pub fn decide(
    state: Option<&LeaseState>,
    now_ms: i64,
    me: Claimant<'_>,
    holder_alive: Option<bool>,
) -> LeaseDecision {
    let (state, held) = match (state, me.held) {
        (None, None) => return LeaseDecision::Acquire(FencingToken::FIRST),
        (None, Some(_)) => return LeaseDecision::Lost,
        (Some(state), held) => (state, held),
    };
    if let Some(held) = held {
        let mine = state.token == held && state.owner == me.owner;
        return if mine { LeaseDecision::Renew(held) } else { LeaseDecision::Lost };
    }
    let left_ms = state.until_ms.saturating_sub(now_ms);
    if left_ms <= 0 || holder_alive == Some(false) {
        LeaseDecision::Acquire(state.token.next())
    } else {
        LeaseDecision::Wait { for_ms: left_ms.unsigned_abs() }
    }
}

/// Notices that a holder no longer renews, whatever the clocks say.
///
/// A lease end that is far ahead because a clock was set back would keep
/// everyone waiting; a lease that stayed the same for its whole length by the
/// waiter's own monotonic clock is dead too.
#[derive(Debug, Clone, Default)]
pub struct LeaseWatch {
    seen: Option<(FencingToken, i64, u64)>,
}

impl LeaseWatch {
    /// Takes in the lease as read at `monotonic_ms`; says whether it stayed the same for `lease_ms`.
    pub fn unchanged_for(&mut self, state: &LeaseState, monotonic_ms: u64, lease_ms: u64) -> bool {
        match self.seen {
            Some((token, until_ms, since_ms)) if token == state.token && until_ms == state.until_ms => {
                monotonic_ms.saturating_sub(since_ms) >= lease_ms
            }
            _ => {
                self.seen = Some((state.token, state.until_ms, monotonic_ms));
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_owner_renews_late_if_nobody_took_over() {
        let state = LeaseState { owner: "a".into(), token: FencingToken(7), until_ms: 5 };
        let a = Claimant { owner: "a", held: Some(FencingToken(7)) };
        assert_eq!(decide(Some(&state), 1_000_000, a, None), LeaseDecision::Renew(FencingToken(7)));
    }

    #[test]
    fn a_token_of_another_run_is_not_mine() {
        // As after the store was restored: the number came round again.
        let state = LeaseState { owner: "b".into(), token: FencingToken(7), until_ms: 5 };
        let a = Claimant { owner: "a", held: Some(FencingToken(7)) };
        assert_eq!(decide(Some(&state), 0, a, None), LeaseDecision::Lost);
        assert_eq!(FencingToken(7).to_string(), "7");
    }

    #[test]
    fn a_holder_that_stops_renewing_is_noticed_without_its_clock() {
        let mut watch = LeaseWatch::default();
        let state = LeaseState { owner: "a".into(), token: FencingToken(7), until_ms: i64::MAX };
        assert!(!watch.unchanged_for(&state, 1_000, 500));
        assert!(!watch.unchanged_for(&state, 1_499, 500));
        assert!(watch.unchanged_for(&state, 1_500, 500));
        let renewed = LeaseState { until_ms: 9, ..state };
        assert!(!watch.unchanged_for(&renewed, 9_000, 500));
    }

    #[derive(Debug, Clone)]
    struct Turn {
        who: usize,
        passed_ms: i64,
        restarts: bool,
        known_dead: bool,
    }

    fn turn() -> impl Strategy<Value = Turn> {
        (0usize..3, 0i64..60, proptest::bool::weighted(0.1), any::<bool>())
            .prop_map(|(who, passed_ms, restarts, known_dead)| Turn { who, passed_ms, restarts, known_dead })
    }

    proptest! {
        /// Three processes take turns; at any time at most one holds the token
        /// the store has, tokens only rise, and a live holder within its lease
        /// is never deposed.
        #[test]
        fn the_store_knows_one_owner(turns in proptest::collection::vec(turn(), 1..200)) {
            const LEASE_MS: i64 = 100;
            let mut held: [Option<FencingToken>; 3] = [None; 3];
            let mut runs = [0u32; 3];
            let mut state: Option<LeaseState> = None;
            let mut now_ms = 0;
            for Turn { who, passed_ms, restarts, known_dead } in turns {
                now_ms += passed_ms;
                if restarts {
                    runs[who] += 1;
                    held[who] = None;
                }
                let name = |who: usize| format!("{who}.{}", runs[who]);
                let owner = name(who);
                let holder_lives = state.as_ref().is_some_and(|s| (0..3).any(|i| name(i) == s.owner));
                let alive = if known_dead && !holder_lives { Some(false) } else { None };
                match decide(state.as_ref(), now_ms, Claimant { owner: &owner, held: held[who] }, alive) {
                    LeaseDecision::Acquire(token) => {
                        prop_assert!(held[who].is_none());
                        prop_assert!(state.as_ref().is_none_or(|s| s.token < token));
                        prop_assert!(state.as_ref().is_none_or(|s| s.until_ms <= now_ms || !holder_lives));
                        held[who] = Some(token);
                        state = Some(LeaseState { owner, token, until_ms: now_ms + LEASE_MS });
                    }
                    LeaseDecision::Renew(token) => {
                        prop_assert_eq!(Some(token), held[who]);
                        state = Some(LeaseState { owner, token, until_ms: now_ms + LEASE_MS });
                    }
                    LeaseDecision::Wait { for_ms } => {
                        let ends_ms = now_ms + i64::try_from(for_ms).unwrap();
                        prop_assert!(for_ms >= 1);
                        let then = decide(state.as_ref(), ends_ms, Claimant { owner: &owner, held: None }, None);
                        prop_assert!(matches!(then, LeaseDecision::Acquire(_)));
                    }
                    LeaseDecision::Lost => held[who] = None,
                }
                let owners = held.iter().filter(|h| h.is_some() && **h == state.as_ref().map(|s| s.token));
                prop_assert!(owners.count() <= 1);
            }
        }
    }
}
