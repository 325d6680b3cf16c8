//! TLS handshakes that are begun and never finished.

use std::collections::VecDeque;
use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::ClientConnection;
use rustls::pki_types::ServerName;

use super::client::{ATTACKER, open_from};
use super::run::Attack;
use super::scaled;
use crate::net::tls::Authority;
use crate::support::stream::tls_config;

/// Bytes of ClientHellos in a second.
const BYTES_PER_S: usize = 160_000;
const TIME: Duration = Duration::from_secs(10);
/// Connections that are open at once; an older one is closed for a new one.
const OPEN: usize = 200;

#[test]
#[ignore = "an attack: tests/all/attacks"]
fn client_hellos_without_a_finished_handshake() {
    Attack::new("160 KB/s of ClientHellos to an RSA certificate").run(|target| {
        let mut hello = Vec::new();
        let config = Arc::new(tls_config(&Authority::new().der()));
        let name = ServerName::try_from("localhost").map_err(std::io::Error::other)?;
        ClientConnection::new(config, name).map_err(std::io::Error::other)?.write_tls(&mut hello)?;
        let pause = Duration::from_secs_f64(hello.len() as f64 / scaled(BYTES_PER_S) as f64);
        let (start, mut sent, mut refused) = (Instant::now(), 0_u32, 0);
        let mut open = VecDeque::new();
        while start.elapsed() < TIME {
            let mut stream = open_from(ATTACKER, target.address("tls"))?;
            refused += u32::from(stream.write_all(&hello).is_err());
            open.push_back(stream);
            open.drain(..open.len().saturating_sub(OPEN));
            sent += 1;
            std::thread::sleep((start + pause * sent).saturating_duration_since(Instant::now()));
        }
        Ok(format!("{sent} ClientHellos of {} bytes, {refused} refused", hello.len()))
    });
}
