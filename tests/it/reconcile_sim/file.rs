//! The documents that the simulation's operator writes, valid and invalid.

use std::sync::Arc;

use weir_declare::config::ReadError;
use weirmq::net::SocketKey;

use crate::seeded_random::SeededRandom;

/// One endpoint's file, as an operator leaves it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct File {
    pub(super) port: u16,
    pub(super) host: &'static str,
    pub(super) limit: u16,
    pub(super) enabled: bool,
    pub(super) websocket: bool,
    pub(super) v3_only: bool,
    pub(super) certificate: bool,
    pub(super) restarted_at: u8,
    pub(super) fault: FileFault,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FileFault {
    None,
    Invalid,
    Unparsable,
    Unreadable,
}

const HOSTS: [&str; 3] = ["0.0.0.0", "127.0.0.1", "127.0.0.2"];
pub(super) const NAMES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];

impl File {
    pub(super) fn random(random: &mut SeededRandom) -> Self {
        Self {
            port: 1000 + random.below(5) as u16,
            host: if random.one_in(2) { HOSTS[0] } else { HOSTS[random.below(3) as usize] },
            limit: 1 + random.below(4) as u16,
            enabled: !random.one_in(8),
            websocket: random.one_in(4),
            v3_only: random.one_in(8),
            certificate: false,
            restarted_at: 0,
            fault: FileFault::None,
        }
    }

    pub(super) fn edit(&mut self, random: &mut SeededRandom) {
        match random.below(9) {
            0 => self.port = 1000 + random.below(5) as u16,
            1 => self.host = HOSTS[random.below(3) as usize],
            2 => self.limit = 1 + random.below(4) as u16,
            3 => self.enabled = !self.enabled,
            4 => self.websocket = !self.websocket,
            5 => self.restarted_at = self.restarted_at.wrapping_add(1),
            6 => self.certificate = !self.certificate,
            7 => self.v3_only = !self.v3_only,
            _ => {
                let faults = [FileFault::None, FileFault::Invalid, FileFault::Unparsable, FileFault::Unreadable];
                self.fault = faults[random.below(4) as usize];
            }
        }
    }

    pub(super) fn content(&self) -> Result<Arc<[u8]>, ReadError> {
        let mut text = format!(
            "endpoint:\n  port: {}\n  host: {}\n  maxConnectionSize: {}\n  enabled: {}\n  useWebsocket: {}\n  enableAuth: \
             false\n  enableAcl: false\n  restartedAt: \"{}\"\n",
            self.port, self.host, self.limit, self.enabled, self.websocket, self.restarted_at
        );
        if self.v3_only {
            text.push_str("  protocolVersions: [\"3.1.1\"]\n");
        }
        if self.certificate {
            text.push_str("  sslConfig: {certFile: missing.pem, keyFile: missing.key}\n");
        }
        match self.fault {
            FileFault::None => {}
            FileFault::Invalid => text.push_str("  prot: 1\n"),
            FileFault::Unparsable => text.push_str("  - {\n"),
            FileFault::Unreadable => return Err(ReadError { message: "permission denied".into() }),
        }
        Ok(Arc::from(text.as_bytes()))
    }

    pub(super) fn key(&self) -> SocketKey {
        SocketKey::Tcp(format!("{}:{}", self.host, self.port).parse().unwrap())
    }
}
