//! What people order to be done with topics: found in the database, told to the machine, carried out.

use super::error::Halt;
use super::session::{Session, now_ms};
use crate::outbox::store::{Close, CloseTopic, TopicAction, TopicOrder};
use homing_core::relay::{Event, Order, OrderKind, Polled, Seen, TopicIx};
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// How often orders are looked for.
const EVERY: Duration = Duration::from_millis(500);

/// The orders that are known, and what the machine is to hear next.
#[derive(Debug, Default)]
pub(super) struct Orders {
    known: HashMap<i64, TopicOrder>,
    looked_at: Option<Instant>,
    said: Vec<Seen>,
    /// The machine is to hear that the main producer groups too much.
    pub regroup: bool,
}

impl Orders {
    /// Tells the machine with what is heard next.
    pub fn say(&mut self, seen: Seen) {
        self.said.push(seen);
    }

    pub fn hand_over(&mut self, polled: &mut Polled) {
        polled.seen.append(&mut self.said);
        polled.regroup |= std::mem::take(&mut self.regroup);
    }

    /// Why an order was given, for those whose rows it sets aside.
    pub fn reason(&self, id: i64) -> String {
        self.known.get(&id).map_or_else(
            || "a person ordered it".to_owned(),
            |order| format!("{} ordered it: {}", order.by, order.why),
        )
    }
}

impl Session<'_> {
    pub fn look_for_orders(&mut self) -> Result<(), Halt> {
        if self.orders.looked_at.is_some_and(|at| at.elapsed() < EVERY) {
            return Ok(());
        }
        self.orders.looked_at = Some(Instant::now());
        for order in self.ground.store.topic_orders()? {
            if self.orders.known.contains_key(&order.id) {
                continue;
            }
            tracing::info!(topic = %order.topic, action = order.action.as_str(), by = %order.by, "ordered");
            let kind = match order.action {
                TopicAction::Close => OrderKind::Close,
                TopicAction::Reopen => OrderKind::Reopen,
                TopicAction::ReopenKept => OrderKind::ReopenKept,
                TopicAction::Discard => OrderKind::Discard,
            };
            let topic = self.machine.place(&order.topic);
            self.orders.say(Seen::Order(Order { id: order.id, topic, kind }));
            self.orders.known.insert(order.id, order);
        }
        Ok(())
    }

    /// One step towards the end of a topic's epoch.
    pub fn close_topic(&mut self, ix: TopicIx, order: Option<Order>) -> Result<Event, Halt> {
        if let Some(order) = order
            && self.topics.epoch(ix).is_none()
        {
            return self.order_done(ix, Some(order), "its epoch is closed");
        }
        let name = self.machine.name(ix).clone();
        let how = match order.map(|order| order.kind) {
            Some(OrderKind::Close) => Close::Void,
            Some(OrderKind::ReopenKept) => Close::Replan { kept: true },
            _ => Close::Replan { kept: false },
        };
        let known = order.and_then(|order| self.orders.known.get(&order.id));
        let (by, why) = match known {
            Some(order) => (order.by.clone(), order.why.clone()),
            None => {
                let why = "X12: Kafka has records of this stream that this outbox never gave".to_owned();
                ("the relay".to_owned(), why)
            }
        };
        let trouble = self.machine.topic_trouble(ix);
        let code = trouble.and_then(|trouble| trouble.code).unwrap_or("X11");
        let close = CloseTopic { topic: &name, how, by: &by, why: &why, code, now_ms: now_ms() };
        let closed = self.ground.store.close_topic(self.ground.token, &close)?;
        if !closed.done {
            return Ok(Event::Nothing);
        }
        tracing::warn!(topic = %name, by, why, "the topic's epoch is closed");
        self.forget_lanes(ix);
        self.topics.close(ix);
        self.held_rows.remove(&ix);
        self.ground.store.signals().settled.ring();
        Ok(Event::TopicClosed(ix))
    }

    pub fn order_done(&mut self, ix: TopicIx, order: Option<Order>, result: &str) -> Result<Event, Halt> {
        if let Some(order) = order {
            self.ground.store.topic_order_done(self.ground.token, order.id, result, now_ms())?;
            self.orders.known.remove(&order.id);
        }
        Ok(Event::OrderDone(ix))
    }
}
