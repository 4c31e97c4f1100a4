//! The verdict: every committed order beside its effects, row by row.

use super::orders::{self, Order};
use super::wire::Wire;
use crate::exit::{Failure, Outcome};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

/// One side's comparison.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Side {
    /// Orders committed.
    pub committed: usize,
    /// Effects found.
    pub effects: usize,
    /// Orders without an effect.
    pub lost: usize,
    /// Orders with more than one.
    pub twice: usize,
    /// Effects with other content than the order's, or of no order at all.
    pub altered: usize,
    /// Effects behind a later order of the same customer.
    pub out_of_order: usize,
}

/// Both sides, and what is on the wire.
#[derive(Debug, Clone, Copy)]
pub struct Result {
    homing: Side,
    usual: Side,
    wire: Wire,
    kills: u64,
    took: Duration,
}

/// Compares both sides.
///
/// # Errors
/// [`Failure`] when a database cannot be read.
pub fn compare(dir: &Path, wire: Wire, kills: u64, took: Duration) -> std::result::Result<Result, Failure> {
    let read = |database, table| orders::read(&dir.join(database), table);
    let homing = side(&read(orders::DATABASE, "orders")?, &read(orders::EFFECTS, "effects")?);
    let usual = side(&read(orders::USUAL_DATABASE, "orders")?, &read(orders::USUAL_EFFECTS, "effects")?);
    Ok(Result { homing, usual, wire, kills, took })
}

fn side(committed: &[Order], effects: &[Order]) -> Side {
    let mut side = Side { committed: committed.len(), effects: effects.len(), ..Side::default() };
    let orders: HashMap<i64, &Order> = committed.iter().map(|order| (order.number, order)).collect();
    let mut times: HashMap<i64, usize> = HashMap::new();
    let mut newest: HashMap<&str, i64> = HashMap::new();
    for effect in effects {
        let times = times.entry(effect.number).or_default();
        *times += 1;
        side.altered += usize::from(orders.get(&effect.number).is_none_or(|order| *order != effect));
        let newest = newest.entry(&effect.customer).or_insert(i64::MIN);
        side.out_of_order += usize::from(*times == 1 && effect.number < *newest);
        *newest = effect.number.max(*newest);
    }
    for order in committed {
        match times.get(&order.number) {
            None => side.lost += 1,
            Some(1) => {}
            Some(_) => side.twice += 1,
        }
    }
    side
}

impl Side {
    fn is_perfect(&self) -> bool {
        self.committed > 0 && self.lost + self.twice + self.altered + self.out_of_order == 0
    }
}

impl Result {
    /// Findings when Homing broke a promise; no telling when the kills did not bite.
    pub fn outcome(&self) -> Outcome {
        match (self.homing.is_perfect() && self.wire.other == 0, self.usual.lost) {
            (false, _) => Outcome::Findings,
            (true, 0) => Outcome::CouldNotTell,
            (true, _) => Outcome::Fine,
        }
    }

    /// The result for programs.
    pub fn json(&self) -> Value {
        let (homing, usual, wire) = (self.homing, self.usual, self.wire);
        json!({
            "committed": homing.committed,
            "sent": wire.sent,
            "duplicates": wire.duplicates,
            "effects": homing.effects,
            "gaps": wire.gaps,
            "repaired": wire.repaired,
            "lost": homing.lost,
            "kills": self.kills,
            "seconds": (self.took.as_secs_f64() * 10.0).round() / 10.0,
            "naive": {
                "committed": usual.committed,
                "effects": usual.effects,
                "lost": usual.lost,
                "twice": usual.twice,
            },
        })
    }

    /// The result for people.
    pub fn table(&self) -> String {
        let (homing, usual, wire) = (self.homing, self.usual, self.wire);
        let row = |what: &str, ours: String, theirs: String| format!("  {what:<28}{ours:>12}{theirs:>14}\n");
        let both = |what: &str, ours: usize, theirs: usize| row(what, ours.to_string(), theirs.to_string());
        let ours = |what: &str, ours: String| row(what, ours, "–".to_owned());
        let mut table = format!("\n  {:<28}{:>12}{:>14}\n  {}\n", "", "Homing", "usual code", "─".repeat(54));
        table += &both("orders committed", homing.committed, usual.committed);
        table += &ours("records sent", wire.sent.to_string());
        table += &ours("duplicates on the wire", wire.duplicates.to_string());
        table += &both("effects", homing.effects, usual.effects);
        table += &ours("gaps opened / repaired", format!("{} / {}", wire.gaps, wire.repaired));
        table += &both("orders lost", homing.lost, usual.lost);
        table += &both("orders applied twice", homing.twice, usual.twice);
        table += &both("effects out of order", homing.out_of_order, usual.out_of_order);
        table += &both("effects altered", homing.altered, usual.altered);
        table
            + &format!(
                "\n  usual code: commit, then send without waiting; auto-commit and a worker pool\n  \
                 {} processes killed with SIGKILL in {:.0} s\n  {}\n",
                self.kills,
                self.took.as_secs_f64(),
                self.verdict()
            )
    }

    fn verdict(&self) -> &'static str {
        match self.outcome() {
            Outcome::Fine => "Every order committed through Homing took effect exactly once, in order.",
            Outcome::Findings => "Homing broke a promise. Please report this with the directory named below.",
            Outcome::CouldNotTell => {
                "The usual code lost nothing: the kills did not bite, so this run proves nothing."
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(number: i64, customer: &str) -> Order {
        Order { number, customer: customer.into(), payload: format!("order {number}") }
    }

    #[test]
    fn each_kind_of_damage_is_counted() {
        let committed = [order(1, "a"), order(2, "a"), order(3, "b"), order(4, "b")];
        let perfect = side(&committed, &[order(3, "b"), order(1, "a"), order(2, "a"), order(4, "b")]);
        assert!(perfect.is_perfect());
        let mut altered = order(1, "a");
        altered.payload.push('!');
        let damaged =
            side(&committed, &[order(2, "a"), altered, order(3, "b"), order(3, "b"), order(9, "c")]);
        assert_eq!(
            damaged,
            Side { committed: 4, effects: 5, lost: 1, twice: 1, altered: 2, out_of_order: 1 }
        );
    }

    #[test]
    fn kills_that_hurt_nobody_prove_nothing() {
        let perfect = side(&[order(1, "a")], &[order(1, "a")]);
        let lossy = side(&[order(1, "a")], &[]);
        let result =
            |homing, usual| Result { homing, usual, wire: Wire::default(), kills: 9, took: Duration::ZERO };
        assert_eq!(result(perfect, lossy).outcome(), Outcome::Fine);
        assert_eq!(result(perfect, perfect).outcome(), Outcome::CouldNotTell);
        assert_eq!(result(lossy, lossy).outcome(), Outcome::Findings);
    }
}
