//! HTTP behaviour and bounds of the status server.

use std::time::Duration;

use http_body_util::{BodyExt, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use weirmq::state::Phase;
use weirmq::status::StatusOptions;

use super::client::{Answered, exchange, get, request};
use super::{fake, fake_data};

#[tokio::test]
async fn an_unchanged_answer_is_not_sent_again() {
    let fake = fake::Fake::new();
    let server = fake::serve(&fake);
    let addr = server.local_addr();
    let first = get(addr, "/api/endpoints/list").await;
    let tag = first.header("etag").unwrap().to_owned();
    for given in [tag.clone(), format!("W/{tag}"), format!("\"other\", {tag}"), "*".to_owned()] {
        let again = request(addr, "GET", "/api/endpoints/list", &[("If-None-Match", &given)], "").await;
        assert_eq!((again.status, again.text(), again.header("etag")), (304, "", Some(tag.as_str())), "{given}");
    }
    fake.change(|state| state.endpoints.truncate(1));
    let changed = request(addr, "GET", "/api/endpoints/list", &[("If-None-Match", &tag)], "").await;
    assert_eq!(changed.status, 200);
    assert_ne!(changed.header("etag"), Some(tag.as_str()));
}

#[tokio::test]
async fn head_has_the_head_of_get() {
    let server = fake::serve(&fake::Fake::new());
    for path in ["/api/endpoints/list", "/livez", "/metrics", "/api/endpoints/get?port=1999", "/nowhere"] {
        let whole = get(server.local_addr(), path).await;
        let head = request(server.local_addr(), "HEAD", path, &[], "").await;
        assert_eq!((head.status, head.text()), (whole.status, ""));
        for name in ["content-type", "etag", "content-security-policy"] {
            assert_eq!(head.header(name), whole.header(name), "{path}");
        }
        if path != "/metrics" {
            assert_eq!(head.header("content-length"), whole.header("content-length"), "{path}");
        }
    }
}

#[tokio::test]
async fn ready_after_the_first_declaration_and_not_while_draining() {
    let fake = fake::Fake::new();
    let server = fake::serve(&fake);
    let addr = server.local_addr();
    // The fake's state has refused documents and a listener that is down: no reason to take the broker away.
    assert_eq!(get(addr, "/readyz").await.status, 200);
    for (phase, why) in [
        (Phase::Starting, "not ready: no declaration is applied yet: /etc/weir/endpoints.d: permission denied\n"),
        (Phase::Draining, "not ready: the broker is shutting down\n"),
    ] {
        fake.change(|state| {
            state.phase = phase;
            fake_data::unreadable(state);
        });
        let answer = get(addr, "/readyz").await;
        assert_eq!((answer.status, answer.text()), (503, why));
        assert_eq!(get(addr, "/livez").await.status, 200);
    }
    fake.change(|state| state.phase = Phase::Serving);
    assert_eq!(get(addr, "/readyz").await.status, 200, "a lost source is staleness, not unreadiness");
}

#[tokio::test]
async fn a_node_that_is_not_ready_in_its_cluster_is_not_ready() {
    let fake = fake::Fake::new();
    let server = fake::serve(&fake);
    let addr = server.local_addr();
    let why = "the node is out, because no nats-server stores its heartbeats";
    fake.members.lock().unwrap().not_ready = Some(why.to_owned());
    let answer = get(addr, "/readyz").await;
    assert_eq!((answer.status, answer.text()), (503, &*format!("not ready: {why}\n")));
    fake.members.lock().unwrap().not_ready = None;
    assert_eq!(get(addr, "/readyz").await.status, 200);
}

#[tokio::test]
async fn health_of_healthy_endpoints_is_200() {
    let fake = fake::Fake::new();
    let server = fake::serve(&fake);
    let all = get(server.local_addr(), "/api/endpoints/health").await;
    assert_eq!((all.status, all.json()["code"].clone()), (503, json!(503)));
    fake.change(|state| state.endpoints.retain(|endpoint| endpoint.name != "site/spare" && endpoint.name != "new"));
    assert_eq!(get(server.local_addr(), "/api/endpoints/health").await.status, 200);
}

#[tokio::test]
async fn http_2_works_with_prior_knowledge() {
    let server = fake::serve(&fake::Fake::new());
    let stream = TcpStream::connect(server.local_addr()).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    for _ in 0..3 {
        let uri = format!("http://{}/api/endpoints/get?port=1883", server.local_addr());
        let request = hyper::Request::get(uri).body(Empty::<bytes::Bytes>::new()).unwrap();
        let response = sender.send_request(request).await.unwrap();
        assert_eq!((response.version(), response.status().as_u16()), (hyper::Version::HTTP_2, 200));
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(body["data"]["port"], json!(1883));
    }
}

#[tokio::test]
async fn over_http_2_an_oversized_body_is_answered_with_the_reason() {
    let options = StatusOptions { max_body_bytes: 100_000, ..StatusOptions::default() };
    let server = fake::serve_with(&fake::Fake::new(), options);
    let stream = TcpStream::connect(server.local_addr()).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    for _ in 0..3 {
        let uri = format!("http://{}/api/endpoints/validate", server.local_addr());
        let body = http_body_util::Full::new(bytes::Bytes::from(vec![b' '; 350_000]));
        let response = sender.send_request(hyper::Request::post(uri).body(body).unwrap()).await.unwrap();
        assert_eq!(response.status().as_u16(), 413);
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert!(String::from_utf8_lossy(&body).contains("larger than 100000 bytes"));
    }
}

#[tokio::test]
async fn a_connection_serves_many_requests() {
    let server = fake::serve(&fake::Fake::new());
    let one = "GET /livez HTTP/1.1\r\nHost: x\r\n\r\n";
    let last = "GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let wire = exchange(server.local_addr(), format!("{one}{one}{last}").as_bytes()).await;
    assert_eq!(String::from_utf8(wire).unwrap().matches("HTTP/1.1 200 OK").count(), 3);
}

#[tokio::test]
async fn oversized_and_malformed_requests_are_refused() {
    let options = StatusOptions { max_body_bytes: 1000, ..StatusOptions::default() };
    let server = fake::serve_with(&fake::Fake::new(), options);
    let addr = server.local_addr();
    let long = "x".repeat(40_000);
    let cases: &[(u16, String)] = &[
        (431, format!("GET /livez HTTP/1.1\r\nHost: x\r\nX: {long}\r\n\r\n")),
        (431, format!("GET /livez HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(200))),
        (431, format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "x".repeat(70_000))),
        (400, "GET\r\n\r\n".to_owned()),
        (400, "GET /livez HTTP/1.1\r\nContent-Length: x\r\n\r\n".to_owned()),
        (
            413,
            format!(
                "POST /api/endpoints/validate HTTP/1.1\r\nConnection: close\r\nContent-Length: 1001\r\n\r\n{}",
                &long[..1001]
            ),
        ),
    ];
    for (status, wire) in cases {
        let answer = exchange(addr, wire.as_bytes()).await;
        assert!(!answer.is_empty(), "no answer to {:.60}", wire);
        assert_eq!(Answered::parse(&answer).status, *status, "{:.60}", wire);
    }
    assert_eq!(get(addr, "/livez").await.status, 200);
}

#[tokio::test]
async fn a_connection_beyond_the_bound_closes_the_longest_idle_one() {
    let options = StatusOptions { max_connections: 2, ..StatusOptions::default() };
    let server = fake::serve_with(&fake::Fake::new(), options);
    let mut idle = Vec::new();
    for sent in ["", "GET /live"] {
        let mut stream = TcpStream::connect(server.local_addr()).await.unwrap();
        stream.write_all(sent.as_bytes()).await.unwrap();
        idle.push(stream);
    }
    assert_eq!(get(server.local_addr(), "/livez").await.status, 200);
    let mut rest = Vec::new();
    let closed = tokio::time::timeout(Duration::from_secs(20), idle[0].read_to_end(&mut rest)).await;
    assert!(closed.is_ok(), "the longest idle connection was kept");
}

#[tokio::test]
async fn idle_connections_are_closed_after_the_timeout() {
    let idle_timeout = Duration::from_millis(300);
    let options = StatusOptions { head_timeout: Duration::from_secs(60), idle_timeout, ..StatusOptions::default() };
    let server = fake::serve_with(&fake::Fake::new(), options);
    for sent in ["", "GET /live"] {
        let mut stream = TcpStream::connect(server.local_addr()).await.unwrap();
        stream.write_all(sent.as_bytes()).await.unwrap();
        let mut rest = Vec::new();
        let closed = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut rest)).await;
        assert!(closed.is_ok(), "an idle connection was kept");
    }
}

#[tokio::test]
async fn a_body_that_does_not_arrive_is_answered_with_408() {
    let options = StatusOptions { request_timeout: Duration::from_millis(200), ..StatusOptions::default() };
    let server = fake::serve_with(&fake::Fake::new(), options);
    let head = "POST /api/endpoints/validate HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 9\r\n\r\nport";
    let answer = exchange(server.local_addr(), head.as_bytes()).await;
    assert_eq!(Answered::parse(&answer).status, 408);
}

#[tokio::test]
async fn shutdown_ends_idle_connections_and_frees_the_port() {
    let server = fake::serve(&fake::Fake::new());
    let addr = server.local_addr();
    let mut kept = TcpStream::connect(addr).await.unwrap();
    kept.write_all(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut first = [0; 15];
    kept.read_exact(&mut first).await.unwrap();
    tokio::time::timeout(Duration::from_secs(20), server.shutdown()).await.expect("it stops");
    let mut rest = Vec::new();
    kept.read_to_end(&mut rest).await.unwrap();
    assert!(TcpStream::connect(addr).await.is_err(), "still listening");
}

#[tokio::test]
async fn a_shard_that_hangs_is_not_alive() {
    let fake = fake::Fake::new();
    fake.hangs.store(true, std::sync::atomic::Ordering::Relaxed);
    let brief = Duration::from_millis(50);
    let options = StatusOptions { ping_interval: brief, ping_timeout: brief, ..StatusOptions::default() };
    let server = fake::serve_with(&fake, options);
    let answer = loop {
        let answer = get(server.local_addr(), "/livez").await;
        if answer.status != 200 {
            break answer;
        }
    };
    assert_eq!(answer.status, 503);
    assert!(answer.text().starts_with("not alive: a shard has not answered"), "{}", answer.text());
}
