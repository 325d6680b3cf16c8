//! What peers send: connections of their clients, and messages about them.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use mio::Token;
use socket2::Socket;

use super::admission::{Admission, AdmissionError};
use super::client::RelayedClient;
use super::ends::EndRequest;
use super::pump::{Pump, RelayKey, Role};
use super::thread::RelayThread;
use super::{Owner, RelayEnd, RelayMessage, WINDOW_BYTES};
use crate::log_value::log_value;
use crate::net::in_process::internal_policy;
use crate::net::plane::PlaneRef;
use crate::net::stream::Stream;

/// Connections that this node serves for others at most: each has two descriptors, and at most a window of bytes.
const SERVED_MAX: usize = 100_000;

impl RelayThread {
    pub(super) fn on_message(&mut self, peer: u64, message: RelayMessage) {
        let key = |relay, from_opener: bool| RelayKey { peer, relay, is_opener: !from_opener };
        match message {
            RelayMessage::Open { relay, slot, admission } => {
                let key = key(relay, true);
                if let Err(reason) = self.serve(key, slot, &admission) {
                    self.close(&key, reason);
                }
            }
            RelayMessage::Data { relay, from_opener, bytes } => {
                let key = key(relay, from_opener);
                let Some(token) = self.known(&key) else { return };
                if self.pump_mut(token).is_some_and(|pump| !pump.push(&bytes)) {
                    tracing::error!(peer = format!("{peer:016x}"), "relayed connection closed: the peer sent too much");
                    return self.remove(token, true);
                }
                self.ready.push(token);
            }
            RelayMessage::Credit { relay, from_opener, bytes } => {
                let key = key(relay, from_opener);
                if let Some(opening) = self.openings.answered(&key) {
                    opening.hand_over.guard.count_admitted();
                    let (client, stream, layers) = RelayedClient::new(*opening.hand_over);
                    self.insert(Pump::new(key, stream, layers, Role::Client(Box::new(client)), 0), true);
                }
                let Some(token) = self.known(&key) else { return };
                if let Some(pump) = self.pump_mut(token) {
                    pump.add_credit(bytes);
                }
                self.ready.push(token);
            }
            RelayMessage::End { relay, code, within_ms, revokes, reference } => {
                self.on_end(&key(relay, true), EndRequest { code, within_ms, revokes, reference });
            }
            RelayMessage::Close { relay, from_opener, reason } => self.on_close(&key(relay, from_opener), reason),
        }
    }

    pub(super) fn known(&self, key: &RelayKey) -> Option<Token> {
        self.slots.get(key).map(|slot| self.token(*slot))
    }

    fn on_close(&mut self, key: &RelayKey, reason: RelayEnd) {
        if let Some(opening) = self.openings.answered(key) {
            return match reason {
                RelayEnd::NotOwner => self.wait(opening),
                RelayEnd::Full => self.refuse(*opening.hand_over, "its node has too many relayed connections"),
                RelayEnd::Refused | RelayEnd::Ended => self.refuse(*opening.hand_over, "its node cannot serve it"),
            };
        }
        self.sweep_soon();
        let now = self.now;
        let Some(token) = self.known(key) else { return };
        if let Some(pump) = self.pump_mut(token) {
            pump.finish(now);
        }
        self.ready.push(token);
    }

    /// Serves a client of a peer.
    fn serve(&mut self, key: RelayKey, slot: u16, admission: &[u8]) -> Result<(), RelayEnd> {
        if self.served >= SERVED_MAX || self.slots.contains_key(&key) {
            return Err(RelayEnd::Full);
        }
        let refused = |error: AdmissionError| {
            tracing::error!(%error, "relayed client refused: its admission cannot be used");
            RelayEnd::Refused
        };
        let admission = Admission::decode(admission).map_err(refused)?;
        let plane = self.plane.as_ref().and_then(PlaneRef::get).ok_or(RelayEnd::Refused)?;
        let Some(policy) = plane.policy_named(&admission.endpoint) else {
            let endpoint = &*log_value(&admission.endpoint);
            tracing::warn!(endpoint, "relayed client refused: this node has no such endpoint");
            return Err(RelayEnd::Refused);
        };
        if self.handle.owner(&policy.endpoint, &admission.client_id) != (slot, Owner::Here) {
            return Err(RelayEnd::NotOwner);
        }
        let authenticator = admission.authenticator(Arc::clone(&policy.authenticate), self.now).map_err(refused)?;
        let sent = admission.sent().map_err(refused)?;
        let certificates = admission.certificates().map_err(refused)?;
        let (ours, theirs) = pair().map_err(|error| {
            tracing::error!(%error, "relayed client refused: no socket pair");
            RelayEnd::Full
        })?;
        let internal = internal_policy(Arc::clone(&policy.endpoint), Arc::new(authenticator));
        let endpoint = policy.endpoint.id;
        let sequence = plane.open_relayed(theirs, internal, &admission.client_id, (admission.peer, certificates));
        let mut pump = Pump::new(key, ours, None, Role::Served { endpoint, sequence }, WINDOW_BYTES);
        pump.push(&sent);
        self.served += 1;
        self.insert(pump, true);
        // The opener may send when these bytes are taken, too.
        let credit = WINDOW_BYTES.saturating_sub(sent.len());
        let bytes = u32::try_from(credit).unwrap_or(u32::MAX);
        self.send(key.peer, RelayMessage::Credit { relay: key.relay, from_opener: false, bytes });
        Ok(())
    }

    pub(super) fn on_peer_lost(&mut self, peer: u64) {
        self.congested.remove(&peer);
        self.openings.peer_lost(peer);
        self.sweep_soon();
        let lost: Vec<(RelayKey, u32)> = self.slots.extract_if(|key, _| key.peer == peer).collect();
        for (key, slot) in lost {
            if key.is_opener {
                self.end_here(self.token(slot));
            } else {
                self.served -= 1;
                self.pumps.remove(slot);
            }
        }
    }
}

/// A connected socket pair: the relay's end, and the shard's.
fn pair() -> io::Result<(Stream, Socket)> {
    let (ours, theirs) = UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    theirs.set_nonblocking(true)?;
    Ok((Stream::new(OwnedFd::from(ours).into(), true), OwnedFd::from(theirs).into()))
}
