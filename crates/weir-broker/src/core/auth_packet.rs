//! AUTH on an admitted connection: re-authentication [MQTT 5.0 section 4.12.1]. The core enforces the
//! packet order; the driver checks the data. Other packets flow meanwhile.

use crate::clients::reauthentication::{Reauthentication, ReauthenticationState};
use crate::clients::timers::Timer;
use crate::ids::{ConnId, Millis};
use crate::observe::Site;
use crate::{Core, Principal};
use weir_mqtt::{Auth, Packet, ProtocolVersion, ReasonCode};

impl Core {
    /// AUTH of a connection that used no enhanced authentication breaks the protocol [MQTT-4.12.0-7], as does one with
    /// another method than CONNECT's [MQTT-4.12.1-1], or out of turn.
    pub(crate) fn on_auth(&mut self, id: ConnId, auth: &Auth<'_>) {
        let Some(connection) = self.clients.connection_mut(id.slot) else {
            return self.observe.count_error(Site::ConnectionOfPacket);
        };
        let begins = auth.code == ReasonCode::ReAuthenticate as u8;
        let in_turn = if begins { ReauthenticationState::Idle } else { ReauthenticationState::AwaitsClient };
        match connection.cold.as_deref_mut() {
            Some(cold)
                if cold.authentication_method.is_some()
                    && cold.authentication_method.as_deref() == auth.authentication_method
                    && cold.reauthentication == in_turn =>
            {
                cold.reauthentication = ReauthenticationState::AwaitsServer;
                let data = auth.authentication_data.map(Box::from);
                self.clients.push_reauthentication(Reauthentication { connection: id, begins, data });
            }
            _ => self.refuse(id.slot, ReasonCode::ProtocolError),
        }
    }

    /// The method wants more of the client: AUTH 0x18 with `data`.
    pub fn continue_authentication(&mut self, conn: ConnId, data: &[u8], now: Millis) {
        self.now = now;
        self.write_auth(conn, ReasonCode::ContinueAuthentication, Some(data), ReauthenticationState::AwaitsClient);
    }

    /// Re-authentication succeeded: AUTH 0x00, with the method's final data. From now on `principal` counts. It
    /// must have the user name it had: session and will are that user's.
    pub fn reauthenticated(&mut self, conn: ConnId, principal: Principal, data: Option<&[u8]>, now: Millis) {
        self.now = now;
        let Some(connection) = self.clients.open(conn).filter(|c| !c.closing) else {
            return;
        };
        if connection.principal.username != principal.username {
            return self.disconnect_with(conn.slot, ReasonCode::NotAuthorized);
        }
        let ends_at = principal.expires_at;
        *connection.principal = principal.clone();
        connection.permitted = None;
        let session = connection.session;
        if let Some(will) = self.clients.session_mut(session).and_then(|session| session.will.as_mut()) {
            will.principal = principal;
        }
        if let Some(at) = ends_at {
            self.clients.set_timer(at, Timer::Credential(conn));
        }
        self.write_auth(conn, ReasonCode::Success, data, ReauthenticationState::Idle);
        self.reauthorize_session(session);
    }

    fn write_auth(&mut self, conn: ConnId, code: ReasonCode, data: Option<&[u8]>, state: ReauthenticationState) {
        let Some(connection) = self.clients.open(conn) else { return };
        let Some(cold) = connection.cold.as_deref_mut() else { return };
        cold.reauthentication = state;
        // [MQTT-4.12.0-5]
        let method = cold.authentication_method.clone();
        let auth = Auth {
            code: code as u8,
            authentication_method: method.as_deref(),
            authentication_data: data,
            ..Auth::default()
        };
        self.write_packet(conn.slot, &Packet::Auth(auth), ProtocolVersion::V5);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{Admission, CoreConfig, ReadAction, ShardId};
    use weir_mqtt::{Decoded, decode_connect};

    /// A client id, method `M`.
    const CONNECT: &[u8] = b"\x10\x12\x00\x04MQTT\x05\x02\x00\x00\x04\x15\x00\x01M\x00\x01a";
    const BEGIN: &[u8] = b"\xf0\x06\x19\x04\x15\x00\x01M";
    const ANSWER: &[u8] = b"\xf0\x0a\x18\x08\x15\x00\x01M\x16\x00\x01x";

    fn principal(username: &str, expires_at: Option<Millis>) -> Principal {
        Principal {
            username: Some(username.into()),
            address: None,
            admitted_by: "test".into(),
            claims_acl: None,
            expires_at,
        }
    }

    /// A core with one client, `user`, whose credential ends at 1000.
    fn admitted() -> (Core, ConnId) {
        let mut core =
            Core::new(CoreConfig { shard: ShardId(0), shards: 1, hash_seed: 0, work: crate::WorkBudget::default() });
        let Ok(Decoded::Packet { packet, .. }) = decode_connect(CONNECT, 1000) else { panic!("no CONNECT") };
        let admission = Admission {
            policy: Arc::new(crate::core::tests::policy()),
            connect: &packet,
            client_id: "a",
            assigned: false,
            principal: principal("user", Some(1000)),
            authentication_data: None,
        };
        let id = core.admit(admission, 0).unwrap();
        drain(&mut core, id);
        (core, id)
    }

    fn drain(core: &mut Core, id: ConnId) -> Vec<u8> {
        let out = core.out(id).unwrap();
        let bytes = out.first().to_vec();
        out.advance(bytes.len());
        bytes
    }

    fn asked(core: &mut Core) -> Vec<Reauthentication> {
        std::iter::from_fn(|| core.clients.next_reauthentication()).collect()
    }

    fn is_closing(core: &mut Core) -> bool {
        core.next_closing().is_some()
    }

    #[test]
    fn reauthentication_completes_and_may_begin_again() {
        let (mut core, id) = admitted();
        for _ in 0..2 {
            assert_eq!(core.receive(id, BEGIN, 1).action, ReadAction::Continue);
            assert_eq!(asked(&mut core), [Reauthentication { connection: id, begins: true, data: None }]);
            core.continue_authentication(id, b"y", 1);
            assert_eq!(drain(&mut core, id), b"\xf0\x0a\x18\x08\x15\x00\x01M\x16\x00\x01y");
            core.receive(id, ANSWER, 2);
            let data = Some(Box::from(&b"x"[..]));
            assert_eq!(asked(&mut core), [Reauthentication { connection: id, begins: false, data }]);
            core.reauthenticated(id, principal("user", None), Some(b"z"), 2);
            assert_eq!(drain(&mut core, id), b"\xf0\x0a\x00\x08\x15\x00\x01M\x16\x00\x01z");
        }
    }

    #[test]
    fn auth_out_of_turn_disconnects_with_protocol_error() {
        for packets in [&[ANSWER][..], &[BEGIN, BEGIN], &[BEGIN, ANSWER], &[b"\xf0\x06\x19\x04\x15\x00\x01N"]] {
            let (mut core, id) = admitted();
            core.receive(id, &packets.concat(), 1);
            assert_eq!(drain(&mut core, id), b"\xe0\x01\x82", "{packets:?}");
            assert!(is_closing(&mut core));
        }
    }

    #[test]
    fn reauthentication_replaces_the_expiry_of_the_credential() {
        for (ends_at, then) in [(Some(500), 500), (Some(5000), 5000), (None, Millis::MAX)] {
            let (mut core, id) = admitted();
            core.receive(id, BEGIN, 1);
            core.reauthenticated(id, principal("user", ends_at), None, 1);
            for now in [500, 1000, 5000] {
                core.tick(now);
                assert_eq!(is_closing(&mut core), now == then, "{now} {ends_at:?}");
            }
        }
    }

    #[test]
    fn reauthentication_with_another_username_disconnects_with_not_authorized() {
        let (mut core, id) = admitted();
        core.receive(id, BEGIN, 1);
        core.reauthenticated(id, principal("root", None), None, 1);
        assert_eq!(drain(&mut core, id), b"\xe0\x01\x87");
        assert!(is_closing(&mut core));
    }
}
