//! A broker whose messages this program checks and changes: `cargo run --example interceptor`

use std::error::Error;

use weirmq::client::{ClientError, QoS};
use weirmq::{DenyReason, Hook, InterceptedPublish, Interceptor, Server, Subject, Verdict};

/// Moves the devices' messages below `plant/1/`, adds the sender to them, and rejects commands of devices.
struct Plant;

impl Interceptor for Plant {
    fn hooks(&self) -> &'static [Hook] {
        &[Hook::Publish, Hook::Subscribe]
    }

    fn on_publish(&self, client: Subject<'_>, publish: &mut InterceptedPublish<'_>) -> Verdict {
        if publish.topic().ends_with("/command") {
            return Verdict::Deny(DenyReason::NotAuthorized);
        }
        if let Some(rest) = publish.topic().strip_prefix("devices/") {
            let topic = format!("plant/1/{rest}");
            publish.set_topic(topic);
            publish.push_user_property("sender", client.client_id);
        }
        Verdict::Allow
    }

    fn on_subscribe(&self, _client: Subject<'_>, filter: &str, _qos: QoS) -> Verdict {
        if filter == "#" { Verdict::Deny(DenyReason::TopicInvalid) } else { Verdict::Allow }
    }
}

const ENDPOINT: &str = "endpoint: {name: mqtt, port: 0, enableAuth: false, enableAcl: false, interceptors: [plant]}";

/// Starts a broker, and returns what happened to the messages of a device.
pub async fn run() -> Result<Vec<String>, Box<dyn Error>> {
    let server = Server::builder().interceptor("plant", Plant).documents([("mqtt.yaml", ENDPOINT)]).start().await?;
    let (dashboard, mut messages) = server.client("dashboard").connect().await?;
    let (device, _) = server.client("meter-7").connect().await?;
    let mut lines = Vec::new();
    if let Err(ClientError::Rejected(reason)) = dashboard.subscribe("#", QoS::AtMostOnce).await {
        lines.push(format!("a subscription to # is rejected: {reason}"));
    }
    dashboard.subscribe("plant/#", QoS::AtMostOnce).await?;
    device.publish("devices/meter-7/kwh", "25.5", QoS::AtLeastOnce).await?;
    let message = messages.next().await.ok_or("the connection ended")?;
    let sender = message.properties().and_then(|properties| properties.user_properties.first().cloned());
    lines.push(format!("devices/meter-7/kwh arrives as {} from {:?}", message.topic(), sender.map(|pair| pair.1)));
    if let Err(ClientError::Rejected(reason)) = device.publish("devices/meter-8/command", "off", QoS::AtLeastOnce).await
    {
        lines.push(format!("a command is rejected: {reason}"));
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
