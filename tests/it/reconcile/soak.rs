//! Random commits under a thousand connected clients: no client is disconnected but those that the plan counted.
//!
//! `WEIR_SOAK_S=600 WEIR_SOAK_CLIENTS=1000 cargo test --test it reconcile::soak -- --ignored --nocapture`;
//! `WEIR_SIM_SEED=17` chooses the commits.

use std::collections::BTreeMap;
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::broker::{Broker, at, endpoint};
use crate::net::client::connect;
use crate::seeded_random::{self, SeededRandom};
use crate::source::git::git;
use crate::support::GUARD;
use crate::support::ports;
use crate::support::weir;

const ENDPOINTS: usize = 20;

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// One endpoint's file.
#[derive(Clone)]
struct Endpoint {
    port: u16,
    there: bool,
    enabled: bool,
    limit: u64,
    keep_alive_s: u64,
    restarted: u64,
    said: u64,
}

impl Endpoint {
    fn text(&self, name: &str) -> String {
        let fields = format!(
            ", enabled: {}, maxConnectionSize: {}, keepAliveMaxS: {}, restartedAt: '{}', description: 'said {}', \
             connectTimeoutMs: 5000, drain: {{windowS: 1}}",
            self.enabled, self.limit, self.keep_alive_s, self.restarted, self.said
        );
        endpoint(name, self.port, &fields)
    }

    fn serves(&self) -> bool {
        self.there && self.enabled
    }
}

/// A client, connected or not.
struct Member {
    of: usize,
    id: String,
    stream: Option<TcpStream>,
}

impl Member {
    /// Whether it was let in.
    fn enter(&mut self, port: u16) -> bool {
        let mut stream = TcpStream::connect(at(port)).unwrap();
        stream.set_read_timeout(Some(GUARD)).unwrap();
        stream.write_all(&connect(5, &self.id)).unwrap();
        let mut head = [0; 2];
        stream.read_exact(&mut head).unwrap();
        let mut body = vec![0; usize::from(head[1])];
        stream.read_exact(&mut body).unwrap();
        if (head[0], body[1]) != (0x20, 0) {
            assert_eq!((head[0], body[1]), (0x20, 0x97), "refused for another cause than the limit");
            return false;
        }
        stream.set_nonblocking(true).unwrap();
        self.stream = Some(stream);
        true
    }

    /// Whether it was sent away since the last look; it is alive where it answers.
    fn left(&mut self) -> bool {
        let Some(stream) = &mut self.stream else { return false };
        let mut buffer = [0; 256];
        loop {
            match stream.read(&mut buffer) {
                Ok(count) if count > 0 && buffer[0] != 0xE0 => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return false,
                _ => break,
            }
        }
        self.stream = None;
        true
    }
}

struct Soak {
    random: SeededRandom,
    broker: Broker,
    upstream: PathBuf,
    endpoints: Vec<Endpoint>,
    members: Vec<Member>,
    commits: u64,
    planned: u64,
    sent_away: u64,
    refused: u64,
    /// Clients that were connected when a commit came, all commits together.
    under: u64,
}

fn name(number: usize) -> String {
    format!("e{number:02}")
}

impl Soak {
    fn new(place: &Path, clients: u64) -> Self {
        let seed = seeded_random::seed();
        println!("WEIR_SIM_SEED={seed}");
        let upstream = place.join("upstream");
        fs::create_dir(&upstream).unwrap();
        git(&upstream, &["init", "-q"]);
        let endpoints: Vec<Endpoint> = (0..ENDPOINTS)
            .map(|_| Endpoint {
                port: ports::free(),
                there: true,
                enabled: true,
                limit: clients,
                keep_alive_s: 600,
                restarted: 0,
                said: 0,
            })
            .collect();
        let broker = Broker::start(&[]);
        git(&broker.endpoints(), &["init", "-q"]);
        git(&broker.endpoints(), &["remote", "add", "origin", &upstream.display().to_string()]);
        let members =
            (0..clients).map(|n| Member { of: n as usize % ENDPOINTS, id: format!("m{n}"), stream: None }).collect();
        let random = SeededRandom::new(seed);
        Self {
            random,
            broker,
            upstream,
            endpoints,
            members,
            commits: 0,
            planned: 0,
            sent_away: 0,
            refused: 0,
            under: 0,
        }
    }

    /// Changes some endpoints as people do.
    fn edit(&mut self) {
        // What was taken away comes back soon, so that most clients are connected at any time.
        for endpoint in self.endpoints.iter_mut().filter(|endpoint| !endpoint.serves()) {
            if self.random.one_in(2) {
                (endpoint.there, endpoint.enabled) = (true, true);
            }
        }
        for _ in 0..=self.random.below(3) {
            let (a, b) = (self.random.below(ENDPOINTS as u64) as usize, self.random.below(ENDPOINTS as u64) as usize);
            let of_a = |member: &&Member| member.of == a;
            let all = self.members.iter().filter(of_a).count();
            let connected = self.members.iter().filter(of_a).filter(|member| member.stream.is_some()).count();
            let kind = self.random.below(10);
            let endpoint = &mut self.endpoints[a];
            match kind {
                0 | 1 => endpoint.said += 1,
                2 => endpoint.limit = all as u64 * 2,
                3 => endpoint.limit = (connected as u64).saturating_sub(3).max(1),
                4 => endpoint.keep_alive_s = 600 + self.random.below(100),
                5 => endpoint.restarted += 1,
                6 => endpoint.port = ports::free(),
                7 => endpoint.enabled = !endpoint.enabled,
                8 => endpoint.there = !endpoint.there,
                _ => {
                    let (of_a, of_b) = (self.endpoints[a].port, self.endpoints[b].port);
                    (self.endpoints[a].port, self.endpoints[b].port) = (of_b, of_a);
                }
            }
        }
    }

    /// Commits what is to be declared; the commit.
    fn commit(&mut self) -> String {
        for (number, endpoint) in self.endpoints.iter().enumerate() {
            let path = self.upstream.join(format!("{}.yaml", name(number)));
            if endpoint.there {
                fs::write(path, endpoint.text(&name(number))).unwrap();
            } else if path.exists() {
                fs::remove_file(path).unwrap();
            }
        }
        git(&self.upstream, &["add", "-A"]);
        git(&self.upstream, &["commit", "-q", "--allow-empty", "-m", &format!("change {}", self.commits)]);
        self.commits += 1;
        git(&self.upstream, &["rev-parse", "HEAD"])
    }

    /// How many clients of each endpoint the plan of what is committed sends away at most.
    fn plan(&self) -> BTreeMap<String, u64> {
        let against = format!("http://{}", self.broker.status());
        let done = weir::command()
            .args(["plan", "--format", "json", "--against", &against])
            .arg(&self.upstream)
            .output()
            .unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        let plan: Value = serde_json::from_slice(&done.stdout).unwrap();
        let actions = plan["actions"].as_array().unwrap().iter();
        actions
            .map(|action| {
                let clients = action["disconnects"]["clients"].as_u64().unwrap();
                (action["endpoint"].as_str().unwrap().to_owned(), clients)
            })
            .collect()
    }

    /// Counts who was sent away since the last look.
    fn look(&mut self, gone: &mut BTreeMap<String, u64>) {
        for member in &mut self.members {
            if member.left() {
                *gone.entry(name(member.of)).or_default() += 1;
            }
        }
    }

    fn is_draining(&self) -> bool {
        let status = self.broker.get("/api/endpoints/status");
        let all = status["endpoints"].as_object().unwrap().values();
        all.flat_map(|endpoint| endpoint["conditions"].as_array().unwrap())
            .any(|condition| condition["type"] == "Draining" && condition["status"] == "True")
    }

    /// One commit: planned, pulled, applied, and held against the plan.
    fn round(&mut self) {
        let commit = self.commit();
        self.under += self.members.iter().filter(|member| member.stream.is_some()).count() as u64;
        let planned = if self.commits > 1 { self.plan() } else { BTreeMap::new() };
        git(&self.broker.endpoints(), &["pull", "-q", "--ff-only", "origin", "main"]);
        let begun = Instant::now();
        let mut gone = BTreeMap::new();
        // Revisions are shown short.
        let is_applied = |applied: &str| applied.len() >= 12 && commit.starts_with(applied);
        while !is_applied(&self.broker.applied()) || self.is_draining() {
            assert!(begun.elapsed() < GUARD, "{commit} is not applied\n{}", self.broker.log());
            self.look(&mut gone);
            std::thread::sleep(Duration::from_millis(20));
        }
        self.look(&mut gone);
        for (name, count) in &gone {
            let most = planned.get(name).copied().unwrap_or(0);
            assert!(*count <= most, "{count} clients of {name} were sent away, the plan said {most}\n{planned:?}");
        }
        self.planned += planned.values().sum::<u64>();
        self.sent_away += gone.values().sum::<u64>();
        self.ping();
        self.come_back();
    }

    /// Who is connected still answers.
    fn ping(&mut self) {
        for member in &mut self.members {
            let Some(stream) = &mut member.stream else { continue };
            stream.set_nonblocking(false).unwrap();
            stream.write_all(&[0xC0, 0]).unwrap();
            let mut answer = [0; 2];
            stream.read_exact(&mut answer).unwrap();
            assert_eq!(answer, [0xD0, 0], "{} of {}", member.id, name(member.of));
            stream.set_nonblocking(true).unwrap();
        }
    }

    /// Who was sent away connects again, where its endpoint is now.
    fn come_back(&mut self) {
        for member in self.members.iter_mut().filter(|member| member.stream.is_none()) {
            let endpoint = &self.endpoints[member.of];
            if endpoint.serves() && !member.enter(endpoint.port) {
                self.refused += 1;
            }
        }
    }

    /// Live is what is declared, as the sockets tell.
    fn check(&self) {
        let plan = self.broker.get("/api/plan");
        assert_eq!(plan["converged"], true, "{plan}");
        let listed = self.broker.get("/api/endpoints/list");
        let mut declared: Vec<u16> = self.endpoints.iter().filter(|e| e.serves()).map(|e| e.port).collect();
        declared.sort_unstable();
        assert_eq!(listed["activePorts"], serde_json::json!(declared));
        for endpoint in &self.endpoints {
            let answers = TcpStream::connect(at(endpoint.port)).is_ok();
            assert_eq!(answers, endpoint.serves(), "port {}", endpoint.port);
        }
        let metrics = self.broker.http("/metrics");
        let errors: Vec<&str> = metrics.lines().filter(|line| line.starts_with("weir_internal_errors_total")).collect();
        assert!(!errors.is_empty() && errors.iter().all(|line| line.ends_with(" 0")), "{errors:?}");
    }
}

#[test]
#[ignore = "takes ten minutes; tests/run --all runs it"]
fn soak() {
    let (seconds, clients) = (setting("WEIR_SOAK_S", 600), setting("WEIR_SOAK_CLIENTS", 1000));
    let place = tempfile::tempdir().unwrap();
    let mut soak = Soak::new(place.path(), clients);
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(seconds) {
        soak.round();
        soak.edit();
    }
    // Nothing but what was committed last.
    soak.round();
    soak.check();
    println!(
        "{} commits in {} s, {} of {clients} clients connected on average: {} sent away, {} by the plans' count; {} \
         refused at a limit; live is what is declared",
        soak.commits,
        begun.elapsed().as_secs(),
        soak.under / soak.commits.max(1),
        soak.sent_away,
        soak.planned,
        soak.refused
    );
}
