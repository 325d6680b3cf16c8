//! A broker whose clients are admitted by an authenticator of this program: `cargo run --example custom_authenticator`

use std::collections::HashMap;
use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use rumqttc::{AsyncClient, ConnectionError, Event, MqttOptions, Packet};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use weirmq::{AuthChallenge, AuthDenial, AuthGrant, AuthRequest, AuthResponse, Authenticator, Server};

/// The authentication method of clients that prove a second factor.
const METHOD: &str = "CODE";

/// Stands for a database of devices, their passwords and their codes.
struct DeviceDatabase {
    devices: HashMap<&'static str, Device>,
}

#[derive(Clone, Copy)]
struct Device {
    password: &'static [u8],
    code: &'static [u8],
}

impl DeviceDatabase {
    /// The query, which takes a while.
    async fn get(&self, name: &str) -> Option<Device> {
        tokio::time::sleep(Duration::from_millis(10)).await;
        self.devices.get(name).copied()
    }
}

impl Authenticator for DeviceDatabase {
    fn methods(&self) -> &'static [&'static str] {
        &[METHOD]
    }

    async fn authenticate(&self, request: AuthRequest) -> AuthResponse {
        let Some(name) = request.username() else { return AuthResponse::Next };
        let known = self.get(name).await.filter(|device| request.password() == Some(device.password));
        let Some(device) = known else { return AuthResponse::Deny(AuthDenial::BadCredentials) };
        let grant = AuthGrant::new().may_publish([format!("devices/{name}/#")]);
        if request.method().is_none() {
            return AuthResponse::Allow(grant);
        }
        AuthResponse::Challenge(AuthChallenge::new("your code?", async move |reply| {
            if reply == device.code {
                AuthResponse::Allow(grant)
            } else {
                AuthResponse::Deny(AuthDenial::BadCredentials)
            }
        }))
    }
}

const DOCUMENTS: [(&str, &str); 2] = [
    ("mqtt.yaml", "endpoint: {name: mqtt, port: 0, enableAcl: false}"),
    ("auth.yaml", "auth: {name: default, chain: [{custom: {name: device-db, timeoutMs: 2000, maxConcurrent: 50}}]}"),
];

/// Connects with the method, and answers the challenge with a code. Returns the challenge and the reason code of CONNACK.
/// rumqttc has no AUTH packets, so these are written here.
async fn answer(address: SocketAddr, code: &str) -> io::Result<(String, u8)> {
    let text = |text: &str| [&(text.len() as u16).to_be_bytes(), text.as_bytes()].concat();
    let packet = |first: u8, body: Vec<u8>| [vec![first, body.len() as u8], body].concat();
    let method = [vec![0x15], text(METHOD)].concat();
    let data = [vec![0x16], text(code)].concat();
    let mut socket = TcpStream::connect(address).await?;
    // MQTT 5.0, clean start, with user name and password; no keep-alive.
    let start = b"\x00\x04MQTT\x05\xc2\x00\x00".to_vec();
    let login = [text("meter-7"), text("meter-7"), text("s3cret")].concat();
    socket.write_all(&packet(0x10, [start, vec![method.len() as u8], method.clone(), login].concat())).await?;
    // Its reason code, the length of its properties, the method, and then the data.
    let challenge = receive(&mut socket).await?;
    let challenge = challenge.get(2 + method.len() + 3..).unwrap_or_default();
    let length = (method.len() + data.len()) as u8;
    socket.write_all(&packet(0xf0, [vec![0x18, length], method, data].concat())).await?;
    let connack = receive(&mut socket).await?;
    Ok((String::from_utf8_lossy(challenge).into_owned(), connack.get(1).copied().unwrap_or(0xff)))
}

/// A packet of less than 128 bytes, without its header.
async fn receive(socket: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut header = [0; 2];
    socket.read_exact(&mut header).await?;
    let mut body = vec![0; usize::from(header[1])];
    socket.read_exact(&mut body).await?;
    Ok(body)
}

/// Starts a broker, connects four clients, and returns what happened to each.
pub async fn run() -> Result<Vec<String>, Box<dyn Error>> {
    let devices = HashMap::from([("meter-7", Device { password: b"s3cret", code: b"271828" })]);
    let devices = DeviceDatabase { devices };
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
    for code in ["271828", "000000"] {
        let (challenge, reason) = answer(address, code).await?;
        let outcome = if reason == 0 { "admitted".to_owned() } else { format!("refused ({reason:#x})") };
        lines.push(format!("meter-7, asked \"{challenge}\", answers {code}: {outcome}"));
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
