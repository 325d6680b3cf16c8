//! MQTT clients: inside of the process that runs the broker, and over any byte stream.
//!
//! [`ServerHandle::client`](crate::ServerHandle::client) connects a [`Client`].
//!
//! `in_process`: what a program uses; `driver`: its task; `message`: messages; `connection`, `packets`: MQTT over one byte stream, for the
//! verbs `pub`, `sub` and `bench`, too; `error`: why it ends; `properties`: what a PUBLISH carries besides its payload.
//! Must never print, and never log.

mod connection;
mod driver;
mod error;
mod in_process;
mod message;
mod packets;
mod properties;

pub(crate) use connection::{ByteStream, Connection, Event};
pub use error::ClientError;
pub use in_process::{Client, ClientBuilder, Messages};
pub use message::{Message, Publish};
pub(crate) use packets::{ConnectOptions, Message as ReceivedMessage, Outgoing, Will};
pub use properties::MessageProperties;
pub(crate) use properties::PublishExtras;
pub use weir_mqtt::{QoS, RetainHandling, SubscriptionOptions};
