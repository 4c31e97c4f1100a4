//! Tells holes that the log has from records that the client skipped. Pure.
//!
//! Compaction, aborted transactions and control records leave holes, and the
//! tracker takes a hole for done. So a hole is believed only when the log,
//! asked again from where the tracker stands, has it again. In a log that has
//! holes not each one can be asked about: there only the first is, and the
//! first after whatever may move the client's position (an error, a rebalance,
//! a pause).

use homing_core::Offset;

/// What to do with a record that did not come where it was expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hole {
    /// Take the record.
    None,
    /// Drop the record, and read again from where the tracker stands.
    Ask,
    /// Take the record: the client had skipped it, and the log, asked again, has it.
    WasSkipped,
}

/// What is known of one partition's holes.
#[derive(Debug, Default)]
pub(crate) struct Holes {
    /// Something may have moved the client's position since the last record.
    unsettled: bool,
    /// Where the tracker stood, and the offset that came instead, when the log was asked again.
    asked: Option<(Offset, Offset)>,
    /// A hole was there twice.
    log_has_holes: bool,
}

impl Holes {
    /// The client's position may have been moved.
    pub fn unsettle(&mut self) {
        self.unsettled = true;
    }

    /// Judges a record at `offset` where one at `position` may come next.
    #[inline]
    pub fn look(&mut self, position: Offset, offset: Offset) -> Hole {
        if offset <= position && !self.unsettled && self.asked.is_none() {
            return Hole::None;
        }
        self.look_closer(position, offset)
    }

    #[cold]
    fn look_closer(&mut self, position: Offset, offset: Offset) -> Hole {
        if offset < position {
            return Hole::None;
        }
        let asked = self.asked.take();
        let is_there_again = asked == Some((position, offset));
        if offset > position && !is_there_again && (self.unsettled || asked.is_some() || !self.log_has_holes)
        {
            self.asked = Some((position, offset));
            return Hole::Ask;
        }
        self.unsettled = false;
        self.log_has_holes |= is_there_again;
        match asked {
            Some((_, instead)) if offset < instead => Hole::WasSkipped,
            _ => Hole::None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hole_is_believed_when_the_log_has_it_twice() {
        let mut holes = Holes::default();
        assert_eq!(holes.look(Offset(5), Offset(5)), Hole::None);
        assert_eq!(holes.look(Offset(6), Offset(9)), Hole::Ask);
        assert_eq!(holes.look(Offset(6), Offset(9)), Hole::None);
        assert_eq!(holes.look(Offset(10), Offset(12)), Hole::None, "this log has holes");
        holes.unsettle();
        assert_eq!(holes.look(Offset(13), Offset(14)), Hole::Ask, "but the client may have been moved");
        assert_eq!(holes.look(Offset(13), Offset(14)), Hole::None);
    }

    #[test]
    fn a_record_that_comes_when_asked_again_was_skipped() {
        let mut holes = Holes::default();
        holes.unsettle();
        assert_eq!(holes.look(Offset(6), Offset(7)), Hole::Ask);
        assert_eq!(holes.look(Offset(6), Offset(6)), Hole::WasSkipped);
        assert_eq!(holes.look(Offset(7), Offset(9)), Hole::Ask, "no hole is known of this log");
        assert_eq!(holes.look(Offset(7), Offset(8)), Hole::Ask, "another hole is asked about anew");
        assert_eq!(holes.look(Offset(7), Offset(8)), Hole::None);
    }

    #[test]
    fn what_was_read_before_is_no_hole_and_settles_nothing() {
        let mut holes = Holes::default();
        holes.unsettle();
        assert_eq!(holes.look(Offset(6), Offset(3)), Hole::None);
        assert_eq!(holes.look(Offset(6), Offset(7)), Hole::Ask);
    }
}
