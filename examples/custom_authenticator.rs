//! A broker whose clients are admitted by an authenticator of this program: `cargo run --example custom_authenticator`

use std::collections::HashMap;
use std::error::Error;
use std::time::Duration;

use rumqttc::{AsyncClient, ConnectionError, Event, MqttOptions, Packet};
use weirmq::{AuthDenial, AuthGrant, AuthRequest, AuthResponse, Authenticator, Server};

/// Stands for a database of devices and their passwords.
struct DeviceDatabase {
    passwords: HashMap<&'static str, &'static [u8]>,
}

impl DeviceDatabase {
    /// The query, which takes a while.
    async fn password_of(&self, device: &str) -> Option<&'static [u8]> {
        tokio::time::sleep(Duration::from_millis(10)).await;
        self.passwords.get(device).copied()
    }
}

impl Authenticator for DeviceDatabase {
    async fn authenticate(&self, request: AuthRequest) -> AuthResponse {
        let Some(device) = request.username() else { return AuthResponse::Next };
        match self.password_of(device).await {
            Some(known) if request.password() == Some(known) => {
                AuthResponse::Allow(AuthGrant::new().may_publish([format!("devices/{device}/#")]))
            }
            _ => AuthResponse::Deny(AuthDenial::BadCredentials),
        }
    }
}

const DOCUMENTS: [(&str, &str); 2] = [
    ("mqtt.yaml", "endpoint: {name: mqtt, port: 0, enableAcl: false}"),
    ("auth.yaml", "auth: {name: default, chain: [{custom: {name: device-db, timeoutMs: 2000, maxConcurrent: 50}}]}"),
];

/// Starts a broker, connects two clients, and returns what happened to each.
pub async fn run() -> Result<Vec<String>, Box<dyn Error>> {
    let devices = DeviceDatabase { passwords: HashMap::from([("meter-7", &b"s3cret"[..])]) };
    let server = Server::builder().authenticator("device-db", devices).documents(DOCUMENTS).start().await?;
    let address = server.address("mqtt").ok_or("the endpoint does not listen")?;
    let mut lines = Vec::new();
    for password in ["s3cret", "guessed"] {
        let mut options = MqttOptions::new("meter-7", address.ip().to_string(), address.port());
        options.set_credentials("meter-7", password);
        let (_client, mut events) = AsyncClient::new(options, 1);
        lines.push(match events.poll().await {
            Ok(Event::Incoming(Packet::ConnAck(_))) => format!("meter-7 with the password {password}: admitted"),
            Err(ConnectionError::ConnectionRefused(code)) => {
                format!("meter-7 with the password {password}: refused ({code:?})")
            }
            other => return Err(format!("unexpected: {other:?}").into()),
        });
    }
    server.shutdown().await?;
    Ok(lines)
}

#[allow(dead_code, reason = "a test runs the rest")]
#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    for line in run().await? {
        println!("{line}");
    }
    Ok(())
}
