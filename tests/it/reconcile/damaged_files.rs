//! Files damaged by a crash, a full disk or a bad disk: the broker starts and keeps what can be read.

use std::fs;

use serde_json::Value;

use super::broker::{Broker, client, endpoint};
use crate::support::ports;

const TEXT: &str = "Küche/温度";

/// The lengths of `whole` that end inside a character of the last [`TEXT`] in it.
fn cuts(whole: &[u8]) -> Vec<usize> {
    let text = TEXT.as_bytes();
    let at = whole.windows(text.len()).rposition(|window| window == text).unwrap();
    (0..text.len()).filter(|cut| !TEXT.is_char_boundary(*cut)).map(|cut| at + cut).collect()
}

/// How a file is found after a crash.
fn damages(whole: &[u8]) -> Vec<(String, Vec<u8>)> {
    let cut = cuts(whole).into_iter().map(|length| (format!("cut at {length}"), whole[..length].to_vec()));
    let mut no_utf8 = whole.to_vec();
    no_utf8[whole.len() / 2] = 0xff;
    let others =
        [("no UTF-8", no_utf8), ("empty", Vec::new()), ("zeros", vec![0; whole.len()]), ("garbage", vec![0xfe; 3000])];
    cut.chain(others.map(|(name, bytes)| (name.to_owned(), bytes))).collect()
}

/// The whole lines of a history file, which alone can come back.
fn readable(bytes: &[u8]) -> Vec<Value> {
    bytes.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect()
}

#[test]
fn a_damaged_file_does_not_stop_the_start_and_the_rest_of_the_history_is_kept() {
    let (open, closed) = (ports::free(), ports::free());
    let describe = |text: &str| endpoint("open", open, &format!(", description: {text}"));
    let secret = format!(
        "endpoint: {{name: closed, host: 127.0.0.1, port: {closed}, auth: people, enableAcl: false}}\n---\n\
         auth: {{name: people, chain: [{{passwordFile: {{file: passwords}}}}]}}\n"
    );
    let users =
        format!("{TEXT}:$argon2id$v=19$m=256,t=2,p=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4\n");
    let mut broker = Broker::start(&[("open.yaml", &describe("one")), ("closed.yaml", &secret), ("passwords", &users)]);
    broker.until_listening("closed");
    broker.apply("open.yaml", &describe("two"));
    broker.apply("open.yaml", &describe(&format!("{TEXT} in the kitchen")));
    let data = broker.endpoints().join("../data");
    let (history, known) = (data.join("history.jsonl"), data.join("last-known-good.json"));
    broker.until("it is saved", || fs::read_to_string(&known).is_ok_and(|text| text.contains(TEXT)));
    for file in [history.clone(), known, broker.endpoints().join("passwords")] {
        let whole = fs::read(&file).unwrap();
        for (damage, bytes) in damages(&whole) {
            let what = format!("{} {damage}", file.display());
            fs::write(&file, &bytes).unwrap();
            let before = readable(&fs::read(&history).unwrap());
            broker.restart(&[]);
            broker.until_listening("open");
            client(open, "c").ping();
            let after = broker.get("/api/endpoints/history?limit=500");
            for entry in before {
                assert!(after["entries"].as_array().unwrap().contains(&entry), "{what}: {entry} is not in {after}");
            }
        }
        fs::write(&file, &whole).unwrap();
    }
    assert!(broker.log().contains("history lines skipped"), "{}", broker.log());
    assert!(broker.log().contains("last known good ignored: the file is damaged"), "{}", broker.log());
}
