//! Which slot a client id has, and which member should own a slot. Every node computes the same from the same members, on
//! every platform and in every version: a change moves sessions.

/// The slot of a session, from 0 to `slots` - 1.
pub fn slot_of(namespace: &str, client_id: &str, slots: u16) -> u16 {
    (hash([namespace.as_bytes(), client_id.as_bytes()]) % u64::from(slots.max(1))) as u16
}

/// The member that should own a slot: the one with the highest hash of slot and name. A member that joins or leaves moves
/// only the slots that it gets or had. `None`: there are no members.
pub fn owner_of<'a>(slot: u16, members: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    members.into_iter().max_by_key(|name| (hash([&slot.to_le_bytes(), name.as_bytes()]), *name))
}

/// The owners of all slots, in order of the slots. Empty without members.
pub fn owners<'a>(slots: u16, members: &[&'a str]) -> Vec<&'a str> {
    (0..slots).filter_map(|slot| owner_of(slot, members.iter().copied())).collect()
}

/// FNV-1a of the parts, each with its length, and the finalizer of splitmix64, as FNV alone does not mix its high bits.
fn hash(parts: [&[u8]; 2]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for part in parts {
        let length = (part.len() as u32).to_le_bytes();
        for byte in length.iter().chain(part) {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_the_same_in_every_version() {
        let slots = [("", "a"), ("", "sensor-1"), ("tenant", "a"), ("tenan", "ta")];
        assert_eq!(slots.map(|(namespace, id)| slot_of(namespace, id, 16)), [12, 6, 6, 13]);
        assert_eq!(owners(8, &["a", "b", "c"]), ["a", "b", "b", "c", "c", "c", "b", "a"]);
    }

    #[test]
    fn slots_spread_clients_evenly() {
        let mut counts = [0_u32; 16];
        (0..16_000).for_each(|n| counts[usize::from(slot_of("", &format!("client-{n}"), 16))] += 1);
        assert!(counts.iter().all(|count| (850..1150).contains(count)), "{counts:?}");
        assert_eq!(slot_of("", "a", 0), 0);
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
