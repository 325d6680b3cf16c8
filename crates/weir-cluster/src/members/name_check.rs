//! Whether a node of this name runs already, before a node that starts writes its first heartbeat.

use weir_broker::Millis;

use crate::Incarnation;
use crate::wire::Heartbeat;

/// A record that has not moved for so long belongs to a process that has ended.
pub const NAME_WATCH: Millis = 2500;
/// A single move so soon after the first look may be an append that a process sent before it ended.
const LATE_APPEND: Millis = 1000;

/// Whether a name is free.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameUse {
    /// No process that runs has it.
    Free,
    /// It is not known yet: give the newest record again.
    Unknown,
    /// A process that runs has it, with this incarnation.
    Taken(Incarnation),
}

/// Watches the record of this node's name.
#[derive(Debug)]
pub struct NameCheck {
    own: Incarnation,
    watch: Option<Watch>,
}

#[derive(Debug)]
struct Watch {
    incarnation: Incarnation,
    sequence: u64,
    began: Millis,
    /// When it moved last, or was first read.
    still_since: Millis,
    moves: u32,
}

impl NameCheck {
    /// Nothing is known of the name. `own` is the incarnation of the node that starts.
    pub const fn new(own: Incarnation) -> Self {
        Self { own, watch: None }
    }

    /// The newest record of the name, as it was read at `now`; `None`: there is none.
    pub fn on_record(&mut self, newest: Option<&Heartbeat>, now: Millis) -> NameUse {
        let Some(newest) = newest.filter(|newest| !newest.gone && newest.incarnation != self.own) else {
            return NameUse::Free;
        };
        let (incarnation, sequence) = (newest.incarnation, newest.sequence);
        let first = Watch { incarnation, sequence, began: now, still_since: now, moves: 0 };
        let watch = self.watch.get_or_insert(first);
        if (watch.incarnation, watch.sequence) != (incarnation, sequence) {
            (watch.incarnation, watch.sequence, watch.still_since) = (incarnation, sequence, now);
            watch.moves += 1;
            if watch.moves > 1 || now >= watch.began + LATE_APPEND {
                return NameUse::Taken(incarnation);
            }
        }
        if now >= watch.still_since + NAME_WATCH { NameUse::Free } else { NameUse::Unknown }
    }

    /// The record could not be read: a process that runs could not have moved it.
    pub fn on_failed_read(&mut self) {
        self.watch = None;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::tests::record;
    use super::*;

    /// What a start with incarnation 1 finds, which reads these records at these times.
    fn found(records: &[(Millis, Option<Heartbeat>)]) -> NameUse {
        let mut check = NameCheck::new(1);
        let mut found = NameUse::Unknown;
        for (at, heartbeat) in records {
            assert_eq!(found, NameUse::Unknown, "before {at}");
            found = check.on_record(heartbeat.as_ref(), *at);
        }
        found
    }

    fn at(now: Millis, incarnation: Incarnation, sequence: u64) -> (Millis, Option<Heartbeat>) {
        (now, Some(record("n", incarnation, sequence)))
    }

    #[test]
    fn a_name_whose_record_moves_is_taken() {
        assert_eq!(found(&[at(0, 7, 1), at(900, 7, 1), at(1000, 7, 2)]), NameUse::Taken(7));
        assert_eq!(found(&[at(0, 7, 1), at(100, 7, 2), at(1100, 7, 3)]), NameUse::Taken(7));
        assert_eq!(found(&[at(0, 7, 1), at(1200, 8, 1)]), NameUse::Taken(8));
    }

    #[test]
    fn a_name_whose_record_stands_still_or_says_that_its_node_is_gone_is_free() {
        assert_eq!(found(&[(0, None)]), NameUse::Free);
        assert_eq!(found(&[at(0, 1, 5)]), NameUse::Free, "its own");
        assert_eq!(found(&[(0, Some(Heartbeat { gone: true, ..record("n", 7, 9) }))]), NameUse::Free);
        assert_eq!(found(&[at(0, 7, 1), at(2499, 7, 1)]), NameUse::Unknown);
        assert_eq!(found(&[at(0, 7, 1), at(2500, 7, 1)]), NameUse::Free);
        // An append that was under way when its process ended.
        assert_eq!(found(&[at(0, 7, 1), at(300, 7, 2), at(2799, 7, 2), at(2800, 7, 2)]), NameUse::Free);
    }

    #[test]
    fn time_in_which_the_record_could_not_be_read_does_not_count() {
        let mut check = NameCheck::new(1);
        let record = record("n", 7, 1);
        assert_eq!(check.on_record(Some(&record), 0), NameUse::Unknown);
        check.on_failed_read();
        assert_eq!(check.on_record(Some(&record), 4000), NameUse::Unknown);
        assert_eq!(check.on_record(Some(&record), 6500), NameUse::Free);
    }
}
