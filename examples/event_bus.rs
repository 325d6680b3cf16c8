//! Publish and subscribe inside of a program, and follow the broker's events: as a stream, and as messages below `$events/`.
//!
//! `cargo run --example event_bus`. Where `mosquitto_sub` is installed, it reads the events, too.

use std::error::Error;
use std::process::Stdio;
use std::time::Duration;

use weirmq::Server;
use weirmq::client::QoS;
use weirmq::events::{Event, EventFilter};

const DOCUMENTS: &str = "
endpoint: {name: mqtt, port: 0, enableAuth: false}
---
acl:
  name: default
  rules:
    - {permission: allow, username: monitor, action: subscribe, topics: ['$events/#']}
    - {permission: allow, topics: ['sensor/#']}
---
events: {topics: ['client/#']}
";

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    for line in run().await? {
        println!("{line}");
    }
    Ok(())
}

/// Returns what happened, a line each.
pub async fn run() -> Result<Vec<String>, Box<dyn Error>> {
    let mut lines = Vec::new();
    let server = Server::builder().documents([("mqtt.yaml", DOCUMENTS)]).start().await?;
    let address = server.address("mqtt").ok_or("the endpoint does not listen")?;

    // Typed events, and the same as messages: for a client in this process, and for any other that the access list permits.
    let mut events = server.events(EventFilter::topics(["client/connected", "client/disconnected"])?);
    let (monitor, mut messages) = server.client("monitor").username("monitor").connect().await?;
    monitor.subscribe("$events/client/connected", QoS::AtMostOnce).await?;
    let port = address.port().to_string();
    let mut subscriptions = server.events(EventFilter::topics(["session/subscribed"])?);
    let arguments = ["-h", "127.0.0.1", "-p", &port, "-u", "monitor", "-C", "1", "-W", "20"];
    let mosquitto = tokio::process::Command::new("mosquitto_sub")
        .args(arguments)
        .args(["-t", "$events/client/disconnected"])
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .ok();
    if mosquitto.is_some() {
        // It has subscribed before the client below disconnects.
        tokio::time::timeout(Duration::from_secs(20), subscriptions.next()).await?;
    }

    // Both directions of the bus.
    let (billing, mut readings) = server.client("billing").connect().await?;
    billing.subscribe("sensor/+/temp", QoS::AtLeastOnce).await?;
    let (sensor, _none) = server.client("sensor-1").connect().await?;
    sensor.publish("sensor/room1/temp", "25.5", QoS::AtLeastOnce).await?;
    if let Some(message) = readings.next().await {
        lines.push(format!("received {} {}", message.topic(), message.text().unwrap_or_default()));
        message.ack();
    }
    sensor.disconnect().await;

    while let Some(event) = events.next().await {
        match event {
            Event::ClientConnected { client, .. } if client.client_id == "sensor-1" => {
                lines.push("sensor-1 connected".into())
            }
            Event::ClientDisconnected { client, reason: Some(reason), .. } if client.client_id == "sensor-1" => {
                lines.push(format!("sensor-1 disconnected: {}", reason.name));
                break;
            }
            _ => {}
        }
    }
    while let Some(message) = messages.next().await {
        let json = message.text().unwrap_or_default().to_owned();
        if json.contains("sensor-1") {
            lines.push(format!("{} {json}", message.topic()));
            break;
        }
    }
    if let Some(mosquitto) = mosquitto {
        let output = mosquitto.wait_with_output().await?;
        lines.push(format!("mosquitto_sub: {}", String::from_utf8_lossy(&output.stdout).trim()));
    }
    server.shutdown().await?;
    Ok(lines)
}
