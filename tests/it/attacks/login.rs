//! Attacks before authentication with passwords: wrong ones in bulk, and questions that a service calls invalid.

use std::io::Write;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use super::client::{ATTACKER, open_from};
use super::run::{Attack, GROWTH_MAX_BYTES};
use super::scaled;
use crate::net::client::{connect_with, packet, string};

/// CONNECTs with wrong passwords of a burst, within about half a second.
const WRONG_PASSWORDS: usize = 4000;
const BURSTS: usize = 2;
/// CONNECTs without a password: so many at once, each from another address, again and again.
const WITHOUT_PASSWORD_AT_ONCE: usize = 10;
const WITHOUT_PASSWORD_EVERY: Duration = Duration::from_millis(500);
const WITHOUT_PASSWORD_ROUNDS: usize = 24;

#[test]
#[ignore = "an attack: tests/all/attacks"]
fn wrong_passwords_closed_at_once() {
    let attack = Attack {
        name: "4,000 CONNECTs with wrong passwords from one address, closed at once, twice",
        logins_at: "people",
        growth_max_bytes: GROWTH_MAX_BYTES,
    };
    attack.run(|target| {
        let start = Instant::now();
        let mut took = Vec::new();
        for burst in 0..BURSTS {
            let burst_start = Instant::now();
            for n in 0..scaled(WRONG_PASSWORDS) {
                let mut stream = open_from(ATTACKER, target.address("people"))?;
                let (id, password) = (format!("wrong-{n}"), format!("{burst}-{n}"));
                // At its limits the broker closes before it reads.
                let _ = stream.write_all(&connect_with(5, &id, &[], Some(("alice", &password))));
            }
            took.push(format!("{:.1} s", burst_start.elapsed().as_secs_f64()));
            std::thread::sleep(Duration::from_secs(4));
        }
        Ok(format!("sent in {}, observed for {:.0} s", took.join(" and "), start.elapsed().as_secs_f64()))
    });
}

/// CONNECT of 3.1.1 with a user name and no password.
fn connect_without_password(client_id: &str) -> Vec<u8> {
    packet(0x10, &[&string("MQTT")[..], &[4, 0x82, 0, 0], &string(client_id), &string("alice")].concat())
}

#[test]
#[ignore = "an attack: tests/all/attacks"]
fn connects_that_an_http_service_answers_with_422() {
    let attack = Attack {
        name: "CONNECTs without a password, 10 at once every 0.5 s, to an http service that answers 422",
        logins_at: "http",
        growth_max_bytes: GROWTH_MAX_BYTES,
    };
    attack.run(|target| {
        let mut sent = 0;
        for round in 0..scaled(WITHOUT_PASSWORD_ROUNDS) {
            let mut open = Vec::new();
            for n in 0..WITHOUT_PASSWORD_AT_ONCE {
                let number = u8::try_from(round * WITHOUT_PASSWORD_AT_ONCE + n).map_err(std::io::Error::other)?;
                let mut stream = open_from(Ipv4Addr::new(127, 0, 1, number), target.address("http"))?;
                let _ = stream.write_all(&connect_without_password(&format!("without-{number}")));
                open.push(stream);
            }
            sent += open.len();
            std::thread::sleep(WITHOUT_PASSWORD_EVERY);
        }
        Ok(format!("{sent} sent"))
    });
}
