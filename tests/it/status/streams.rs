//! Server-sent events.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use weirmq::status::StatusOptions;

use super::client::get;
use super::fake;

/// A reader of one stream.
struct Reader {
    stream: TcpStream,
    read: String,
}

impl Reader {
    async fn open(addr: SocketAddr, target: &str) -> Self {
        let mut stream = TcpStream::connect(addr).await.unwrap();
        stream.write_all(format!("GET {target} HTTP/1.1\r\nHost: {addr}\r\n\r\n").as_bytes()).await.unwrap();
        Self { stream, read: String::new() }
    }

    /// Reads on until `found` finds something in what is not consumed; `None` at the end of the stream.
    async fn until<T>(&mut self, found: impl Fn(&str) -> Option<(usize, T)>) -> Option<T> {
        loop {
            if let Some((consumed, value)) = found(&self.read) {
                self.read.drain(..consumed);
                return Some(value);
            }
            let mut buffer = [0; 4096];
            let read = tokio::time::timeout(Duration::from_secs(30), self.stream.read(&mut buffer));
            match read.await.expect("something in time") {
                Ok(0) | Err(_) => return None,
                Ok(count) => self.read.push_str(std::str::from_utf8(&buffer[..count]).unwrap()),
            }
        }
    }

    /// The data of the next event of this kind.
    async fn next(&mut self, kind: &str) -> Option<Value> {
        let start = format!("event: {kind}\n");
        self.until(|text| {
            let event = text.find(&start)?;
            let end = event + text[event..].find("\n\n")? + 2;
            let data = text[event..end].lines().find_map(|line| line.strip_prefix("data: "))?;
            Some((end, serde_json::from_str(data).unwrap()))
        })
        .await
    }
}

#[tokio::test]
async fn a_change_and_traffic_are_streamed() {
    let fake = fake::Fake::new();
    let server = fake::serve(&fake);
    let mut reader = Reader::open(server.local_addr(), "/api/events").await;
    let first = reader.next("state").await.unwrap();
    assert_eq!((&first["version"], &first["appliedRevision"]), (&json!(7), &json!("0badc0ffee00")));
    fake.change(|state| state.source.applied_revision = Some("f00".to_owned()));
    assert_eq!(reader.next("state").await.unwrap()["appliedRevision"], json!("f00"));
    loop {
        // The fake's clock stands until it is moved.
        fake.tick(2000, 100);
        let points = reader.next("traffic").await.unwrap();
        if let Some(point) = points.as_array().unwrap().last() {
            assert!(point["endpoints"]["mqtt"]["messagesReceivedPerS"].as_f64().unwrap() > 0.0, "{point}");
            break;
        }
    }
}

#[tokio::test]
async fn streams_are_limited_and_closed_ones_make_room() {
    let options = StatusOptions { max_streams: 1, ..StatusOptions::default() };
    let server = fake::serve_with(&fake::Fake::new(), options);
    let mut reader = Reader::open(server.local_addr(), "/api/events").await;
    reader.next("state").await.unwrap();
    let refused = get(server.local_addr(), "/api/events").await;
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("5")));
    drop(reader);
    loop {
        let mut again = Reader::open(server.local_addr(), "/api/events").await;
        if again.until(|text| text.find("\r\n").map(|at| (0, text[..at].contains("200")))).await.unwrap() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn shutdown_ends_streams() {
    let server = fake::serve(&fake::Fake::new());
    let mut reader = Reader::open(server.local_addr(), "/api/events").await;
    reader.next("state").await.unwrap();
    tokio::time::timeout(Duration::from_secs(20), server.shutdown()).await.expect("it stops");
    assert!(reader.next("never").await.is_none());
}

#[tokio::test]
async fn a_trace_ends_at_its_limit_of_packets() {
    let server = fake::serve(&fake::Fake::new());
    let mut reader = Reader::open(server.local_addr(), "/api/clients/trace?clientId=sensor-7&limit=2").await;
    assert!(reader.next("connected").await.unwrap()["at"].is_string());
    assert_eq!(reader.next("packet").await.unwrap()["topic"], json!("sensor-7"));
    reader.next("packet").await.unwrap();
    let end = reader.next("end").await.unwrap();
    assert_eq!(end, json!({"why": "the limit of packets is reached", "packets": 2}));
}

#[tokio::test]
async fn traces_are_limited_and_their_parameters_are_checked() {
    let server = fake::serve(&fake::Fake::new());
    for (query, message) in [
        ("", "clientId is missing: ?clientId=sensor-7"),
        ("?clientId=a&payloads=yes", "payloads \"yes\" is neither true nor false"),
        ("?clientId=a&limit=0", "limit \"0\" is not a number from 1 to 100000"),
    ] {
        let answer = get(server.local_addr(), &format!("/api/clients/trace{query}")).await;
        assert_eq!((answer.status, answer.json()["message"].as_str()), (400, Some(message)));
    }
    let mut readers = Vec::new();
    for _ in 0..8 {
        let mut reader = Reader::open(server.local_addr(), "/api/clients/trace?clientId=a").await;
        reader.next("connected").await.unwrap();
        readers.push(reader);
    }
    assert_eq!(get(server.local_addr(), "/api/clients/trace?clientId=a").await.status, 503);
}
