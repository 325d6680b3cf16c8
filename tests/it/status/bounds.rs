//! Bounds of the status server against callers that mean harm: foreign names, idle connections, slow heads, endless bodies.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use weirmq::status::{AccessOptions, StatusOptions};

use super::client::{Answered, exchange, get};
use super::{fake, fake_data};

fn hosts(names: &[&str]) -> StatusOptions {
    let hosts = names.iter().map(|name| (*name).to_owned()).collect();
    StatusOptions { access: AccessOptions { hosts, ..AccessOptions::default() }, ..StatusOptions::default() }
}

/// The value of a counter in `/metrics`.
async fn refused(addr: std::net::SocketAddr, reason: &str) -> u64 {
    let metrics = get(addr, "/metrics").await;
    let name = format!("weir_status_refused_total{{reason=\"{reason}\"}} ");
    let line = metrics.text().lines().find_map(|line| line.strip_prefix(&name)).expect("the counter").to_owned();
    line.parse().unwrap()
}

#[tokio::test]
async fn a_foreign_host_is_refused_with_421_and_probes_answer_without_a_reason() {
    let fake = fake::Fake::new();
    fake.change(|state| {
        state.phase = weirmq::state::Phase::Starting;
        fake_data::unreadable(state);
    });
    let server = fake::serve_with(&fake, hosts(&["weir.example.com", "*.svc"]));
    let addr = server.local_addr();
    let ask = |path: &'static str, host: &'static str| async move {
        let wire = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        Answered::parse(&exchange(addr, wire.as_bytes()).await)
    };
    for path in weirmq::status::paths().filter(|path| !matches!(*path, "/livez" | "/readyz")) {
        let answer = ask(path, "attacker.example.net:8080").await;
        assert_eq!(answer.status, 421, "{path}");
        assert!(answer.text().contains("--status-host attacker.example.net"), "{}", answer.text());
    }
    for host in ["localhost", "127.0.0.1:8080", "[::1]", "WEIR.example.com:8080", "weir.default.svc"] {
        assert_eq!(ask("/api/endpoints/list", host).await.status, 200, "{host}");
    }
    for host in ["attacker.example.net", "10.1.2.3:8080"] {
        assert_eq!(ask("/livez", host).await.text(), "ok\n");
        let ready = ask("/readyz", host).await;
        assert_eq!((ready.status, ready.text()), (503, "not ok\n"));
    }
    assert!(ask("/readyz", "localhost").await.text().contains("permission denied"), "the reason is for known callers");
    // The target's own authority counts as well.
    let wire = "GET http://attacker.example.net/api/source HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    assert_eq!(Answered::parse(&exchange(addr, wire.as_bytes()).await).status, 421);
    assert!(refused(addr, "host").await > 20);
}

#[tokio::test]
async fn a_probe_is_answered_within_a_second_beside_400_idle_connections() {
    let server = fake::serve(&fake::Fake::new());
    let addr = server.local_addr();
    let mut held = Vec::new();
    for number in 0..400 {
        let mut stream = TcpStream::connect(addr).await.unwrap();
        if number % 4 == 0 {
            // Closed already where the server needed the place.
            let _closed = stream.write_all(b"GET /api/source HTTP/1.1\r\nHost: localhost\r\nX-Slow: ").await;
        }
        held.push(stream);
    }
    for _ in 0..5 {
        let began = Instant::now();
        assert_eq!(get(addr, "/livez").await.status, 200);
        assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    }
    let open = StatusOptions::default().max_connections_per_source;
    assert!(refused(addr, "connection_limit").await >= 400 - open as u64, "one source has at most {open}");
}

#[tokio::test]
async fn bodies_are_charged_before_they_are_read_and_answered_with_503_above_the_budget() {
    let options = StatusOptions { request_timeout: Duration::from_secs(3), ..StatusOptions::default() };
    let most = options.max_body_bytes;
    let server = fake::serve_with(&fake::Fake::new(), options);
    let addr = server.local_addr();
    let post = |length: String| {
        format!("POST /api/endpoints/validate HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{length}\r\n\r\n")
    };
    // Two whole bodies are this source's share.
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut stream = TcpStream::connect(addr).await.unwrap();
        stream.write_all(post(format!("Content-Length: {most}")).as_bytes()).await.unwrap();
        stream.write_all(b"port").await.unwrap();
        held.push(stream);
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    let sized =
        Answered::parse(&exchange(addr, format!("{}port: 1", post("Content-Length: 7".to_owned())).as_bytes()).await);
    assert_eq!((sized.status, sized.header("retry-after")), (503, Some("5")), "{}", sized.text());
    let chunked = format!("{}7\r\nport: 1\r\n0\r\n\r\n", post("Transfer-Encoding: chunked".to_owned()));
    assert_eq!(Answered::parse(&exchange(addr, chunked.as_bytes()).await).status, 503);
    // They do not arrive, and their bytes are free again.
    for mut stream in held {
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        assert_eq!(Answered::parse(&answer).status, 408);
    }
    assert_eq!(Answered::parse(&exchange(addr, chunked.as_bytes()).await).status, 200);
    let huge = post(format!("Content-Length: {}", 5 * most));
    assert_eq!(Answered::parse(&exchange(addr, huge.as_bytes()).await).status, 413, "without reading it");
    assert_eq!((refused(addr, "body_budget").await, refused(addr, "body_timeout").await), (2, 2));
}

#[tokio::test]
async fn two_hundred_endless_bodies_cost_no_more_than_the_budget() {
    let fake = fake::Fake::new();
    let server = fake::serve(&fake);
    let addr = server.local_addr();
    let before = weirmq::status::resident_bytes().unwrap();
    let chunk = format!("10000\r\n{}\r\n", "x".repeat(0x10000));
    let mut held = Vec::new();
    for _ in 0..200 {
        let chunk = chunk.clone();
        held.push(tokio::spawn(async move {
            let mut stream = TcpStream::connect(addr).await.unwrap();
            let head = "POST /api/endpoints/validate HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n";
            stream.write_all(head.as_bytes()).await.ok();
            for _ in 0..15 {
                if stream.write_all(chunk.as_bytes()).await.is_err() {
                    break;
                }
            }
            tokio::time::sleep(Duration::from_secs(2)).await;
        }));
    }
    let mut most = 0;
    for _ in 0..8 {
        tokio::time::sleep(Duration::from_millis(200)).await;
        most = most.max(weirmq::status::resident_bytes().unwrap().saturating_sub(before));
        assert_eq!(get(addr, "/livez").await.status, 200);
    }
    for each in held {
        each.await.unwrap();
    }
    // 200 bodies of a MiB would be 200 MiB; other tests of this process grow meanwhile.
    assert!(most < 100 << 20, "{} MiB", most >> 20);
}

#[tokio::test]
async fn reads_of_topic_levels_are_bounded_and_counted() {
    let fake = fake::Fake::new();
    fake.hangs.store(true, std::sync::atomic::Ordering::Relaxed);
    let options = StatusOptions { request_timeout: Duration::from_secs(8), ..StatusOptions::default() };
    let server = fake::serve_with(&fake, options);
    let addr = server.local_addr();
    let reads: Vec<_> = (0..5).map(|_| tokio::spawn(async move { get(addr, "/api/topics/tree").await })).collect();
    let mut answers = Vec::new();
    for read in reads {
        let answer = read.await.unwrap();
        assert_eq!(answer.status, 503);
        answers.push(answer.json()["message"].as_str().unwrap().to_owned());
    }
    assert_eq!(answers.iter().filter(|answer| answer.starts_with("4 levels of topics are being read")).count(), 1);
    assert_eq!(refused(addr, "topic_reads").await, 1);
}
