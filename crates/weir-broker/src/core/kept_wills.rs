//! Wills that another node keeps, to publish them when this one dies: those of sessions that end with their node.

use std::sync::Arc;

use crate::Core;
use crate::clients::timers::Timer;
use crate::clients::wills::{HeldWill, RefusedWill, WillRefusal};
use crate::durability::kept_will::{read_kept_will, write_kept_will};
use crate::ids::{ConnectionSlot, Millis, NamespaceId, RecordId, SessionId, SessionRef};
use crate::links::link::LinkMessage;
use crate::observe::Site;
use crate::placement::OF_NODE_PREFIX;
use crate::values::will::PendingWill;
use weir_mqtt::ReasonCode;

/// The session of a client of a node that died.
const NO_SESSION: SessionRef = SessionRef { id: SessionId(u32::MAX), generation: u32::MAX };

impl Core {
    /// Gives the will of a connection to the gateway. That of a session on disk needs no other node: it is published when this
    /// one has started again.
    pub(crate) fn entrust_will(&mut self, slot: ConnectionSlot) {
        let Some(gateway) = self.gateway else { return };
        let Some((connection, Some(session))) = self.clients.connection_and_session(slot) else { return };
        let Some(will) = session.will.as_ref().filter(|_| session.durable.is_none()) else { return };
        if session.client_id.starts_with(OF_NODE_PREFIX) {
            return;
        }
        connection.is_will_kept = true;
        // A session without an expiry ends with its connection, and its will is due then.
        let bytes = write_kept_will(&session.policy.name, will.delay_s.min(session.expiry_s), will);
        let (namespace, client_id, stamp) = (session.namespace, session.client_id.clone(), connection.stamp);
        self.define_namespace(gateway, namespace);
        self.links.push(gateway, LinkMessage::ClientWill { namespace, client_id, stamp, will: Some(bytes.into()) });
    }

    /// What the gateway is to be sent when a connection has ended, and its will was published, or is not to be.
    pub(crate) fn withdrawal_of_will(&self, slot: ConnectionSlot) -> Option<LinkMessage> {
        let connection = self.clients.connection(slot).filter(|connection| connection.is_will_kept)?;
        let session = self.clients.session(connection.session)?;
        let (namespace, client_id, stamp) = (session.namespace, session.client_id.clone(), connection.stamp);
        Some(LinkMessage::ClientWill { namespace, client_id, stamp, will: None })
    }

    /// A connection ends while this node is out. Its keeper may have published its will: it waits until this node is in again, and
    /// knows that. `false`: there is no reason to wait.
    pub(crate) fn hold_will(&mut self, slot: ConnectionSlot, now: Millis) -> bool {
        if !self.journal.is_suspended(now) {
            return false;
        }
        let Some((connection, Some(session))) = self.clients.connection_and_session(slot) else { return false };
        let (stamp, id, is_kept) = (connection.stamp, connection.session, connection.is_will_kept);
        let Some(will) = session.will.take_if(|_| is_kept) else { return false };
        let due_at = now + u64::from(will.delay_s.min(session.expiry_s)) * 1000;
        let (namespace, client_id, policy) =
            (session.namespace, session.client_id.clone(), Arc::clone(&session.policy));
        let session = self.clients.session_ref(id);
        self.wills.hold(HeldWill { namespace, client_id, policy, stamp, session, due_at, will });
        true
    }

    /// The node is in again, and knows which wills its keeper has published.
    pub(crate) fn release_held_wills(&mut self, now: Millis) {
        if self.journal.is_suspended(now) {
            return;
        }
        for held in self.wills.take_held() {
            let HeldWill { namespace, client_id, policy, stamp, session, due_at, mut will } = held;
            match self.clients.session_by_ref(session).filter(|session| !session.ending && due_at > now) {
                Some(offline) if offline.connection.is_none() => {
                    will.due_at = Some(due_at);
                    offline.will = Some(will);
                    self.clients.set_timer(due_at, Timer::session(session));
                }
                // The client is back before its will was due [MQTT-3.1.3-9].
                Some(_) => {}
                None => self.send_will(session, (namespace, &client_id, &policy), *will, now),
            }
            self.withdraw_will(namespace, client_id, stamp);
        }
    }

    fn drop_held_will(&mut self, namespace: NamespaceId, client_id: &str, stamp: u64) {
        if self.wills.drop_held(namespace, client_id, stamp) {
            self.withdraw_will(namespace, client_id.into(), stamp);
        }
    }

    fn withdraw_will(&mut self, namespace: NamespaceId, client_id: Box<str>, stamp: u64) {
        if let Some(gateway) = self.gateway {
            self.links.push(gateway, LinkMessage::ClientWill { namespace, client_id, stamp, will: None });
        }
    }

    /// Publishes the will of a client of a node that died, if the client still might.
    pub(crate) fn publish_kept_will(&mut self, namespace: NamespaceId, client_id: &str, bytes: &[u8], now: Millis) {
        let Some(kept) = read_kept_will(bytes) else { return self.observe.count_error(Site::ForwardedPublish) };
        let Some(policy) = self.routing.policy(namespace, kept.endpoint).map(Arc::clone) else {
            return self.wills.report(|| RefusedWill {
                endpoint: kept.endpoint.into(),
                client_id: client_id.into(),
                topic: kept.message.topic().into(),
                why: WillRefusal::NotAdmitted,
            });
        };
        let charge = self.clients.session_bytes().charge(PendingWill::bytes(&kept.message, &kept.principal));
        let will = PendingWill {
            record: RecordId::NONE,
            message: kept.message,
            delay_s: 0,
            due_at: None,
            principal: kept.principal,
            charge,
        };
        self.send_will(NO_SESSION, (namespace, client_id, &policy), will, now);
    }

    /// Another node took this one for dead, and published the will of a connection that still is here: the connection ends
    /// without it.
    pub(crate) fn on_will_published(&mut self, namespace: NamespaceId, client_id: &str, stamp: u64) {
        self.drop_held_will(namespace, client_id, stamp);
        let Some(id) = self.clients.find_session(namespace, client_id) else { return };
        let Some(slot) = self.clients.session(id).and_then(|session| session.connection) else { return };
        if self.clients.connection(slot).is_none_or(|connection| connection.stamp != stamp) {
            return;
        }
        if let Some(session) = self.clients.session_mut(id) {
            session.will = None;
        }
        self.disconnect_with(slot, ReasonCode::UseAnotherServer);
    }
}
