//! Messages between shards, the batches that carry them, and one end of a link.
//!
//! The other end of a link is a shard today; the code would also work if it were another node.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::ids::{
    ConnId, ConnectionSlot, DedupKey, Millis, NamespaceId, NodeId, Origin, PeerSlot, SessionRef, ShardId,
};
use crate::placement::{SlotSets, Slots};
use crate::values::delivery::Delivery;
use crate::values::group::{GroupKey, GroupMember, Readiness};
use crate::values::message::Message;
use crate::values::publisher::PublisherIdentity;
use crate::values::retained::{ReadPosition, RetainedPage};
use crate::values::slot_copy::SlotCopy;
use weir_mqtt::ProtocolVersion;

/// Weight of a message on a link, in addition to its bytes.
const ITEM_BYTES: u64 = 32;

/// The distance of a message from its publisher, by [`LinkMessage::rank`]: what is durable is counted for each rank apart, for
/// what a message causes is of a higher rank. So an answer waits for higher ranks alone, and there is no circular wait.
pub(crate) const RANKS: usize = 5;
pub(crate) const RANK_OWNER: usize = 0;
pub(crate) const RANK_DIRECT: usize = 1;
pub(crate) const RANK_ASSIGN: usize = 2;
pub(crate) const RANK_RETURN: usize = 3;
pub(crate) const RANK_REASSIGN: usize = 4;

/// Messages for another shard, in order; an output of `Core::poll`, taken by `Core::deliver_batch` there.
#[derive(Debug, Default)]
pub struct Batch {
    pub(crate) messages: VecDeque<LinkMessage>,
    /// The packets that messages name by range.
    pub(crate) bytes: Vec<u8>,
    /// The link's position after this batch.
    pub(crate) end: u64,
    /// The position up to which the sender of this batch has processed the other direction.
    pub(crate) acked: u64,
    /// The position of the other direction up to which all shards have processed its messages, and those forwarded
    /// because of them.
    pub(crate) settled: u64,
    /// The sender wants an ack as soon as this is processed.
    pub(crate) wants_ack: bool,
    /// At its receiver: some of it was forwarded.
    pub(crate) forwarded: bool,
    /// The sender requests stored watermarks for these ranks.
    pub(crate) wants_stored: [bool; RANKS],
    /// The position up to which messages of the receiver are durable, and those forwarded because of them.
    pub(crate) stored: [u64; RANKS],
    /// At its receiver: other shards that something was forwarded to because of its messages of a rank.
    pub(crate) stored_until: [Vec<StorageWait>; RANKS],
}

/// Another shard has to have stored what it was sent of a rank, up to a position of the link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StorageWait {
    pub(crate) shard: u16,
    pub(crate) rank: usize,
    pub(crate) position: u64,
}

/// The handling of a PUBLISH at its receiver.
#[derive(Debug)]
pub(crate) enum Route {
    /// Deliver it to local subscribers, but not before what its publisher's shard had sent here by then: the link from
    /// there was processed up to `after`.
    Direct { after: u64 },
    /// It belongs to the topic's owner: keep it if it is retained, and send it everywhere. `after` is where the publisher's
    /// shard's links to each shard stood.
    ViaOwner { after: Box<[u64]> },
}

/// Clients that are connected to a shard, with the stamps of their connections, and whether these began their sessions.
#[derive(Debug)]
pub(crate) struct ClientsPage {
    pub(crate) peer: PeerSlot,
    pub(crate) key: u64,
    pub(crate) clients: Vec<(NamespaceId, Box<str>, u64, bool)>,
    /// There are more from this connection on.
    pub(crate) next: Option<ConnectionSlot>,
}

#[derive(Debug)]
pub(crate) enum LinkMessage {
    /// From now on `id` means this namespace.
    Namespace {
        id: NamespaceId,
        name: Arc<str>,
    },
    Publish(ForwardedPublish),
    /// The sender has interest in `filter`.
    AddInterest {
        namespace: NamespaceId,
        filter: Box<str>,
    },
    /// It no longer has.
    RemoveInterest {
        namespace: NamespaceId,
        filter: Box<str>,
    },
    /// Everything sent before has taken effect here: answer, with what is retained under these filters, about `room`
    /// messages at most.
    Barrier {
        request: BarrierId,
        reads: Option<(NamespaceId, Vec<Box<str>>)>,
        room: usize,
    },
    /// The answer to a barrier, and whether it is complete; if not, a second answer follows.
    BarrierAck {
        request: BarrierId,
        retained: Option<RetainedStart>,
        complete: bool,
    },
    /// Asks for more retained messages under a filter, not newer than a number.
    RetainedRead {
        session: SessionRef,
        node: NodeId,
        namespace: NamespaceId,
        filter: Box<str>,
        from: ReadPosition,
        newest: u64,
    },
    /// The answer.
    RetainedPage {
        session: SessionRef,
        node: NodeId,
        from: ReadPosition,
        page: RetainedPage,
    },
    /// A member for a group owned here.
    Join {
        group: Arc<GroupKey>,
        member: GroupMember,
        readiness: Readiness,
    },
    Leave {
        group: Arc<GroupKey>,
        session: SessionRef,
    },
    /// Of a session that is a member of groups owned there.
    Readiness {
        session: SessionRef,
        readiness: Readiness,
    },
    /// A member's part of a shared subscription.
    Assign {
        session: SessionRef,
        message: Message,
        delivery: Delivery,
        origin: Origin,
        dedup_key: Option<DedupKey>,
        /// The owner took the member for ready: if it is not, another one is to have the message.
        may_return: bool,
        /// Another member has returned it.
        was_returned: bool,
    },
    /// The member left before taking the message: assign it to another.
    Return {
        group: Arc<GroupKey>,
        message: Message,
        dedup_key: Option<DedupKey>,
    },
    /// To the gateway: a group that is owned at the sender has so many members on this node, of which so many are ready.
    GroupState {
        group: Arc<GroupKey>,
        members: u32,
        ready: u32,
    },
    /// From the gateway: a peer's message for a member on this node.
    GroupPublish {
        group: Arc<GroupKey>,
        message: Message,
    },
    /// To the gateway: a client has connected.
    ClientConnected {
        namespace: NamespaceId,
        client_id: Box<str>,
        stamp: u64,
        clean_start: bool,
    },
    /// From the gateway: which clients are connected, from this connection on, for a peer.
    ListClients {
        peer: PeerSlot,
        key: u64,
        from: ConnectionSlot,
    },
    /// The answer.
    Clients(Box<ClientsPage>),
    /// From the gateway: other nodes have given a connection this stamp.
    Stamp(u64),
    /// From the gateway: a client has connected to another node.
    ClientElsewhere {
        peer: PeerSlot,
        namespace: NamespaceId,
        client_id: Box<str>,
        stamp: u64,
        wins_ties: bool,
        clean_start: bool,
    },
    /// To the gateway: a connection has a will that another node should keep; or, `None`, it has ended.
    ClientWill {
        namespace: NamespaceId,
        client_id: Box<str>,
        stamp: u64,
        will: Option<Box<[u8]>>,
    },
    /// From the gateway: publish the will of a client whose node died.
    PublishWill {
        namespace: NamespaceId,
        client_id: Box<str>,
        will: Box<[u8]>,
    },
    /// From the gateway: another node has published the will of that connection.
    WillPublished {
        namespace: NamespaceId,
        client_id: Box<str>,
        stamp: u64,
    },
    /// From the gateway: the node is in until that moment. Later no PUBLISH of QoS 1 and 2 is acknowledged. So a process that
    /// was stopped acknowledges nothing before its gateway has run.
    InUntil(Millis),
    /// From the gateway: the log of retained messages takes entries of so many bytes.
    LogEntryMax(usize),
    /// From the gateway: what this node does with the slots, of which there are so many per class. `number` grows.
    Slots {
        number: u64,
        per_class: u16,
        sets: SlotSets,
    },
    /// To the gateway: the answer. Nothing is left of slots that are not served any more but sessions on disk. `occupied` are
    /// those of the slots that are not served, or released, that have sessions; `pinned`: of bridges.
    SlotsApplied {
        number: u64,
        occupied: Slots,
        pinned: Slots,
    },
    /// From the gateway: begin nothing that would be delivered, until [`LinkMessage::Release`] or that moment. `mover`: the peer
    /// whose slots move.
    Hold {
        number: u64,
        mover: Option<PeerSlot>,
        until: Millis,
    },
    /// To the gateway: all that was begun before has been processed on this node, and is stored.
    Held {
        number: u64,
    },
    /// From the gateway: the hold is over.
    Release {
        number: u64,
    },
    /// From the gateway: copy the sessions of these slots, which are frozen, into at most so many bytes.
    Export {
        number: u64,
        slots: Slots,
        max_bytes: usize,
    },
    /// To the gateway: the copy. `None`: it is larger.
    Exported {
        number: u64,
        copy: Option<Box<SlotCopy>>,
    },
    /// From the gateway: put sessions of another node in the place of what these slots have.
    Import {
        number: u64,
        slots: Slots,
        copy: Arc<SlotCopy>,
    },
    /// The numbers of the sender's newest retained messages, by namespace, when it imported: reads of imported sessions that are to
    /// be done again find no later ones.
    RetainedNewest {
        newest: Vec<(Arc<str>, u64)>,
    },
    /// To the gateway: so many sessions are here, their interest is known to all shards, and those on disk are stored. `None`: the
    /// records cannot be understood.
    Imported {
        number: u64,
        sessions: Option<u32>,
    },
    /// A receiver at the sender is slow: pause its publisher.
    Pause(ConnId),
    Resume(ConnId),
    /// The sender has a durable session.
    HasDurableSessions,
    /// A QoS 2 publish that an earlier process received is released.
    Released(DedupKey),
    /// A session ended before it released a QoS 2 publish: its part at the receiver is removed, too.
    SessionEnded(DedupKey),
    /// Asks to hear when everything that was recorded before is on disk.
    StoreBarrier,
    /// Carries nothing but the batch's watermark.
    Ack,
}

/// A shard's retained messages at a barrier.
#[derive(Debug)]
pub(crate) struct RetainedStart {
    /// The number of the newest.
    pub(crate) newest: u64,
    /// The results of the reads, and the positions at which they continue, by the index of their filter. Reads without results are absent.
    pub(crate) pages: Vec<(u32, RetainedPage)>,
}

/// A PUBLISH between shards.
#[derive(Debug)]
pub(crate) struct ForwardedPublish {
    pub(crate) namespace: NamespaceId,
    pub(crate) route: Route,
    pub(crate) version: ProtocolVersion,
    pub(crate) origin: Origin,
    /// Of a message that is retained.
    pub(crate) publisher: Option<Arc<PublisherIdentity>>,
    pub(crate) expires_at: Millis,
    /// If it is retained, then on disk.
    pub(crate) durable: bool,
    /// See [`DedupKey`].
    pub(crate) dedup_key: Option<DedupKey>,
    /// It came from another node, which chooses the members of shared groups itself.
    pub(crate) is_of_peer: bool,
    /// The gateway gives it to shared groups.
    pub(crate) groups_wait: bool,
    /// Range in the batch's bytes.
    pub(crate) start: u32,
    pub(crate) end: u32,
}

/// Names a SUBSCRIBE that waits for other shards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BarrierId {
    pub(crate) session: SessionRef,
    pub(crate) serial: u32,
}

/// Forwarded messages of a batch: settled when all shards have processed them.
#[derive(Debug)]
pub(crate) struct ForwardedBatch {
    /// The position of its link after it.
    pub(crate) end: u64,
    /// The positions of our links after it; empty if nothing was forwarded.
    pub(crate) until: Vec<u64>,
    /// Of the gateway: the number of the newest entry of the log of retained messages that was appended by then.
    pub(crate) entries: u64,
}

/// A SUBSCRIBE elsewhere that waits until every shard has processed what it was sent.
#[derive(Debug)]
pub(crate) struct PendingBarrier {
    pub(crate) from: ShardId,
    pub(crate) request: BarrierId,
    pub(crate) until: Vec<u64>,
}

/// Consequences of a batch's messages of one rank that are not durable. They wait for nothing with another cause:
/// otherwise two shards whose clients publish to each other would wait for each other.
#[derive(Debug)]
pub(crate) struct PendingStorage {
    /// The position of its link after it.
    pub(crate) end: u64,
    /// The batch of records that it left here; 0: none.
    pub(crate) batch: u64,
    /// Other shards that it was forwarded to, and how far each must have stored.
    pub(crate) until: Vec<StorageWait>,
}

/// This end of a link.
#[derive(Debug, Default)]
pub(crate) struct ShardLink {
    pub(super) batch: Batch,
    /// Everything put on the link, in bytes, and how much of it the other end has processed.
    pub(super) sent: u64,
    pub(super) acked: u64,
    /// Batches from the other end that wait for another link.
    pub(super) queued: VecDeque<Batch>,
    /// The position up to which the other end's messages are processed, and the one that was acknowledged.
    pub(super) received: u64,
    pub(super) acknowledged: u64,
    /// The position up to which sent messages are processed by all shards that they were forwarded to.
    pub(super) settled: u64,
    /// The same of what came from the other end, and what is not settled of it yet.
    pub(super) their_settled: u64,
    pub(super) forwarded: VecDeque<ForwardedBatch>,
    /// The positions up to which sent messages are durable on all shards, by rank.
    pub(super) stored: [u64; RANKS],
    /// The same of what came from the other end, and what is not durable of it.
    pub(super) their_stored: [u64; RANKS],
    pub(super) storing: [VecDeque<PendingStorage>; RANKS],
    /// The other end needs the watermarks, even if nothing else is to be sent.
    pub(super) owes_ack: bool,
    /// The positions of our links when a member on the other shard last joined a group that is owned here: by then
    /// every shard had been sent the group's interest in its filter. The next [`LinkMessage::Barrier`] carries them.
    pub(super) joined: Vec<u64>,
    /// Namespaces that are defined at the other end.
    pub(super) defined: Vec<bool>,
    /// The other end's numbers of namespaces, as ours.
    pub(super) namespaces: Vec<NamespaceId>,
    /// Publishers that wait for the link.
    pub(super) waiters: Vec<Origin>,
}

impl LinkMessage {
    /// The weight of the message and its bytes on a link.
    pub(crate) fn bytes(&self) -> u64 {
        match self {
            Self::Publish(forwarded) => ITEM_BYTES + u64::from(forwarded.end - forwarded.start),
            // It is put there as the batch leaves, past all bounds.
            Self::Ack => 0,
            _ => ITEM_BYTES,
        }
    }

    /// Its rank, on the way from a publisher to a receiver; `None`: it has none.
    pub(crate) fn rank(&self) -> Option<usize> {
        match self {
            Self::Publish(ForwardedPublish { route: Route::ViaOwner { .. }, .. }) => Some(RANK_OWNER),
            Self::Publish(ForwardedPublish { route: Route::Direct { .. }, .. })
            | Self::StoreBarrier
            | Self::GroupPublish { .. } => Some(RANK_DIRECT),
            Self::Assign { was_returned: false, .. } => Some(RANK_ASSIGN),
            Self::Return { .. } => Some(RANK_RETURN),
            Self::Assign { was_returned: true, .. } => Some(RANK_REASSIGN),
            _ => None,
        }
    }
}

impl ShardLink {
    pub(super) fn push(&mut self, item: LinkMessage) {
        self.sent += ITEM_BYTES;
        self.batch.messages.push_back(item);
    }

    /// Appends bytes to the batch; returns their range.
    pub(super) fn append(&mut self, write: impl FnOnce(&mut Vec<u8>)) -> (u32, u32) {
        let start = self.batch.bytes.len();
        write(&mut self.batch.bytes);
        let end = self.batch.bytes.len();
        self.sent += (end - start) as u64;
        (start as u32, end as u32)
    }
}
