//! The hold: for a short time this shard begins nothing that would be delivered, so that the sessions of a slot can be copied to
//! another node with a clean cut. What comes before the hold is in the copy; what comes after it reaches both nodes.
//!
//! PUBLISHes stay unread on their connections, and wills that are due wait. Messages of shared groups need no cut: each goes to
//! one member, and a copy that is dropped gives back what it got after it was made.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::ids::{ConnId, Millis, NamespaceId, NodeId, SessionRef, ShardId};
use crate::links::link::LinkMessage;
use crate::values::will::PendingWill;
use crate::{Core, EndpointPolicy};

/// What was done so far, until other shards have processed it and it is stored.
#[derive(Debug)]
struct Settling {
    /// The positions of the links to each shard.
    positions: Vec<u64>,
    epoch: Option<u64>,
}

/// A will that became due during a hold.
#[derive(Debug)]
struct DueWill {
    session: SessionRef,
    namespace: NamespaceId,
    client_id: Box<str>,
    policy: Arc<EndpointPolicy>,
    will: PendingWill,
}

#[derive(Debug)]
struct Hold {
    number: u64,
    /// It ends by itself then.
    until: Millis,
    /// What was begun before. `None`: it is known to be settled.
    before: Option<Settling>,
    publishers: BTreeSet<ConnId>,
    wills: Vec<DueWill>,
    /// Sessions whose end, or will, became due.
    sessions: Vec<SessionRef>,
}

/// What a move of slots needs of a shard.
#[derive(Debug, Default)]
pub(crate) struct Moves {
    hold: Option<Hold>,
    /// An import whose sessions are not in effect yet: its number, and how many they are.
    import: Option<(u64, u32, Settling)>,
    /// Since the last hold: reads of imported sessions that are to be done again, and what shards had retained by then.
    pub(crate) due_reads: Vec<(SessionRef, NodeId)>,
    pub(crate) newest: BTreeMap<ShardId, Vec<(Arc<str>, u64)>>,
}

impl Moves {
    pub(crate) fn is_held(&self) -> bool {
        self.hold.is_some()
    }

    pub(crate) fn deadline(&self) -> Option<Millis> {
        self.hold.as_ref().map(|hold| hold.until)
    }

    /// Looks at a session that is due when the hold is over. `false`: there is none.
    pub(crate) fn put_off(&mut self, session: SessionRef) -> bool {
        self.hold.as_mut().map(|hold| hold.sessions.push(session)).is_some()
    }
}

impl Core {
    /// What was done so far; other shards are asked to say when they have processed it.
    fn begin_settling(&mut self) -> Settling {
        let settling = Settling { positions: self.links.positions(), epoch: self.journal.unsettled() };
        self.links.others().for_each(|shard| self.links.request_ack(shard));
        settling
    }

    /// The gateway's link is a queue, in which the answer is behind everything else.
    fn is_settled(&self, settling: &Settling) -> bool {
        let mut others = self.links.others().filter(|shard| Some(*shard) != self.gateway);
        let is_processed = |shard: &ShardId| {
            settling.positions.get(shard.index()).is_none_or(|position| self.links.settled(*shard) >= *position)
        };
        settling.epoch.is_none_or(|epoch| self.journal.is_settled(epoch)) && others.all(|shard| is_processed(&shard))
    }

    /// From now on nothing is begun, until the gateway releases it, or until that moment.
    pub(crate) fn begin_hold(&mut self, number: u64, until: Millis) {
        let before = Some(self.begin_settling());
        self.moves.due_reads.clear();
        self.moves.newest.clear();
        self.moves.hold = Some(match self.moves.hold.take() {
            Some(hold) => Hold { number, until, before, ..hold },
            None => {
                Hold { number, until, before, publishers: BTreeSet::new(), wills: Vec::new(), sessions: Vec::new() }
            }
        });
        self.answer_moves();
    }

    /// Whether a PUBLISH that has come waits until the hold is over: its connection pauses.
    pub(crate) fn waits_for_hold(&mut self, connection: ConnId) -> bool {
        let Some(hold) = &mut self.moves.hold else { return false };
        if hold.publishers.insert(connection) {
            self.clients.pause(connection);
        }
        true
    }

    /// Keeps a will that is due until the hold is over. `Some`: there is no hold.
    pub(crate) fn hold_due_will(
        &mut self,
        session: SessionRef,
        (namespace, client_id, policy): (NamespaceId, &str, &Arc<EndpointPolicy>),
        will: PendingWill,
    ) -> Option<PendingWill> {
        let Some(hold) = &mut self.moves.hold else { return Some(will) };
        let (client_id, policy) = (client_id.into(), Arc::clone(policy));
        hold.wills.push(DueWill { session, namespace, client_id, policy, will });
        None
    }

    pub(crate) fn end_hold(&mut self, number: u64, now: Millis) {
        let Some(hold) = self.moves.hold.take_if(|hold| hold.number == number) else { return };
        for DueWill { session, namespace, client_id, policy, will } in hold.wills {
            self.send_will(session, (namespace, &client_id, &policy), will, now);
        }
        hold.sessions.into_iter().for_each(|session| self.session_is_due(session, now));
        hold.publishers.into_iter().for_each(|connection| self.clients.resume(connection));
        self.release_publishes(now);
    }

    pub(crate) fn expire_hold(&mut self, now: Millis) {
        if let Some(number) = self.moves.hold.as_ref().filter(|hold| hold.until <= now).map(|hold| hold.number) {
            self.end_hold(number, now);
        }
    }

    /// Sessions of another node were put in here: the gateway hears of it when every shard knows their interest.
    pub(crate) fn begin_import_wait(&mut self, number: u64, sessions: u32) {
        let settling = self.begin_settling();
        self.moves.import = Some((number, sessions, settling));
        self.answer_moves();
    }

    /// Tells the gateway what is settled.
    pub(crate) fn answer_moves(&mut self) {
        let Some(gateway) = self.gateway else { return };
        let begins = !self.deferred.searches.is_empty() || self.outbox.has_restored();
        if let Some(hold) = &self.moves.hold
            && !begins
            && hold.before.as_ref().is_some_and(|before| self.is_settled(before))
        {
            let number = hold.number;
            if let Some(hold) = &mut self.moves.hold {
                hold.before = None;
            }
            self.links.push(gateway, LinkMessage::Held { number });
        }
        if let Some((number, sessions, settling)) = &self.moves.import
            && self.is_settled(settling)
        {
            let (number, sessions) = (*number, Some(*sessions));
            self.moves.import = None;
            self.links.push(gateway, LinkMessage::Imported { number, sessions });
        }
    }
}
