//! The tour's way through the product as a test: the built broker, real git, and an MQTT client that must stay connected.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::ops::Deref;
use std::process::{Command, Output};

use crate::support::client::Client;
use crate::support::ports;
use crate::support::weir::{self, Weir};
use crate::wire::Version;

fn address(port: u16) -> SocketAddr {
    ([127, 0, 0, 1], port).into()
}

struct Tour(Weir);

impl Tour {
    fn start(weir: Weir) -> Tour {
        let mut tour = Tour(weir.with_status());
        tour.0.run();
        tour.until("ready", || tour.http("/readyz").starts_with("HTTP/1.1 200"));
        tour
    }

    fn declare(&self, name: &str, port: u16, more: &str) {
        let text =
            format!("endpoint:\n  port: {port}\n  host: 127.0.0.1\n  enableAuth: false\n  enableAcl: false\n{more}");
        fs::write(self.endpoints().join(name), text).unwrap();
    }

    fn weir(&self, args: &[&str]) -> Output {
        weir::command().args(args).arg(self.endpoints()).output().unwrap()
    }

    fn git(&self, args: &[&str]) {
        let identity = ["-c", "user.name=Ann", "-c", "user.email=ann@example.com"];
        let done = Command::new("git").args(identity).args(args).current_dir(self.endpoints()).output().unwrap();
        assert!(done.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&done.stderr));
    }
}

impl Deref for Tour {
    type Target = Weir;

    fn deref(&self) -> &Weir {
        &self.0
    }
}

fn listens(port: u16) -> bool {
    TcpStream::connect(address(port)).is_ok()
}

#[test]
fn listeners_follow_the_directory_and_other_clients_stay_connected() {
    let (first, second, third) = (ports::free(), ports::free(), ports::free());
    let document = |port| format!("endpoint: {{port: {port}, host: 127.0.0.1, enableAuth: false, enableAcl: false}}\n");
    let weir = Weir::new().with_file("first.yaml", &document(first)).with_file("second.yaml", &document(second));
    let mut tour = Tour::start(weir);
    tour.git(&["init", "-q", "-b", "main"]);
    tour.git(&["add", "-A"]);
    tour.git(&["commit", "-qm", "two endpoints"]);
    tour.until("both listen", || listens(first) && listens(second));
    let mut bystander = Client::connect(address(first), Version::V5, "bystander");

    tour.declare("second.yaml", third, "");
    tour.until("the edited endpoint moves", || listens(third) && !listens(second));
    tour.declare("added.yaml", second, "  maxConnectionSize: 5\n");
    tour.until("the added endpoint listens", || listens(second));
    fs::remove_file(tour.endpoints().join("added.yaml")).unwrap();
    tour.until("the deleted endpoint goes", || !listens(second));
    bystander.ping();

    tour.declare("second.yaml", third, "  maxConnectionSze: 5\n");
    let place = "second.yaml:6:3";
    tour.until("the error is in the log", || tour.log().contains(place));
    tour.until("and in the status", || tour.http("/api/endpoints/status?name=second").contains(place));
    assert!(listens(third), "what was last good stays");
    let judged = tour.weir(&["validate"]);
    assert_eq!(judged.status.code(), Some(1));
    assert!(
        String::from_utf8_lossy(&judged.stderr).contains(place)
            || String::from_utf8_lossy(&judged.stdout).contains(place)
    );

    tour.git(&["checkout", "-q", "."]);
    tour.until("a checkout brings the old port back", || listens(second) && !listens(third));
    tour.git(&["checkout", "-q", "-b", "more"]);
    tour.declare("third.yaml", third, "");
    tour.git(&["add", "-A"]);
    tour.git(&["commit", "-qm", "three endpoints"]);
    tour.until("the branch's endpoint listens", || listens(third));
    tour.git(&["checkout", "-q", "main"]);
    tour.until("main does not have it", || !listens(third));
    bystander.ping();

    tour.declare("planned.yaml", third, "  enabled: false\n");
    let against = tour.status_url();
    let plan = tour.weir(&["plan", "--against", &against]);
    assert!(plan.status.success(), "{}", String::from_utf8_lossy(&plan.stderr));
    let list = tour.http("/api/endpoints/list");
    assert!(list.contains("\"code\":200") && list.contains(&format!("\"{first}\"")), "{list}");
    assert!(tour.http("/livez").starts_with("HTTP/1.1 200") && tour.http("/metrics").contains("weir_build_info"));

    assert_eq!(tour.0.stop().code(), Some(0), "SIGTERM drains and exits 0");
    assert!(matches!(bystander.receive(), Some(crate::wire::Packet::Disconnect { code: 0x8B, .. })));
}
