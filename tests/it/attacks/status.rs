//! Attacks on the status server: a page of another site, idle connections, bodies without end.

use std::io::{Read, Result, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use super::client::{ATTACKER, PROBE, open_from};
use super::run::Attack;
use super::scaled;
use super::target::Target;

const IDLE_CONNECTIONS: usize = 256;
const BODIES: usize = 200;
/// Length that a body announces, and what is sent of it.
const BODY_BYTES: usize = 4 << 20;
const BODY_SENT_BYTES: usize = BODY_BYTES - 1000;
/// The longest that `/livez` may take.
const LIVEZ_MAX: Duration = Duration::from_secs(1);
const OBSERVED: Duration = Duration::from_secs(5);

/// The status code of a GET; 0 without an answer.
fn get(source: Ipv4Addr, address: SocketAddr, path: &str, host: &str) -> Result<u16> {
    let mut stream = open_from(source, address)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    write!(stream, "GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or_default())
}

#[test]
#[ignore = "an attack: tests/all/attacks"]
fn a_foreign_host_header_is_refused() {
    let target = Target::start();
    let read = |path: &str, host: &str| get(ATTACKER, target.status(), path, host).unwrap();
    for path in ["/api/clients", "/api/traces", "/api/declared", "/metrics"] {
        for host in ["attacker.example", "attacker.example:8080", "127.0.0.1.attacker.example"] {
            let code = read(path, host);
            println!("{path} with the host {host}: {code}");
            assert!((400..500).contains(&code) && code != 404, "{path} with the host {host} was answered with {code}");
        }
    }
    assert_eq!(read("/livez", &target.status().to_string()), 200);
}

#[test]
#[ignore = "an attack: tests/all/attacks"]
fn idle_connections_and_bodies_without_end() {
    let mut slowest = Duration::ZERO;
    let slowest_livez = &mut slowest;
    Attack::new("256 idle connections and 200 bodies of 4 MiB that never end, at the status server").run(|target| {
        let mut open = Vec::new();
        for _ in 0..scaled(IDLE_CONNECTIONS) {
            open.push(open_from(ATTACKER, target.status())?);
        }
        *slowest_livez = livez_during(target, OBSERVED);
        let head = format!(
            "POST /api/endpoints/validate HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\n\
             content-length: {BODY_BYTES}\r\n\r\n",
            target.status()
        );
        let (part, mut refused) = (vec![b' '; BODY_SENT_BYTES], 0);
        let mut bodies = Vec::new();
        for _ in 0..scaled(BODIES) {
            let mut stream = open_from(ATTACKER, target.status())?;
            stream.set_write_timeout(Some(Duration::from_millis(500)))?;
            let sent = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&part));
            refused += usize::from(sent.is_err());
            bodies.push(stream);
        }
        *slowest_livez = (*slowest_livez).max(livez_during(target, OBSERVED));
        Ok(format!("/livez took {slowest_livez:?} at most, {refused} of {} bodies stopped early", bodies.len()))
    });
    assert!(slowest < LIVEZ_MAX, "/livez took {slowest:?}");
}

/// The longest that `/livez` takes from another address. No answer counts as 10 s.
fn livez_during(target: &Target, time: Duration) -> Duration {
    let (start, mut slowest) = (Instant::now(), Duration::ZERO);
    let host = target.status().to_string();
    while start.elapsed() < time {
        let asked = Instant::now();
        let code = get(PROBE, target.status(), "/livez", &host).unwrap_or_default();
        let took = if code == 200 { asked.elapsed() } else { Duration::from_secs(10) };
        slowest = slowest.max(took);
        std::thread::sleep(Duration::from_millis(100));
    }
    slowest
}
