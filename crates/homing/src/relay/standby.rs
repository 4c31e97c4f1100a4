//! Why a relay that wants to work has to wait for the lease, in words.

use crate::outbox::store::{Holder, Owner};

/// A lease of ours that could not be given back when its session ended.
#[derive(Debug)]
pub(super) struct LeaseLeftBehind {
    /// The owner's name it was taken under.
    pub owner: String,
    /// What was in the way.
    pub error: String,
}

/// Says who holds the lease.
pub(super) fn reason(holder: Option<&Holder>, me: &Owner, left: Option<&LeaseLeftBehind>) -> String {
    let Some(Holder { owner, .. }) = holder else {
        return "standing by: another relay works on this outbox".into();
    };
    if let Some(left) = left.filter(|left| left.owner == owner.name) {
        return format!(
            "this relay could not give its last lease back ({}); it goes on when that is over",
            left.error
        );
    }
    let here = owner.host == me.host && !me.host.is_empty();
    let host = if here { "" } else { " on another host" };
    format!("standing by: process {}{host} relays this outbox", owner.pid)
}

#[cfg(test)]
mod tests {
    use super::*;
    use homing_core::{FencingToken, LeaseState};

    #[test]
    fn a_relay_that_waits_for_its_own_lease_says_why_and_one_that_stands_by_names_the_process() {
        let owner = |pid, host: &str| Owner {
            name: format!("relay:{pid}.7.0@{host}"),
            host: host.into(),
            pid,
            started: 7,
        };
        let held = |owner| Holder {
            owner,
            lease: LeaseState { owner: String::new(), token: FencingToken(1), until_ms: 5 },
        };
        let me = owner(1, "here");
        let left = LeaseLeftBehind { owner: me.name.clone(), error: "the disk is full".into() };
        let own = reason(Some(&held(owner(1, "here"))), &me, Some(&left));
        assert!(own.contains("could not give its last lease back (the disk is full)"), "{own}");
        let other = reason(Some(&held(owner(2, "here"))), &me, Some(&left));
        assert_eq!(other, "standing by: process 2 relays this outbox");
        let elsewhere = reason(Some(&held(owner(1, "there"))), &me, None);
        assert_eq!(elsewhere, "standing by: process 1 on another host relays this outbox");
    }
}
