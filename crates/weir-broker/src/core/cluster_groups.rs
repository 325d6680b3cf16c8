//! Shared groups over nodes: what the gateway learns of the members here, and messages of peers for one of them.

use std::sync::Arc;

use crate::delivery::publish_context::PublishContext;
use crate::ids::{Millis, Origin, SessionId};
use crate::links::link::LinkMessage;
use crate::routing::shared_groups::MemberId;
use crate::values::group::GroupKey;
use crate::values::message::Message;
use crate::{Core, Dropped, EndpointId};

impl Core {
    /// Members of a group that is owned here have changed, or how ready they are.
    pub(crate) fn touch_group(&mut self, key: &Arc<GroupKey>) {
        if self.gateway.is_some() {
            self.touched_groups.insert(Arc::clone(key));
        }
    }

    /// The same, of all groups of a session that are owned here.
    pub(crate) fn touch_groups_of(&mut self, id: SessionId) {
        if self.gateway.is_none() {
            return;
        }
        let here = self.config.shard;
        let Some(cold) = self.clients.session(id).and_then(|session| session.cold.as_ref()) else { return };
        let own = cold.shared.iter().filter(|(_, shared)| shared.owner == here).map(|(key, _)| Arc::clone(key));
        self.touched_groups.extend(own.collect::<Vec<_>>());
    }

    /// The same, of all groups owned here that have a member of another shard.
    pub(crate) fn touch_groups_of_member(&mut self, member: MemberId) {
        if self.gateway.is_some_and(|gateway| gateway != member.0) {
            self.touched_groups.extend(self.routing.groups_of(member));
        }
    }

    /// Tells the gateway of the groups that have changed in this turn.
    pub(crate) fn send_group_states(&mut self) {
        let Some(gateway) = self.gateway else { return };
        for group in std::mem::take(&mut self.touched_groups) {
            let clients = &self.clients;
            let here = self.config.shard;
            let (members, ready) = match self.routing.group_id(&group) {
                Some(id) => self.routing.count_members(id, here, gateway, |session| clients.member_readiness(session)),
                None => (0, 0),
            };
            self.links.push(gateway, LinkMessage::GroupState { group, members, ready });
        }
    }

    /// A peer's message for one member on this node. It stays here where none is ready, as with a member that is no longer ready
    /// just after it was given a message: the peer has acknowledged it. Only where no member is here, one of another node has it.
    pub(crate) fn on_peer_group_publish(&mut self, key: &Arc<GroupKey>, message: &Message, now: Millis) {
        if message.is_expired(now) {
            return;
        }
        let Some(id) = self.routing.group_id(key) else {
            return self.count_dropped(EndpointId::RESTORED, Dropped::NoMember, 1);
        };
        let publish = message.as_publish();
        let mut context = PublishContext::of_message(message, &publish, Origin::BROKER);
        context.is_of_peer = true;
        self.assign(id, &mut context, true, now);
    }
}
