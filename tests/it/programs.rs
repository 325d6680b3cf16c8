//! Real clients against the built broker: mosquitto's, paho-mqtt, MQTT.js and rumqttc, on one shard and on two.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::process::Broker;
use crate::support::GUARD;

/// Where `tests/run` puts what it installs.
pub fn tools() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target/test-tools")
}

/// Whether a program is there. Where it is not, the test fails, unless nothing may be installed.
pub fn is_there(program: &Path) -> bool {
    let found = program.is_absolute() && program.exists()
        || std::env::var_os("PATH").is_some_and(|path| std::env::split_paths(&path).any(|d| d.join(program).exists()));
    if !found {
        let offline = std::env::var_os("WEIR_TEST_OFFLINE").is_some();
        assert!(offline, "{} is missing: tests/run installs it", program.display());
        eprintln!("SKIPPED: {} is missing, and WEIR_TEST_OFFLINE is set", program.display());
    }
    found
}

/// Runs a program to its end; a program that does not end is killed.
pub fn run(command: &mut Command) -> Output {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let deadline = Instant::now() + GUARD;
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > deadline {
            child.kill().unwrap();
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    child.wait_with_output().unwrap()
}

pub fn succeeds(command: &mut Command) -> String {
    let output = run(command);
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {}\n{out}\n{err}", output.status);
    out.into_owned()
}

#[test]
fn mosquitto_clients() {
    let (publish, subscribe) = (Path::new("mosquitto_pub"), Path::new("mosquitto_sub"));
    if !is_there(publish) || !is_there(subscribe) {
        return;
    }
    for shards in [1, 2] {
        let broker = Broker::start(shards);
        let port = broker.address("default").port().to_string();
        for version in ["mqttv31", "mqttv311", "mqttv5"] {
            for qos in ["0", "1", "2"] {
                let common = ["-V", version, "-h", "127.0.0.1", "-p", &port, "-q", qos];
                let marker = format!("{version}/{qos}/ready");
                let filter = format!("{version}/{qos}/+/temp");
                let mut subscriber = Command::new(subscribe);
                subscriber.args(common).args(["-W", "30", "-v", "-C", "3", "-t", &filter]);
                let mut subscriber = subscriber.stdout(Stdio::piped()).spawn().unwrap();
                // Retained: the subscriber gets the first whenever it comes, and is subscribed when it has it.
                let topic = format!("{version}/{qos}/room1/temp");
                succeeds(Command::new(publish).args(common).args(["-t", &topic, "-m", "25.5", "-r"]));
                succeeds(Command::new(publish).args(common).args(["-t", &marker, "-m", "x"]));
                std::thread::sleep(Duration::from_millis(300));
                let topic = format!("{version}/{qos}/room2/temp");
                for payload in ["26", "27"] {
                    succeeds(Command::new(publish).args(common).args(["-t", &topic, "-m", payload]));
                }
                let deadline = Instant::now() + GUARD;
                while subscriber.try_wait().unwrap().is_none() && Instant::now() < deadline {
                    std::thread::sleep(Duration::from_millis(5));
                }
                let _ = subscriber.kill();
                let output = subscriber.wait_with_output().unwrap();
                let prefix = format!("{version}/{qos}");
                let expected = format!("{prefix}/room1/temp 25.5\n{prefix}/room2/temp 26\n{prefix}/room2/temp 27\n");
                assert_eq!(String::from_utf8_lossy(&output.stdout), expected, "{shards} shards");
            }
        }
    }
}

#[test]
fn paho() {
    let python = tools().join("venv/bin/python");
    if !is_there(&python) {
        return;
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/paho_client.py");
    for shards in [1, 2] {
        let broker = Broker::start(shards);
        for (transport, endpoint) in [("tcp", "default"), ("websockets", "websocket")] {
            let port = broker.address(endpoint).port().to_string();
            for version in ["3", "4", "5"] {
                succeeds(Command::new(&python).arg(&script).args([transport, &port, version]));
            }
        }
    }
}

#[test]
fn mqtt_js() {
    let root = tools().join("node");
    if !is_there(Path::new("node")) || !is_there(&root.join("node_modules/mqtt")) {
        return;
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/mqttjs_client.mjs");
    for shards in [1, 2] {
        let broker = Broker::start(shards);
        let tcp = format!("mqtt://{}", broker.address("default"));
        let websocket = format!("ws://{}/mqtt", broker.address("websocket"));
        for url in [tcp, websocket] {
            for version in ["3", "4", "5"] {
                succeeds(Command::new("node").env("MQTTJS_ROOT", &root).arg(&script).args([&url, version]));
            }
        }
    }
}

mod rumqttc_client {
    use std::time::Duration;

    use crate::process::Broker;

    const MESSAGES: usize = 30;

    /// The clients of the two versions are called alike, and have no trait in common.
    macro_rules! every_message_comes_once_and_in_order {
        ($test:ident: $($client:item)+) => {
            #[test]
            fn $test() {
                $($client)+
                for shards in [1, 2] {
                    let broker = Broker::start(shards);
                    let address = broker.address("default");
                    let mut options = MqttOptions::new("rumqttc", address.ip().to_string(), address.port());
                    options.set_keep_alive(Duration::from_secs(30));
                    let (client, mut events) = Client::new(options, 100);
                    client.subscribe("rust/#", QoS::ExactlyOnce).unwrap();
                    let (mut got, mut is_subscribed) = (Vec::new(), false);
                    while got.len() < MESSAGES {
                        match events.recv_timeout(Duration::from_secs(30)).unwrap().unwrap() {
                            Event::Incoming(Packet::SubAck(_)) if !is_subscribed => {
                                is_subscribed = true;
                                for n in 0..MESSAGES {
                                    let qos = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce][n % 3];
                                    client.publish(format!("rust/{}", n % 3), qos, false, n.to_string()).unwrap();
                                }
                            }
                            Event::Incoming(Packet::Publish(publish)) => got.push((publish.topic, publish.payload)),
                            _ => {}
                        }
                    }
                    assert_in_order(got.iter().map(|(topic, payload)| (topic.as_ref(), payload.as_ref())));
                }
            }
        };
    }

    every_message_comes_once_and_in_order! {
        rumqttc_3_1_1: use rumqttc::{Client, Event, MqttOptions, Packet, QoS};
    }

    every_message_comes_once_and_in_order! {
        rumqttc_5:
        use rumqttc::v5::{Client, Event, MqttOptions};
        use rumqttc::v5::mqttbytes::{QoS, v5::Packet};
    }

    /// Every message once, those of a topic in order.
    fn assert_in_order<'a>(got: impl Iterator<Item = (&'a [u8], &'a [u8])>) {
        let mut next = [0, 1, 2];
        for (topic, payload) in got {
            let place = usize::from(topic[topic.len() - 1] - b'0');
            let n: usize = std::str::from_utf8(payload).unwrap().parse().unwrap();
            assert_eq!(n, next[place]);
            next[place] += 3;
        }
        assert_eq!(next, [MESSAGES, MESSAGES + 1, MESSAGES + 2]);
    }
}
