//! The flags of every client verb, and the connection that they describe. Letters are those of mosquitto's clients.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::ValueEnum;
use clap::builder::PossibleValue;
use rustls::ClientConfig;
use weir_mqtt::{PacketId, ProtocolVersion, QoS, validate_topic_name};

use super::address::{BrokerUrl, Transport};
use super::tls::TlsArgs;
use super::transport;
use crate::client::{ClientError, ConnectOptions, Connection, Will};
use crate::random;

/// The broker that is connected to without a flag.
const DEFAULT_URL: &str = "mqtt://127.0.0.1:1883";
const URL_VARIABLE: &str = "WEIR_URL";

/// Where the broker is, and how this client connects.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Connection")]
pub(in crate::cli) struct ClientArgs {
    /// The broker: mqtt://USER:PASSWORD@HOST:PORT, mqtts://, ws://HOST:PORT/PATH, wss:// or unix:PATH [env: WEIR_URL]
    /// [default: mqtt://127.0.0.1:1883]
    #[arg(long, short = 'L', value_name = "URL", conflicts_with_all = ["host", "port", "unix"])]
    url: Option<String>,
    /// The broker's host, instead of --url
    #[arg(long, short = 'h', value_name = "HOST")]
    host: Option<String>,
    /// Its port [default: 1883, with TLS 8883]
    #[arg(long, short, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    port: Option<u16>,
    /// Its Unix socket
    #[arg(long, value_name = "PATH", conflicts_with_all = ["host", "port"])]
    unix: Option<PathBuf>,
    /// User name
    #[arg(long, short, value_name = "NAME")]
    username: Option<String>,
    /// Password, or better where it is: file:PATH (its first line) or env:NAME, as other users see command lines
    #[arg(long = "pw", short = 'P', alias = "password", value_name = "PASSWORD|file:PATH|env:NAME")]
    password: Option<String>,
    #[command(flatten)]
    tls: TlsArgs,
    /// MQTT version
    #[arg(long, short = 'V', value_name = "VERSION", value_enum, default_value_t = MqttVersion::V5)]
    protocol_version: MqttVersion,
    /// Client id [default: a random one]
    #[arg(long = "id", short = 'i', value_name = "ID")]
    client_id: Option<String>,
    /// Keep alive, seconds; 0: none
    #[arg(long, short, value_name = "S", default_value_t = 60)]
    keepalive: u16,
    /// Resume the session of this client id, and keep it after the connection
    #[arg(long = "disable-clean-session", short = 'c', requires = "client_id")]
    resume: bool,
    /// MQTT 5.0: seconds that the session is kept after the connection [default: 0, with -c for ever]
    #[arg(long = "session-expiry-interval", short = 'x', value_name = "S")]
    session_expiry: Option<u32>,
    /// Topic of the will, which the broker publishes when this client is lost
    #[arg(long, value_name = "TOPIC", help_heading = "Will")]
    will_topic: Option<String>,
    /// Payload of the will
    #[arg(
        long,
        value_name = "TEXT",
        requires = "will_topic",
        help_heading = "Will",
        default_value = "",
        hide_default_value = true
    )]
    will_payload: String,
    /// QoS of the will
    #[arg(long, value_name = "QOS", requires = "will_topic", help_heading = "Will", default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=2))]
    will_qos: u8,
    /// The will is retained
    #[arg(long, requires = "will_topic", help_heading = "Will")]
    will_retain: bool,
    /// MQTT 5.0: seconds between the loss of this client and the will
    #[arg(long, value_name = "S", requires = "will_topic", help_heading = "Will")]
    will_delay: Option<u32>,
    /// Seconds for name resolution, connect, TLS, WebSocket and CONNACK together
    #[arg(long, value_name = "S", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3600))]
    connect_timeout: u64,
}

/// MQTT's versions, as the flag names them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cli) enum MqttVersion {
    V3_1,
    V3_1_1,
    V5,
}

impl ValueEnum for MqttVersion {
    fn value_variants<'a>() -> &'a [Self] {
        &[Self::V3_1, Self::V3_1_1, Self::V5]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(match self {
            Self::V3_1 => PossibleValue::new("3.1").aliases(["31", "mqttv31"]),
            Self::V3_1_1 => PossibleValue::new("3.1.1").aliases(["311", "mqttv311"]),
            Self::V5 => PossibleValue::new("5").aliases(["5.0", "mqttv5"]),
        })
    }
}

/// A broker, and everything that a CONNECT to it needs.
#[derive(Debug, Clone)]
pub(in crate::cli) struct Target {
    transport: Transport,
    tls: Option<Arc<ClientConfig>>,
    pub(in crate::cli) connect: ConnectOptions,
    connect_timeout: Duration,
}

impl Target {
    /// The same with another client id.
    pub(in crate::cli) fn with_client_id(&self, client_id: String) -> Self {
        Self { connect: ConnectOptions { client_id, ..self.connect.clone() }, ..self.clone() }
    }

    /// Connects; see [`Connection::open`].
    ///
    /// # Errors
    /// See [`ClientError`].
    pub(in crate::cli) async fn open(&self, unreleased: HashSet<PacketId>) -> Result<Connection, ClientError> {
        let connected = async {
            let stream = transport::open(&self.transport, self.tls.as_ref()).await?;
            Connection::open(stream, &self.connect, unreleased).await
        };
        let connected = tokio::time::timeout(self.connect_timeout, connected).await;
        connected.unwrap_or(Err(ClientError::ConnectTimeout(self.connect_timeout.as_secs())))
    }
}

/// Without credentials: for messages.
impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.transport.fmt(f)
    }
}

impl ClientArgs {
    /// Whether the version has properties.
    pub(in crate::cli) fn is_v5(&self) -> bool {
        self.protocol_version == MqttVersion::V5
    }

    /// # Errors
    /// Flags that contradict one another, a wrong URL, a file or variable that cannot be read.
    /// The same client, of the broker at a URL.
    pub(in crate::cli) fn at(self, url: &str) -> Self {
        Self { url: Some(url.to_owned()), host: None, port: None, unix: None, ..self }
    }

    pub(in crate::cli) fn target(&self) -> anyhow::Result<Target> {
        let url = self.broker()?;
        let tls = match &url.transport {
            Transport::Network { tls: true, .. } => Some(self.tls.config()?),
            _ => None,
        };
        let version = match self.protocol_version {
            MqttVersion::V3_1 => ProtocolVersion::V3_1,
            MqttVersion::V3_1_1 => ProtocolVersion::V3_1_1,
            MqttVersion::V5 => ProtocolVersion::V5,
        };
        for (given, flag) in
            [(self.session_expiry.is_some(), "--session-expiry-interval"), (self.will_delay.is_some(), "--will-delay")]
        {
            if given && !self.is_v5() {
                bail!("{flag} needs MQTT 5.0: -V 5");
            }
        }
        let password = self.password.as_deref().map(password).transpose()?.or(url.password);
        let username = self.username.clone().or(url.user);
        if version != ProtocolVersion::V5 && password.is_some() && username.is_none() {
            bail!("a password without a user name needs MQTT 5.0 [MQTT-3.1.2-22]; -u names the user");
        }
        let client_id = match &self.client_id {
            Some(id) => id.clone(),
            None => format!("weir-{:016x}", random::number()?),
        };
        let connect = ConnectOptions {
            version,
            client_id,
            username,
            password: password.map(String::into_bytes),
            keep_alive_s: self.keepalive,
            clean_start: !self.resume,
            session_expiry_s: self.session_expiry.or((self.resume && self.is_v5()).then_some(u32::MAX)),
            receive_maximum: None,
            will: self.will()?,
        };
        Ok(Target {
            transport: url.transport,
            tls,
            connect,
            connect_timeout: Duration::from_secs(self.connect_timeout),
        })
    }

    fn broker(&self) -> anyhow::Result<BrokerUrl> {
        if let Some(path) = &self.unix {
            return Ok(BrokerUrl { transport: Transport::Unix(path.clone()), user: None, password: None });
        }
        if self.host.is_some() || self.port.is_some() {
            let tls = self.tls.cafile.is_some() || self.port == Some(8883);
            return Ok(BrokerUrl::tcp(self.host.as_deref().unwrap_or("127.0.0.1"), self.port, tls));
        }
        let (flag, text) = match (&self.url, std::env::var(URL_VARIABLE)) {
            (Some(url), _) => ("--url", url.clone()),
            (None, Ok(url)) if !url.is_empty() => (URL_VARIABLE, url),
            _ => ("--url", DEFAULT_URL.to_owned()),
        };
        BrokerUrl::parse(&text).map_err(|problem| anyhow::anyhow!("{flag}: {problem}"))
    }

    fn will(&self) -> anyhow::Result<Option<Will>> {
        let Some(topic) = &self.will_topic else { return Ok(None) };
        validate_topic_name(topic).map_err(|problem| anyhow::anyhow!("--will-topic {topic:?} {problem}"))?;
        Ok(Some(Will {
            topic: topic.clone(),
            payload: self.will_payload.clone(),
            qos: qos(self.will_qos),
            retain: self.will_retain,
            delay_s: self.will_delay.unwrap_or(0),
        }))
    }
}

/// The QoS of a flag, which is in range.
pub(in crate::cli) fn qos(number: u8) -> QoS {
    QoS::from_bits(number).unwrap_or(QoS::ExactlyOnce)
}

/// The password that a flag gives or refers to.
fn password(text: &str) -> anyhow::Result<String> {
    match text.split_once(':') {
        Some(("file", path)) if !path.is_empty() => {
            let content = std::fs::read_to_string(path).with_context(|| format!("--pw file:{path}"))?;
            Ok(content.lines().next().unwrap_or_default().to_owned())
        }
        Some(("env", name)) if !name.is_empty() => std::env::var(name).with_context(|| format!("--pw env:{name}")),
        _ => Ok(text.to_owned()),
    }
}
