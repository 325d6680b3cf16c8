//! What `weir run` says when it cannot join a cluster.

use crate::cluster_engine::nats::{self, Nats};
use crate::support::ports;
use crate::support::weir::Weir;

/// Runs a broker that ends. Returns its exit code and what it says.
fn refusal(arguments: &[&str]) -> (Option<i32>, String) {
    let mut weir = Weir::new().with_variable("WEIR_TEST_PASSWORD", "wrong").with_arguments(arguments);
    weir.run();
    let code = weir.wait().code();
    (code, weir.log())
}

/// It ends with code 1, and says exactly this.
fn says(arguments: &[&str], words: &str) {
    let (code, text) = refusal(arguments);
    assert_eq!(text.trim_end(), format!("error: cluster not joined: {words}"), "{arguments:?}");
    assert_eq!(code, Some(1), "{arguments:?}");
}

#[test]
fn a_cluster_that_cannot_be_joined_says_why_and_what_to_do() {
    for (flag, value, words) in [
        ("--cluster-name", "a.b", "the cluster name `a.b` is not valid: use 1 to 32 of A-Z, a-z, 0-9, `_` and `-`"),
        ("--cluster-replicas", "2", "the number of copies is 1, 3 or 5"),
    ] {
        let (code, text) = refusal(&["--cluster", "nats://127.0.0.1:1", flag, value]);
        assert_eq!(code, Some(64), "{text}");
        assert!(text.starts_with(&format!("error: invalid value '{value}' for '{flag} ")), "{text}");
        assert!(text.contains(words), "{text}");
    }
    says(
        &["--cluster", "http://127.0.0.1:1"],
        "`http://127.0.0.1:1` is not a server of the engine (invalid scheme for NATS server URL: http): write nats://HOST:PORT, or tls://HOST:PORT",
    );
    let url = format!("nats://{}", ports::free_address());
    says(
        &["--cluster", &url],
        &format!(
            "no server of the engine can be reached: {url}: IO error: Connection refused (os error 111): start nats-server there, or correct the list of servers"
        ),
    );
    let (code, text) = refusal(&["--cluster-name", "test"]);
    assert_eq!(code, Some(64), "{text}");
    assert!(text.contains("--cluster <URL>"), "{text}");
}

#[test]
fn servers_that_cannot_be_used_say_why_and_what_to_do() {
    if !nats::is_there() {
        return;
    }
    let guarded = Nats::start_with(
        "jetstream { store_dir: STORE }\nauthorization { users: [ { user: me, password: right } ] }\n",
    );
    let url = guarded.url();
    let words = format!(
        "authorization violation: {url} refuses the credentials: give a user and password, a token, an nkey seed or a .creds file that this server knows"
    );
    says(&["--cluster", &url], &words);
    says(&["--cluster", &url, "--cluster-user", "me", "--cluster-password", "env:WEIR_TEST_PASSWORD"], &words);

    let (code, text) = refusal(&["--cluster", &Nats::start_with("").url(), "--cluster-replicas", "1"]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.starts_with("error: cluster not joined: JetStream is not enabled on n0"), "{text}");
    assert!(text.contains("start nats-server with `jetstream { store_dir: ... }` in its configuration"), "{text}");

    let (code, text) = refusal(&["--cluster", &Nats::start().url()]);
    assert_eq!(code, Some(1), "{text}");
    assert!(
        text.starts_with(
            "error: cluster not joined: 3 replicas need at least 3 servers with JetStream in one cluster, and the engine cannot place stream weir_weir_members"
        ),
        "{text}"
    );
    assert!(text.contains("add servers, or use fewer replicas") && text.lines().count() == 1, "{text}");
}
