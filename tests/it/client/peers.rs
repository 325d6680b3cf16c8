//! `weir pub` and `weir sub` with mosquitto: its broker, and its clients.

use std::path::Path;
use std::process::Command;

use super::{Dev, Sub, good};
use crate::bridge::peers::{Mosquitto, mosquitto};
use crate::programs::{is_there, succeeds};

#[test]
fn mosquittos_broker_serves_them() {
    let Some(program) = mosquitto() else { return };
    let broker = Mosquitto::start(&program, "");
    let url = format!("mqtt://127.0.0.1:{}", broker.port);
    for version in ["3.1", "3.1.1", "5"] {
        for qos in 0..3 {
            let mut sub = Sub::start(&url, &format!("-V {version} -q {qos} -t m/{version}/{qos}/# -F %t=%p:%q"));
            let topic = format!("m/{version}/{qos}/x");
            good(&format!("pub --url {url} -V {version} -q {qos} -t {topic} -m hello"));
            assert_eq!(sub.line(), format!("{topic}=hello:{qos}"));
        }
    }
    good(&format!("pub --url {url} -t p -m x -r -q 1 --user-property a=b --content-type text/plain"));
    assert_eq!(good(&format!("sub --url {url} -t p -C 1 -F %C,%P")), "text/plain,a:b\n");
    let report = good(&format!("bench pairs --url {url} --clients 3 --count 300 -q 1 --json"));
    assert_eq!(serde_json::from_str::<serde_json::Value>(&report).unwrap()["received"], 300, "{report}");
}

#[test]
fn mosquittos_clients_understand_them() {
    if !is_there(Path::new("mosquitto_pub")) || !is_there(Path::new("mosquitto_sub")) {
        return;
    }
    let dev = Dev::start();
    let port = dev.url.rsplit_once(':').unwrap().1;
    for (ours, theirs) in [("3.1.1", "mqttv311"), ("5", "mqttv5")] {
        for qos in ["0", "1", "2"] {
            let topic = format!("peer/{ours}/{qos}");
            let mut sub = Sub::start(&dev.url, &format!("-V {ours} -q {qos} -t {topic} -F %t=%p"));
            let common = ["-h", "127.0.0.1", "-p", port, "-V", theirs, "-q", qos, "-t", &topic];
            succeeds(Command::new("mosquitto_pub").args(common).args(["-m", "theirs"]));
            assert_eq!(sub.line(), format!("{topic}=theirs"));
            good(&format!("pub --url {} -V {ours} -q {qos} -t {topic} -r -m ours", dev.url));
            let seen = succeeds(Command::new("mosquitto_sub").args(common).args(["-v", "-C", "1", "-W", "100"]));
            assert_eq!(seen, format!("{topic} ours\n"));
        }
    }
}
