//! The relay's lease row: who owns the outbox, until when, and what keeps it waiting.

use crate::outbox::error::{During, OutboxError};
use crate::outbox::store::{Holder, Owner, Weakness};
use homing_core::{Claimant, FencingToken, LeaseDecision, LeaseState, TopicName, lease};
use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, params};
use std::sync::Arc;

pub(super) fn holder(connection: &Connection) -> Result<Option<Holder>, OutboxError> {
    connection
        .prepare_cached(
            "SELECT token, owner, host, pid, pid_started, lease_until_ms FROM homing_relay WHERE one = 1",
        )
        .and_then(|mut statement| {
            statement
                .query_row([], |row| {
                    let name: String = row.get(1)?;
                    Ok(Holder {
                        owner: Owner {
                            name: name.clone(),
                            host: row.get(2)?,
                            pid: row.get(3)?,
                            started: row.get::<_, i64>(4)? as u64,
                        },
                        lease: LeaseState {
                            owner: name,
                            token: FencingToken(row.get::<_, i64>(0)? as u64),
                            until_ms: row.get(5)?,
                        },
                    })
                })
                .optional()
        })
        .during("read the relay's lease")
}

pub(super) fn acquire(
    connection: &mut Connection,
    me: &Owner,
    now_ms: i64,
    lease_ms: i64,
    alive: &dyn Fn(&Holder) -> Option<bool>,
) -> Result<LeaseDecision, OutboxError> {
    let acquire = "take the relay's lease";
    let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate).during(acquire)?;
    let holder = holder(&tx)?;
    let decision = lease::decide(
        holder.as_ref().map(|holder| &holder.lease),
        now_ms,
        Claimant { owner: &me.name, held: None },
        holder.as_ref().and_then(alive),
    );
    if let LeaseDecision::Acquire(token) = decision {
        tx.execute(
            "INSERT INTO homing_relay (one, token, owner, host, pid, pid_started, lease_until_ms) \
             VALUES (1, ?1, ?2, ?3, ?4, ?5, ?6) \
             ON CONFLICT (one) DO UPDATE SET token = ?1, owner = ?2, host = ?3, pid = ?4, pid_started = ?5, \
             lease_until_ms = ?6, trouble = NULL, trouble_since_ms = NULL",
            params![token.0 as i64, me.name, me.host, me.pid, me.started as i64, now_ms + lease_ms],
        )
        .during(acquire)?;
        tx.commit().during(acquire)?;
    }
    Ok(decision)
}

/// Who writes: a token alone comes round again when a backup is restored, an owner's name does not.
#[derive(Debug, Clone)]
pub(super) struct Fence {
    pub token: FencingToken,
    pub owner: Arc<str>,
}

/// Starts a transaction that fails as fenced unless token and owner are the current ones.
pub(super) fn fenced<'c>(
    connection: &'c mut Connection,
    fence: &Fence,
    operation: &'static str,
) -> Result<Transaction<'c>, OutboxError> {
    let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate).during(operation)?;
    let current = tx
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM homing_relay WHERE token = ?1 AND owner = ?2)")
        .and_then(|mut statement| {
            statement.query_row(params![fence.token.0 as i64, &*fence.owner], |row| row.get(0))
        })
        .during(operation)?;
    if current { Ok(tx) } else { Err(OutboxError::Fenced { operation, token: fence.token.0 }) }
}

pub(super) fn renew(
    connection: &mut Connection,
    fence: &Fence,
    lease_until_ms: i64,
) -> Result<(), OutboxError> {
    let renew = "renew the relay's lease";
    let tx = fenced(connection, fence, renew)?;
    set_lease(&tx, lease_until_ms).during(renew)?;
    tx.commit().during(renew)
}

pub(super) fn set_lease(tx: &Transaction<'_>, lease_until_ms: i64) -> rusqlite::Result<()> {
    tx.prepare_cached("UPDATE homing_relay SET lease_until_ms = ?1 WHERE one = 1")?
        .execute([lease_until_ms])
        .map(drop)
}

pub(super) fn note_trouble(
    connection: &mut Connection,
    fence: &Fence,
    trouble: Option<&str>,
    now_ms: i64,
) -> Result<(), OutboxError> {
    let note = "note why the relay waits";
    let tx = fenced(connection, fence, note)?;
    tx.execute(
        "UPDATE homing_relay SET trouble = ?1, \
         trouble_since_ms = CASE WHEN ?1 IS NULL THEN NULL ELSE COALESCE(trouble_since_ms, ?2) END",
        params![trouble, now_ms],
    )
    .during(note)?;
    tx.commit().during(note)
}

pub(super) fn note_weakness(
    connection: &mut Connection,
    fence: &Fence,
    topic: &TopicName,
    weakness: Option<&Weakness>,
    now_ms: i64,
) -> Result<(), OutboxError> {
    let note = "note what is weak about a topic";
    let tx = fenced(connection, fence, note)?;
    match weakness {
        None => tx.execute("DELETE FROM homing_topic_warning WHERE topic = ?1", [topic.as_str()]),
        Some(Weakness { code, what }) => tx.execute(
            "INSERT INTO homing_topic_warning (topic, code, what, since_ms) VALUES (?1, ?2, ?3, ?4) \
             ON CONFLICT (topic) DO UPDATE SET code = ?2, what = ?3, since_ms = ?4 WHERE code <> ?2",
            params![topic.as_str(), code, what, now_ms],
        ),
    }
    .during(note)?;
    tx.commit().during(note)
}
