//! Keeps the list of gaps in step with the detectors: opened, confirmed, closed, each said once.

use super::watched::{Fill, Watched};
use crate::outbox::sqlite::{GapStanding, SavedGap};
use homing_core::gap::{FilledBy, GapState, OpenGap};
use homing_core::{Epoch, Seq, StreamName};

/// Brings the open gaps of one partition into step with what its detector says; returns whether
/// any changed. Closed ones stay in the list until they are written.
pub(super) fn bring_up(
    gaps: &mut Vec<SavedGap>,
    watched: &mut Watched,
    stream: &StreamName,
    now_ms: i64,
) -> Vec<usize> {
    let mut changed = Vec::new();
    for epoch in watched.epochs(stream) {
        let open = watched.open_gaps(stream, epoch);
        for (at, gap) in gaps.iter_mut().enumerate() {
            let same = is_of(gap, watched, epoch) && gap.closed_at_ms.is_none();
            if same && step(gap, &open, &watched.fills, now_ms) {
                changed.push(at);
            }
        }
        for found in open {
            cover(gaps, watched, (epoch, found), now_ms, &mut changed);
        }
    }
    watched.fills.clear();
    changed
}

/// The seqs of a gap that are still missing.
pub(super) fn missing(gap: &SavedGap, open: &[OpenGap]) -> Vec<(Seq, Seq)> {
    open.iter()
        .map(|open| (open.from.max(gap.from), open.to.min(gap.to)))
        .filter(|(from, to)| from <= to)
        .collect()
}

fn is_of(gap: &SavedGap, watched: &Watched, epoch: Epoch) -> bool {
    gap.topic == watched.at.topic && gap.partition == watched.at.partition && gap.epoch == epoch
}

/// Moves one gap on; returns whether it changed.
fn step(gap: &mut SavedGap, open: &[OpenGap], fills: &[Fill], now_ms: i64) -> bool {
    let overlaps = |open: &&OpenGap| open.from <= gap.to && open.to >= gap.from;
    if !open.iter().any(|open| overlaps(&open)) {
        let last = fills
            .iter()
            .rev()
            .find(|fill| fill.epoch == gap.epoch && (gap.from..=gap.to).contains(&fill.seq));
        gap.standing = match last.map(|fill| fill.by) {
            Some(FilledBy::Repaired) => GapStanding::Repaired,
            Some(FilledBy::Voided) => GapStanding::Voided,
            Some(FilledBy::Late) | None => GapStanding::Late,
        };
        gap.closed_at_ms = Some(now_ms);
        return true;
    }
    let certain = open.iter().filter(overlaps).any(|open| open.state == GapState::Confirmed);
    if gap.standing == GapStanding::Suspect && certain {
        gap.standing = GapStanding::Confirmed;
        gap.confirmed_at_ms = Some(now_ms);
        return true;
    }
    false
}

/// Makes sure every seq of a detector's gap is in a gap of the list.
fn cover(
    gaps: &mut Vec<SavedGap>,
    watched: &Watched,
    (epoch, found): (Epoch, OpenGap),
    now_ms: i64,
    changed: &mut Vec<usize>,
) {
    let mut of_lane: Vec<usize> = (0..gaps.len())
        .filter(|at| is_of(&gaps[*at], watched, epoch) && gaps[*at].closed_at_ms.is_none())
        .collect();
    of_lane.sort_by_key(|at| gaps[*at].from);
    let mut from = found.from;
    let mut before: Option<usize> = None;
    let mut pieces = Vec::new();
    for at in of_lane {
        let (first, last) = (gaps[at].from, gaps[at].to);
        if last < from || first > found.to {
            continue;
        }
        if from < first {
            pieces.push((from, Seq(first.0 - 1), before));
        }
        from = last.next();
        before = Some(at);
    }
    if from <= found.to {
        pieces.push((from, found.to, before));
    }
    for (from, to, before) in pieces {
        // A suspect tail that grows stays one gap; to a confirmed one nothing is added.
        match before.filter(|at| gaps[*at].standing == GapStanding::Suspect) {
            Some(at) => {
                gaps[at].to = to;
                changed.push(at);
            }
            None => {
                changed.push(gaps.len());
                gaps.push(opened(watched, epoch, (from, to), &found, now_ms));
            }
        }
    }
}

fn opened(watched: &Watched, epoch: Epoch, (from, to): (Seq, Seq), found: &OpenGap, now_ms: i64) -> SavedGap {
    let certain = found.state == GapState::Confirmed;
    SavedGap {
        id: None,
        topic: watched.at.topic.clone(),
        epoch,
        partition: watched.at.partition,
        from,
        to,
        standing: if certain { GapStanding::Confirmed } else { GapStanding::Suspect },
        opened_at_ms: found.since_ms,
        confirmed_at_ms: certain.then_some(now_ms),
        closed_at_ms: None,
        verdicts: String::new(),
    }
}
