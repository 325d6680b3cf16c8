//! Attacks with retained messages: deep topics, and many that are set and cleared.

use super::client::{Client, publish};
use super::run::Attack;
use super::scaled;

/// Bytes of retained messages with as many levels as a topic may have.
const DEEP_BYTES: usize = 5 << 20;
const DEEP_LEVELS: usize = 128;
/// A retained message may cost so many times its bytes.
const DEEP_COST: usize = 4;
/// Buffers, and passwords that are hashed meanwhile: 19 MiB each.
const SLACK_BYTES: usize = 44 << 20;
/// Topics that are set and cleared.
const SHORT_TOPICS: usize = 1_000_000;
/// What retained messages may take of 1 GiB: a fifth of three quarters.
const RETAINED_SHARE_BYTES: usize = (1 << 30) / 100 * 75 / 100 * 20;

#[test]
#[ignore = "an attack: tests/all/attacks"]
fn deep_retained_topics() {
    let growth_max_bytes = DEEP_COST * DEEP_BYTES + SLACK_BYTES;
    Attack { growth_max_bytes, ..Attack::new("5 MB of retained 1-byte messages with 128 levels") }.run(|target| {
        let mut publisher = Client::enter(target.address("open"), "publisher")?;
        let (mut bytes, mut count) = (0, 0);
        while bytes < scaled(DEEP_BYTES) {
            let topic = format!("{count:x}{}", "/a".repeat(DEEP_LEVELS - 1));
            let message = publish(&topic, b"x", true);
            bytes += message.len();
            count += 1;
            publisher.send(&message)?;
        }
        publisher.ping()?;
        Ok(format!("{count} messages, {bytes} bytes"))
    });
}

#[test]
#[ignore = "an attack: tests/all/attacks"]
fn short_retained_topics_set_and_cleared() {
    let growth_max_bytes = RETAINED_SHARE_BYTES + SLACK_BYTES;
    Attack { growth_max_bytes, ..Attack::new("a million short retained topics set and cleared") }.run(|target| {
        let mut publisher = Client::enter(target.address("open"), "publisher")?;
        for payload in [&b"x"[..], b""] {
            let mut bytes = Vec::new();
            for n in 0..scaled(SHORT_TOPICS) {
                bytes.extend(publish(&format!("{n:x}"), payload, true));
                if bytes.len() > 60_000 {
                    publisher.send(&bytes)?;
                    bytes.clear();
                }
            }
            publisher.send(&bytes)?;
            publisher.ping()?;
        }
        Ok(String::new())
    });
}
