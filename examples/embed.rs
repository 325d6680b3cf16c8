//! A broker inside of a program, with a client of the program and one from outside: `cargo run --example embed`

use std::error::Error;
use std::time::Duration;

use rumqttc::{AsyncClient, Event, MqttOptions, Packet};
use weirmq::Server;
use weirmq::client::QoS;

const DOCUMENTS: [(&str, &str); 1] =
    [("mqtt.yaml", "endpoint: {name: mqtt, port: 0, enableAuth: false, enableAcl: false}")];

/// Starts a broker, subscribes inside, publishes from outside over TCP, and returns what was received.
pub async fn run() -> Result<String, Box<dyn Error>> {
    let server = Server::builder().documents(DOCUMENTS).start().await?;
    let (client, mut messages) = server.client("dashboard").connect().await?;
    client.subscribe("sensor/+/temp", QoS::AtLeastOnce).await?;

    let address = server.address("mqtt").ok_or("the endpoint does not listen")?;
    let options = MqttOptions::new("sensor1", address.ip().to_string(), address.port());
    let (sensor, mut events) = AsyncClient::new(options, 1);
    sensor.publish("sensor/room1/temp", rumqttc::QoS::AtLeastOnce, false, "25.5").await?;
    while !matches!(events.poll().await?, Event::Incoming(Packet::PubAck(_))) {}

    let message = tokio::time::timeout(Duration::from_secs(10), messages.next()).await?.ok_or("disconnected")?;
    let line = format!("received {} {}", message.topic(), message.text().unwrap_or_default());
    message.ack();
    server.shutdown().await?;
    Ok(line)
}

#[allow(dead_code, reason = "a test runs the rest")]
#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    println!("{}", run().await?);
    Ok(())
}
