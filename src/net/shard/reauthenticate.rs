//! Re-authentication of admitted clients [MQTT 5.0 section 4.12.1]: passes the data of AUTH packets to the
//! authenticator, and its decision to the core.

use std::sync::Arc;

use super::Shard;
use super::auth_work::{AuthClient, AuthWork, queue_auth_job, spawn_auth_task};
use super::handshake::Handshake;
use super::table::{Connection, ConnectionKey, ConnectionState};
use crate::auth::{AuthExchange, AuthRefusal, Credentials, Decision, PeerCertificate};
use crate::net::policy::ListenerPolicy;
use weir_broker::{ConnId, Principal, Reauthentication};
use weir_mqtt::{Connect, ProtocolVersion};

/// The credentials of a connection with an authentication method, for re-authentication.
pub(super) struct EnhancedAuth {
    /// The policy of the current, or the last, authentication.
    policy: Arc<ListenerPolicy>,
    client_id: Box<str>,
    /// The username of CONNECT.
    username: Option<Box<str>>,
    method: Box<str>,
    certificate: Option<Box<PeerCertificate>>,
    /// A re-authentication that waits for the client's next AUTH packet.
    exchange: Option<Box<dyn AuthExchange>>,
    /// A re-authentication that waits for a worker or an authentication service.
    work: Option<AuthWork>,
}

impl EnhancedAuth {
    /// `None`: CONNECT has no authentication method.
    pub(super) fn new(connect: &Connect<'_>, handshake: &Handshake, assigned_id: Option<&str>) -> Option<Box<Self>> {
        Some(Box::new(Self {
            policy: Arc::clone(&handshake.policy),
            client_id: assigned_id.unwrap_or(connect.client_id).into(),
            username: connect.username.map(Box::from),
            method: connect.properties.authentication_method?.into(),
            certificate: handshake.certificate.clone(),
            exchange: None,
            work: None,
        }))
    }
}

impl Shard {
    /// Handles an AUTH packet: a client begins a re-authentication, or answers a challenge.
    pub(super) fn reauthenticate_client(&mut self, request: Reauthentication) {
        let Reauthentication { connection, begins, data } = request;
        let Some(key) = self.table.key_of(connection) else { return };
        let decision = if begins {
            self.begin_reauthentication(key, data.as_deref())
        } else {
            self.continue_reauthentication(key, data.as_deref())
        };
        if let Some(decision) = decision {
            self.on_reauthentication_decision(key, decision);
        }
    }

    fn begin_reauthentication(&mut self, key: ConnectionKey, data: Option<&[u8]>) -> Option<Decision> {
        let connection = self.table.get_mut(key)?;
        let enhanced = connection.enhanced.as_deref_mut()?;
        if let Some(newest) = self.policies.get(&enhanced.policy.endpoint.id)
            && newest.endpoint.generation > enhanced.policy.endpoint.generation
        {
            enhanced.policy = Arc::clone(newest);
        }
        Some(enhanced.policy.authenticate.authenticate(&Credentials {
            endpoint: &enhanced.policy.endpoint,
            now: self.now,
            version: ProtocolVersion::V5,
            client_id: &enhanced.client_id,
            client_id_assigned: false,
            username: enhanced.username.as_deref(),
            password: None,
            peer: connection.peer,
            certificate: enhanced.certificate.as_deref(),
            tls: connection.layers.as_ref().is_some_and(|layers| layers.tls.is_some()),
            authentication_method: Some(&enhanced.method),
            authentication_data: data,
            reauthentication: true,
            start_check: None,
        }))
    }

    fn continue_reauthentication(&mut self, key: ConnectionKey, data: Option<&[u8]>) -> Option<Decision> {
        let exchange = self.table.get_mut(key)?.enhanced.as_deref_mut()?.exchange.take()?;
        Some(exchange.step(data.unwrap_or_default()))
    }

    /// Handles the authenticator's decision.
    pub(super) fn on_reauthentication_decision(&mut self, key: ConnectionKey, decision: Decision) {
        let Some(Connection { state: ConnectionState::Open(id), enhanced: Some(enhanced), peer, .. }) =
            self.table.get_mut(key)
        else {
            return;
        };
        let id = *id;
        match decision {
            Decision::Admit(principal) => self.complete_reauthentication(key, id, principal, None),
            Decision::AdmitWith { principal, data, .. } => {
                self.complete_reauthentication(key, id, principal, data.as_deref())
            }
            Decision::Continue { data, exchange } => {
                enhanced.exchange = Some(exchange);
                self.core.continue_authentication(id, &data, self.now);
            }
            Decision::Refuse(refusal) => self.fail_reauthentication(key, id, refusal),
            Decision::Task(task) => {
                enhanced.work = Some(AuthWork::Task(spawn_auth_task(&self.shared, &self.mailbox, key, task)));
            }
            Decision::Blocking(work) => {
                let bytes = enhanced.client_id.len() + enhanced.username.as_ref().map_or(0, |name| name.len());
                let client = AuthClient { key, endpoint: enhanced.policy.endpoint.id, peer: *peer, bytes };
                match queue_auth_job(&self.shared, &self.mailbox, client, work) {
                    Ok(job) => enhanced.work = Some(AuthWork::Job(job)),
                    Err(_) => self.fail_reauthentication(key, id, AuthRefusal::Busy),
                }
            }
        }
    }

    fn complete_reauthentication(&mut self, key: ConnectionKey, id: ConnId, principal: Principal, data: Option<&[u8]>) {
        let Some(enhanced) = self.table.get(key).and_then(|connection| connection.enhanced.as_deref()) else {
            self.abort_handshake(key);
            return;
        };
        // A policy that was declared meanwhile applies too: no other check would apply it to this connection.
        let still_valid = self.policies.get(&enhanced.policy.endpoint.id).is_none_or(|newest| {
            newest.endpoint.generation <= enhanced.policy.endpoint.generation
                || newest.authenticate.still_valid(&principal, &enhanced.client_id)
        });
        if still_valid {
            self.core.reauthenticated(id, principal, data, self.now);
        } else {
            self.fail_reauthentication(key, id, AuthRefusal::NotAuthorized);
        }
    }

    /// Disconnects a client that fails re-authentication [MQTT-4.12.1-2].
    fn fail_reauthentication(&mut self, key: ConnectionKey, id: ConnId, refusal: AuthRefusal) {
        if let Some(enhanced) = self.table.get(key).and_then(|connection| connection.enhanced.as_deref()) {
            let endpoint = &enhanced.policy.endpoint.name;
            tracing::info!(%endpoint, ?refusal, "re-authentication failed: client disconnected");
        }
        self.core.disconnect(id, refusal.disconnect_code(), None, self.now);
    }
}
