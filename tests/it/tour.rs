//! The README's two minutes, as a test: the built broker, real git, an MQTT client that is to notice nothing.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::support::client::Client;
use crate::support::ports;
use crate::wire::Version;

/// A guard, not a promise: how long the broker may take to follow on a busy machine.
const GUARD: Duration = Duration::from_secs(60);

fn address(port: u16) -> SocketAddr {
    ([127, 0, 0, 1], port).into()
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + GUARD;
    while !holds() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

struct Tour {
    child: Child,
    root: PathBuf,
    status: SocketAddr,
}

impl Tour {
    fn start(root: &Path, log: &Path) -> Tour {
        let status = address(ports::free());
        let log = fs::File::create(log).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_weir"))
            .args(["run", "--status-addr", &status.to_string(), "--endpoints"])
            .arg(root)
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let tour = Tour { child, root: root.to_owned(), status };
        until("ready", || tour.get("/readyz").starts_with("HTTP/1.1 200"));
        tour
    }

    fn get(&self, path: &str) -> String {
        let Ok(mut stream) = TcpStream::connect(self.status) else { return String::new() };
        let request = format!("GET {path} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n", self.status);
        let mut answer = String::new();
        // A broker that is still starting closes early: the caller asks again.
        let _ = stream.write_all(request.as_bytes()).and_then(|()| stream.read_to_string(&mut answer).map(|_| ()));
        answer
    }

    fn declare(&self, name: &str, port: u16, more: &str) {
        let text =
            format!("endpoint:\n  port: {port}\n  host: 127.0.0.1\n  enableAuth: false\n  enableAcl: false\n{more}");
        fs::write(self.root.join(name), text).unwrap();
    }

    fn weir(&self, args: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_weir")).args(args).arg(&self.root).output().unwrap()
    }

    fn git(&self, args: &[&str]) {
        let identity = ["-c", "user.name=Ann", "-c", "user.email=ann@example.com"];
        let done = Command::new("git").args(identity).args(args).current_dir(&self.root).output().unwrap();
        assert!(done.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&done.stderr));
    }
}

impl Drop for Tour {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn listens(port: u16) -> bool {
    TcpStream::connect(address(port)).is_ok()
}

#[test]
fn listeners_follow_the_directory_and_others_notice_nothing() {
    let tmp = tempfile::tempdir().unwrap();
    let root = tmp.path().join("endpoints.d");
    fs::create_dir(&root).unwrap();
    let (first, second, third) = (ports::free(), ports::free(), ports::free());
    let document = |port| format!("endpoint: {{port: {port}, host: 127.0.0.1, enableAuth: false, enableAcl: false}}\n");
    fs::write(root.join("first.yaml"), document(first)).unwrap();
    fs::write(root.join("second.yaml"), document(second)).unwrap();
    let log = tmp.path().join("log");
    let mut tour = Tour::start(&root, &log);
    tour.git(&["init", "-q", "-b", "main"]);
    tour.git(&["add", "-A"]);
    tour.git(&["commit", "-qm", "two endpoints"]);
    until("both listen", || listens(first) && listens(second));
    let mut bystander = Client::connect(address(first), Version::V5, "bystander");

    tour.declare("second.yaml", third, "");
    until("the edited endpoint moves", || listens(third) && !listens(second));
    tour.declare("added.yaml", second, "  maxConnectionSize: 5\n");
    until("the added endpoint listens", || listens(second));
    fs::remove_file(root.join("added.yaml")).unwrap();
    until("the deleted endpoint goes", || !listens(second));
    bystander.ping();

    tour.declare("second.yaml", third, "  maxConnectionSze: 5\n");
    let place = "second.yaml:6:3";
    until("the mistake is in the log", || fs::read_to_string(&log).unwrap().contains(place));
    until("and in the status", || tour.get("/api/endpoints/status?name=second").contains(place));
    assert!(listens(third), "what was last good stays");
    let judged = tour.weir(&["validate"]);
    assert_eq!(judged.status.code(), Some(1));
    assert!(
        String::from_utf8_lossy(&judged.stderr).contains(place)
            || String::from_utf8_lossy(&judged.stdout).contains(place)
    );

    tour.git(&["checkout", "-q", "."]);
    until("a checkout brings the old port back", || listens(second) && !listens(third));
    tour.git(&["checkout", "-q", "-b", "more"]);
    tour.declare("third.yaml", third, "");
    tour.git(&["add", "-A"]);
    tour.git(&["commit", "-qm", "three endpoints"]);
    until("the branch's endpoint listens", || listens(third));
    tour.git(&["checkout", "-q", "main"]);
    until("main has it not", || !listens(third));
    bystander.ping();

    tour.declare("planned.yaml", third, "  enabled: false\n");
    let against = format!("http://{}", tour.status);
    let plan = tour.weir(&["plan", "--against", &against]);
    assert!(plan.status.success(), "{}", String::from_utf8_lossy(&plan.stderr));
    let list = tour.get("/api/endpoints/list");
    assert!(list.contains("\"code\":200") && list.contains(&format!("\"{first}\"")), "{list}");
    assert!(tour.get("/livez").starts_with("HTTP/1.1 200") && tour.get("/metrics").contains("weir_build_info"));

    let id = i32::try_from(tour.child.id()).unwrap();
    let pid = rustix::process::Pid::from_raw(id).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(tour.child.wait().unwrap().code(), Some(0), "SIGTERM drains and exits 0");
    assert!(matches!(bystander.receive(), Some(crate::wire::Packet::Disconnect { code: 0x8B, .. })));
}
