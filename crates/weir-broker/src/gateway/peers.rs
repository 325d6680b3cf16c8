//! The peers of a node, and how far each link to them has come.

use std::collections::VecDeque;
use std::sync::Arc;

use super::wills::KeptWills;
use crate::ids::{NamespaceId, PeerSlot, SlabIndex};
use crate::links::link::StorageWait;
use crate::values::group::GroupKey;
use crate::values::message::Message;

/// What has been taken from a peer in one turn, and which shards have to process it.
#[derive(Debug)]
pub(super) struct Taken {
    /// The number of the last message.
    pub(super) number: u64,
    /// The positions of the links to the shards.
    pub(super) until: Vec<u64>,
    /// What shards have to have stored.
    pub(super) stored: Vec<StorageWait>,
}

/// A node that is in.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) incarnation: u64,
    /// Unique on this node: a peer that is in again is another one for what waited.
    pub(super) key: u64,
    /// The generations of the link to the peer, and from it.
    pub(super) generation: u32,
    pub(super) their_generation: u32,
    /// The number of the last message that was put on the link to it, and of the last one of interest.
    pub(super) sent: u64,
    pub(super) last_interest: u64,
    /// Up to which number the peer has processed, and stored, what it was sent.
    pub(super) processed: u64,
    pub(super) stored: u64,
    /// Messages of QoS 1 and 2 for members of groups that it has not stored, with their numbers: see
    /// [`Gateway::remove_peer`](super::Gateway::remove_peer).
    /// Publishers wait where too many bytes are on the way to it, which bounds them.
    pub(super) assigned: VecDeque<(u64, Arc<GroupKey>, Message)>,
    /// The number of the last message that was taken from it.
    pub(super) taken: u64,
    /// What shards of this turn have to store.
    pub(super) storing: Vec<StorageWait>,
    /// Taken messages that shards have not processed, and not stored.
    pub(super) processing: VecDeque<Taken>,
    pub(super) unstored: VecDeque<Taken>,
    /// Up to which number this node has processed, and stored, what it was sent.
    pub(super) own_processed: u64,
    pub(super) own_stored: u64,
    /// Up to where the peer has applied the log of retained messages.
    pub(super) applied: u64,
    /// This node acknowledges nothing until the peer has processed the message of that number, and all of its interest has come,
    /// if that is needed: see [`Gateway::confirm`](super::Gateway::confirm).
    pub(super) confirm: u64,
    pub(super) must_be_known: bool,
    /// How far it had applied the log when it sent its snapshot: what it sends behind that must not overtake the log here.
    pub(super) behind: u64,
    /// All of the peer's interest has come.
    pub(super) is_known: bool,
    /// Wills of its clients.
    pub(super) wills: KeptWills,
    /// Namespaces that are defined at the peer; and its numbers of namespaces, as ours.
    pub(super) defined: Vec<bool>,
    pub(super) namespaces: Vec<Option<NamespaceId>>,
}

impl Peer {
    pub(super) fn new(incarnation: u64, key: u64, generation: u32) -> Self {
        Self {
            incarnation,
            key,
            generation,
            their_generation: 0,
            sent: 0,
            last_interest: 0,
            processed: 0,
            stored: 0,
            assigned: VecDeque::new(),
            taken: 0,
            storing: Vec::new(),
            processing: VecDeque::new(),
            unstored: VecDeque::new(),
            own_processed: 0,
            own_stored: 0,
            applied: 0,
            confirm: 0,
            must_be_known: false,
            behind: 0,
            is_known: false,
            wills: KeptWills::default(),
            defined: Vec::new(),
            namespaces: Vec::new(),
        }
    }

    /// Marks a namespace as defined at the peer; `true`: it was not.
    pub(super) fn define(&mut self, namespace: NamespaceId) -> bool {
        if self.defined.len() <= namespace.index() {
            self.defined.resize(namespace.index() + 1, false);
        }
        !std::mem::replace(&mut self.defined[namespace.index()], true)
    }

    pub(super) fn learn(&mut self, theirs: u32, ours: NamespaceId) {
        if self.namespaces.len() <= theirs as usize {
            self.namespaces.resize(theirs as usize + 1, None);
        }
        self.namespaces[theirs as usize] = Some(ours);
    }

    pub(super) fn namespace(&self, theirs: u32) -> Option<NamespaceId> {
        self.namespaces.get(theirs as usize).copied().flatten()
    }
}

/// The peers that are in.
#[derive(Debug, Default)]
pub(super) struct Peers {
    slots: Vec<Option<Peer>>,
}

impl Peers {
    pub(super) fn insert(&mut self, slot: PeerSlot, peer: Peer) {
        let index = usize::from(slot.0);
        if self.slots.len() <= index {
            self.slots.resize_with(index + 1, || None);
        }
        self.slots[index] = Some(peer);
    }

    pub(super) fn remove(&mut self, slot: PeerSlot) -> Option<Peer> {
        self.slots.get_mut(usize::from(slot.0))?.take()
    }

    pub(super) fn get(&self, slot: PeerSlot) -> Option<&Peer> {
        self.slots.get(usize::from(slot.0))?.as_ref()
    }

    pub(super) fn get_mut(&mut self, slot: PeerSlot) -> Option<&mut Peer> {
        self.slots.get_mut(usize::from(slot.0))?.as_mut()
    }

    pub(super) fn slots(&self) -> impl Iterator<Item = PeerSlot> + use<> {
        let present: Vec<usize> = (0..self.slots.len()).filter(|&slot| self.slots[slot].is_some()).collect();
        present.into_iter().map(|slot| PeerSlot(slot as u16))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (PeerSlot, &Peer)> {
        self.slots.iter().enumerate().filter_map(|(slot, peer)| Some((PeerSlot(slot as u16), peer.as_ref()?)))
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Peer> {
        self.slots.iter_mut().flatten()
    }
}
