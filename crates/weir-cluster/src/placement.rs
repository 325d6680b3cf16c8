//! Which slot a client id has, and which member should own a slot. Every node computes the same from the same members, on
//! every platform and in every version: a change moves sessions.

use weir_broker::placement::slot_hash as hash;
pub use weir_broker::placement::slot_of;

/// The member that should own a slot: the one with the highest hash of slot and name. A member that joins or leaves moves
/// only the slots that it gets or had. `None`: there are no members.
pub fn owner_of<'a>(slot: u16, members: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    members.into_iter().max_by_key(|name| (hash([&slot.to_le_bytes(), name.as_bytes()]), *name))
}

/// The owners of all slots, in order of the slots. Empty without members.
pub fn owners<'a>(slots: u16, members: &[&'a str]) -> Vec<&'a str> {
    (0..slots).filter_map(|slot| owner_of(slot, members.iter().copied())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_are_the_same_in_every_version() {
        assert_eq!(owners(8, &["a", "b", "c"]), ["a", "b", "b", "c", "c", "c", "b", "a"]);
    }

    #[test]
    fn members_own_equal_shares_and_their_order_does_not_matter() {
        let members: Vec<String> = (0..5).map(|n| format!("node-{n}")).collect();
        let mut names: Vec<&str> = members.iter().map(String::as_str).collect();
        let slots = 5000;
        let before = owners(slots, &names);
        for name in &names {
            let share = before.iter().filter(|owner| *owner == name).count();
            assert!((900..1100).contains(&share), "{name} owns {share} of {slots}");
        }
        names.reverse();
        assert_eq!(owners(slots, &names), before);
        assert!(owners(4, &[]).is_empty());
    }

    #[test]
    fn a_member_that_joins_or_leaves_moves_only_its_own_slots() {
        let (few, more) = (["n1", "n2", "n3"], ["n1", "n2", "n3", "n4"]);
        let (before, after) = (owners(4096, &few), owners(4096, &more));
        let moved: Vec<&str> = before.iter().zip(&after).filter(|(old, new)| old != new).map(|(_, new)| *new).collect();
        assert!(moved.iter().all(|owner| *owner == "n4"));
        assert!((900..1150).contains(&moved.len()), "{}", moved.len());
    }
}
