//! Which node of a cluster runs a bridge: every node finds the same one from the slot table and the members that are in.

use std::sync::Arc;

use weir_broker::Durability;
use weir_broker::placement::{session_slot, slot_hash};

/// Where a bridge runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BridgeRunner {
    /// On this node.
    Here,
    /// On that node.
    Elsewhere(Arc<str>),
    /// On no node at the moment, as far as this one knows, and why.
    Unknown(String),
}

/// The node that serves a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlotServed {
    Here,
    Peer,
    /// No node, as far as this one knows.
    No,
}

/// A slot, and the name of its owner; empty: it has none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlacedSlot {
    pub node: Arc<str>,
    pub served: SlotServed,
}

/// Another node, and the bridges that it can run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BridgeMember {
    pub node: Arc<str>,
    pub is_in: bool,
    /// `None`: it has not told.
    pub bridges: Option<Vec<String>>,
    /// It can run others that it has no room to list.
    pub more_bridges: bool,
}

/// What decides where bridges run.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BridgePlacement {
    /// This node.
    pub node: Arc<str>,
    /// This node is in.
    pub is_in: bool,
    /// Slots of each class; 0: no table is known.
    pub per_class: u16,
    /// All slots, by number.
    pub slots: Vec<PlacedSlot>,
    /// The other nodes, by name.
    pub members: Vec<BridgeMember>,
}

impl BridgeMember {
    fn lists(&self, bridge: &str) -> bool {
        self.bridges.as_ref().is_some_and(|bridges| bridges.iter().any(|listed| listed == bridge))
    }

    /// A node that has not told, or has no room to, can run what its slots say.
    fn can_run(&self, bridge: &str) -> bool {
        self.bridges.is_none() || self.more_bridges || self.lists(bridge)
    }
}

impl BridgePlacement {
    /// The node that runs a bridge which this node can run: the owner of the slot of the bridge's session; where that node
    /// cannot run it, of the nodes that are in and can, the one with the highest hash of slot and name.
    pub fn runner(&self, bridge: &str, namespace: &str, local_id: &str, is_durable: bool) -> BridgeRunner {
        if !self.is_in {
            return BridgeRunner::Unknown("this node is out of its cluster".to_owned());
        }
        let durability = if is_durable { Durability::Disk } else { Durability::Memory };
        let number = session_slot(durability, namespace, local_id, self.per_class);
        let Some(slot) = self.slots.get(usize::from(number)).filter(|slot| !slot.node.is_empty()) else {
            return BridgeRunner::Unknown(format!("no node owns the slot of its session ({number})"));
        };
        let owner = self.members.iter().find(|member| member.node == slot.node);
        let owner_can = slot.node == self.node || owner.is_none_or(|owner| owner.can_run(bridge));
        if owner_can {
            return match slot.served {
                SlotServed::Here => BridgeRunner::Here,
                SlotServed::Peer => BridgeRunner::Elsewhere(Arc::clone(&slot.node)),
                SlotServed::No => BridgeRunner::Unknown(format!(
                    "node {} owns the slot of its session ({number}), and does not serve it now",
                    slot.node
                )),
            };
        }
        let others = self.members.iter().filter(|member| member.is_in && member.lists(bridge));
        let candidates = others.map(|member| &member.node).chain([&self.node]);
        let rank = |node: &Arc<str>| (slot_hash([&number.to_le_bytes(), node.as_bytes()]), Arc::clone(node));
        match candidates.max_by_key(|node| rank(node)) {
            Some(node) if *node != self.node => BridgeRunner::Elsewhere(Arc::clone(node)),
            _ => BridgeRunner::Here,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PER_CLASS: u16 = 8;

    fn member(node: &str, is_in: bool, bridges: Option<&[&str]>) -> BridgeMember {
        let bridges = bridges.map(|bridges| bridges.iter().map(|&bridge| bridge.to_owned()).collect());
        BridgeMember { node: node.into(), is_in, bridges, more_bridges: false }
    }

    /// What `node` of n1, n2 and n3 sees where `owner` owns every slot; all can run `b` but those in `unable`.
    fn seen_by(node: &str, owner: &str, served: bool, unable: &[&str]) -> BridgePlacement {
        let served = match served {
            true if node == owner => SlotServed::Here,
            true => SlotServed::Peer,
            false => SlotServed::No,
        };
        let others = ["n1", "n2", "n3"].into_iter().filter(|other| *other != node);
        let bridges = |other: &str| if unable.contains(&other) { &[][..] } else { &["b"][..] };
        BridgePlacement {
            node: node.into(),
            is_in: true,
            per_class: PER_CLASS,
            slots: vec![PlacedSlot { node: owner.into(), served }; usize::from(PER_CLASS) * 2],
            members: others.map(|other| member(other, true, Some(bridges(other)))).collect(),
        }
    }

    fn runner(placement: &BridgePlacement) -> BridgeRunner {
        placement.runner("b", "", "$bridge/b", false)
    }

    #[test]
    fn the_owner_of_the_slot_runs_a_bridge_and_every_node_knows_it() {
        for owner in ["n1", "n2", "n3"] {
            for node in ["n1", "n2", "n3"] {
                let runs = runner(&seen_by(node, owner, true, &[]));
                let expected = if node == owner { BridgeRunner::Here } else { BridgeRunner::Elsewhere(owner.into()) };
                assert_eq!(runs, expected);
            }
        }
    }

    #[test]
    fn no_node_runs_a_bridge_while_its_slot_is_not_served_or_the_node_is_out() {
        let unserved = seen_by("n1", "n2", false, &[]);
        assert!(matches!(runner(&unserved), BridgeRunner::Unknown(why) if why.contains("node n2 owns")));
        let out = BridgePlacement { is_in: false, ..seen_by("n1", "n1", true, &[]) };
        assert!(matches!(runner(&out), BridgeRunner::Unknown(_)));
        assert!(matches!(runner(&BridgePlacement { is_in: true, ..Default::default() }), BridgeRunner::Unknown(_)));
    }

    #[test]
    fn an_owner_that_cannot_run_a_bridge_leaves_it_to_exactly_one_of_those_that_can() {
        // n2 owns the slot and cannot run it; whether it serves the slot does not matter.
        for served in [true, false] {
            let (first, third) =
                (runner(&seen_by("n1", "n2", served, &["n2"])), runner(&seen_by("n3", "n2", served, &["n2"])));
            let here = [&first, &third].iter().filter(|runner| ***runner == BridgeRunner::Here).count();
            assert_eq!(here, 1, "{first:?} {third:?}");
        }
        assert_eq!(runner(&seen_by("n1", "n2", true, &["n2", "n3"])), BridgeRunner::Here);
        let mut alone = seen_by("n1", "n2", true, &["n2"]);
        alone.members.iter_mut().for_each(|member| member.is_in = false);
        assert_eq!(runner(&alone), BridgeRunner::Here, "the other one that can is out");
    }

    #[test]
    fn an_owner_that_has_not_told_what_it_can_run_keeps_its_bridges() {
        let mut silent = seen_by("n1", "n2", true, &[]);
        silent.members[0].bridges = None;
        assert_eq!(runner(&silent), BridgeRunner::Elsewhere("n2".into()));
    }
}
