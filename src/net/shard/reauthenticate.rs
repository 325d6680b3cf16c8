//! Re-authentication of admitted clients [MQTT 5.0 section 4.12.1]: what their AUTH packets hold goes to the
//! authenticator, its answer to the core.

use std::sync::Arc;

use super::admit::spawn_auth_task;
use super::handshake::Handshake;
use super::table::{Connection, Key, State};
use super::{Event, Shard};
use crate::auth::{AuthExchange, Credentials, Decision, PeerCertificate, Refusal};
use crate::net::auth_tasks::AuthTaskHandle;
use crate::net::policy::ListenerPolicy;
use weir_broker::{ConnId, Principal, Reauthentication};
use weir_mqtt::{Connect, ProtocolVersion};

/// What a connection with an authentication method shows again.
pub(super) struct Enhanced {
    /// By which it is judged, or was the last time.
    policy: Arc<ListenerPolicy>,
    client_id: Box<str>,
    /// CONNECT's.
    username: Option<Box<str>>,
    method: Box<str>,
    certificate: Option<Box<PeerCertificate>>,
    /// A re-authentication under way, where the next word is the client's.
    exchange: Option<Box<dyn AuthExchange>>,
    /// The same, where an authentication service is asked.
    auth_task: Option<AuthTaskHandle>,
}

impl Enhanced {
    /// `None`: CONNECT named no method.
    pub(super) fn new(connect: &Connect<'_>, handshake: &Handshake, assigned_id: Option<&str>) -> Option<Box<Self>> {
        Some(Box::new(Self {
            policy: Arc::clone(&handshake.policy),
            client_id: assigned_id.unwrap_or(connect.client_id).into(),
            username: connect.username.map(Box::from),
            method: connect.properties.authentication_method?.into(),
            certificate: handshake.certificate.clone(),
            exchange: None,
            auth_task: None,
        }))
    }
}

impl Shard {
    /// A client wants to be authenticated again, or answers a challenge.
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

    fn begin_reauthentication(&mut self, key: Key, data: Option<&[u8]>) -> Option<Decision> {
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
            again: true,
        }))
    }

    fn continue_reauthentication(&mut self, key: Key, data: Option<&[u8]>) -> Option<Decision> {
        let exchange = self.table.get_mut(key)?.enhanced.as_deref_mut()?.exchange.take()?;
        Some(exchange.step(data.unwrap_or_default()))
    }

    /// An authenticator's answer, now or from a worker.
    pub(super) fn on_reauthentication_decision(&mut self, key: Key, decision: Decision) {
        let Some(Connection { state: State::Open(id), enhanced: Some(enhanced), .. }) = self.table.get_mut(key) else {
            return;
        };
        let id = *id;
        match decision {
            Decision::Admit(principal) => self.confirm_again(key, id, principal, None),
            Decision::AdmitWith { principal, data, .. } => self.confirm_again(key, id, principal, data.as_deref()),
            Decision::Continue { data, exchange } => {
                enhanced.exchange = Some(exchange);
                self.core.continue_authentication(id, &data, self.now);
            }
            Decision::Refuse(refusal) => self.refuse_again(key, id, refusal),
            Decision::Task(task) => {
                enhanced.auth_task = spawn_auth_task(&self.shared, &self.mailbox, key, task);
            }
            Decision::Blocking(job) => {
                let endpoint = enhanced.policy.endpoint.id;
                let mailbox = Arc::clone(&self.mailbox);
                let job = Box::new(move || mailbox.send(Event::Decided { key, decision: job() }));
                if self.shared.workers.submit(endpoint, job).is_err() {
                    self.refuse_again(key, id, Refusal::Busy);
                }
            }
        }
    }

    fn confirm_again(&mut self, key: Key, id: ConnId, principal: Principal, data: Option<&[u8]>) {
        let Some(enhanced) = self.table.get(key).and_then(|connection| connection.enhanced.as_deref()) else { return };
        // What was declared since it was asked counts too: nobody else would judge it by that.
        let confirmed = self.policies.get(&enhanced.policy.endpoint.id).is_none_or(|newest| {
            newest.endpoint.generation <= enhanced.policy.endpoint.generation
                || newest.authenticate.still_valid(&principal, &enhanced.client_id)
        });
        if confirmed {
            self.core.reauthenticated(id, principal, data, self.now);
        } else {
            self.refuse_again(key, id, Refusal::NotAuthorized);
        }
    }

    /// Who fails to prove it again has to go [MQTT-4.12.1-2].
    fn refuse_again(&mut self, key: Key, id: ConnId, refusal: Refusal) {
        if let Some(enhanced) = self.table.get(key).and_then(|connection| connection.enhanced.as_deref()) {
            let endpoint = &enhanced.policy.endpoint.name;
            tracing::info!(%endpoint, ?refusal, "a client is not authenticated again");
        }
        self.core.disconnect(id, refusal.disconnect_code(), None, self.now);
    }
}
