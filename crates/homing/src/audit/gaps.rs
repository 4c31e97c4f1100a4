//! Keeps the list of gaps in step with the detectors: opened, confirmed, closed, each said once.

use super::watched::{Fill, Watched};
use crate::outbox::sqlite::{GapStanding, SavedGap};
use crate::outbox::store::Acceptance;
use homing_core::gap::{FilledBy, GapState, OpenGap};
use homing_core::{Epoch, Seq, StreamName};

/// Brings the open gaps of one partition, which stand at `known` in the list, into step with what
/// its detector says; returns those that changed. Closed ones stay in the list until they are written.
pub(super) fn bring_up(
    (gaps, mut known): (&mut Vec<SavedGap>, Vec<usize>),
    watched: &Watched,
    (stream, acceptances): (&StreamName, &[Acceptance]),
    now_ms: i64,
) -> Vec<usize> {
    let mut changed = Vec::new();
    for epoch in watched.epochs(stream) {
        let open = watched.open_gaps(stream, epoch);
        let highest = Seq(watched.highest(stream, epoch));
        for at in &known {
            let gap = &mut gaps[*at];
            if gap.epoch != epoch || gap.closed_at_ms.is_some() {
                continue;
            }
            let closed_by = (highest >= gap.to).then(|| filled_by(gap, &watched.fills, acceptances));
            if step(gap, &open, closed_by, now_ms) {
                changed.push(*at);
            }
        }
        for found in open {
            cover((gaps, &mut known), watched, (epoch, found), now_ms, &mut changed);
        }
    }
    changed
}

/// The seqs of a gap that are still missing.
pub(super) fn missing(gap: &SavedGap, open: &[OpenGap]) -> Vec<(Seq, Seq)> {
    open.iter()
        .map(|open| (open.from.max(gap.from), open.to.min(gap.to)))
        .filter(|(from, to)| from <= to)
        .collect()
}

/// What brought the last of a gap's seqs.
fn filled_by(gap: &SavedGap, fills: &[Fill], acceptances: &[Acceptance]) -> GapStanding {
    let of_gap = |fill: &&Fill| fill.epoch == gap.epoch && (gap.from..=gap.to).contains(&fill.seq);
    let accepted = acceptances.iter().any(|of| {
        (&of.lane.topic, of.lane.epoch, of.lane.partition) == (&gap.topic, gap.epoch, gap.partition)
            && of.to >= gap.to
    });
    match fills.iter().rev().find(of_gap).map(|fill| fill.by) {
        Some(FilledBy::Repaired) => GapStanding::Repaired,
        Some(FilledBy::Voided) => GapStanding::Voided,
        Some(FilledBy::Late) => GapStanding::Late,
        None if accepted => GapStanding::Accepted,
        None => GapStanding::Found,
    }
}

/// Moves one gap on; returns whether it changed. It is closed only once its partition was read
/// beyond it: `closed_by` is known then.
fn step(gap: &mut SavedGap, open: &[OpenGap], closed_by: Option<GapStanding>, now_ms: i64) -> bool {
    let overlaps = |open: &&OpenGap| open.from <= gap.to && open.to >= gap.from;
    if !open.iter().any(|open| overlaps(&open)) {
        let Some(standing) = closed_by else { return false };
        (gap.standing, gap.closed_at_ms) = (standing, Some(now_ms));
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
    (gaps, known): (&mut Vec<SavedGap>, &mut Vec<usize>),
    watched: &Watched,
    (epoch, found): (Epoch, OpenGap),
    now_ms: i64,
    changed: &mut Vec<usize>,
) {
    let is_open = |at: &usize| gaps[*at].epoch == epoch && gaps[*at].closed_at_ms.is_none();
    let mut of_lane: Vec<usize> = known.iter().copied().filter(is_open).collect();
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
                known.push(gaps.len());
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
