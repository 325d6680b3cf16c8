//! Start, documents in memory, and the end.

use std::net::TcpStream;
use std::time::Duration;

use weirmq::{Server, ServerError};

use super::endpoint;

#[tokio::test]
async fn documents_in_memory_are_replaced_and_other_clients_stay_connected() {
    let server = Server::builder().documents([("a.yaml", endpoint("a"))]).start().await.unwrap();
    let a = server.address("a").unwrap();
    let open = TcpStream::connect(a).unwrap();
    server.apply([("a.yaml", endpoint("a")), ("b.yaml", endpoint("b"))]).await.unwrap();
    assert_eq!(server.address("a"), Some(a), "port 0 keeps the port that was picked");
    let b = server.address("b").unwrap();
    assert_ne!(a.port(), b.port());
    drop(TcpStream::connect(b).unwrap());
    open.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    assert!(open.peek(&mut [0]).is_err(), "the connection is open, and nothing was sent");
    server.apply([("b.yaml", endpoint("b"))]).await.unwrap();
    assert_eq!(server.address("a"), None);
    assert_eq!(server.address("b"), Some(b));
    server.shutdown().await.unwrap();
    assert!(TcpStream::connect(b).is_err(), "nothing listens after the shutdown");
}

#[tokio::test]
async fn an_invalid_document_is_refused_with_its_position_and_changes_nothing() {
    let wrong = "endpoint: {name: a, prt: 1}";
    let Err(ServerError::Invalid(errors)) = Server::builder().documents([("a.yaml", wrong)]).start().await else {
        panic!("it started")
    };
    assert!(errors[0].starts_with("memory/a.yaml:1:"), "{errors:?}");
    let server = Server::builder().documents([("a.yaml", endpoint("a"))]).start().await.unwrap();
    let before = server.status();
    let Err(ServerError::Invalid(errors)) = server.apply([("a.yaml", wrong)]).await else { panic!("it was applied") };
    assert!(errors.iter().any(|error| error.contains("prt")), "{errors:?}");
    assert_eq!(server.status(), before);
}

#[tokio::test]
async fn a_port_in_use_is_an_error_that_names_the_endpoint() {
    let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = other.local_addr().unwrap().port();
    let document = format!("endpoint: {{name: taken, port: {port}, enableAuth: false, enableAcl: false}}");
    let Err(ServerError::NotLive(problems)) = Server::builder().documents([("a.yaml", document)]).start().await else {
        panic!("it started")
    };
    assert!(problems[0].contains("taken") && problems[0].contains(&port.to_string()), "{problems:?}");
}

#[tokio::test]
async fn two_servers_in_one_process_are_independent() {
    let one = Server::builder().documents([("a.yaml", endpoint("a"))]).node_name("one").start().await.unwrap();
    let two = Server::builder().documents([("a.yaml", endpoint("a"))]).node_name("two").start().await.unwrap();
    let (first, second) = (one.address("a").unwrap(), two.address("a").unwrap());
    assert_ne!(first, second);
    drop(one);
    drop(TcpStream::connect(second).unwrap());
    two.shutdown().await.unwrap();
    // The dropped server ends on this runtime.
    while TcpStream::connect(first).is_ok() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_directory_is_followed_without_a_process_of_its_own() {
    let directory = tempfile::tempdir().unwrap();
    // Port 0 is for documents in memory.
    let port = crate::support::ports::free();
    std::fs::write(directory.path().join("a.yaml"), endpoint("a").replace("port: 0", &format!("port: {port}")))
        .unwrap();
    let server = Server::builder()
        .directory(directory.path())
        .status_address("127.0.0.1:0".parse().unwrap())
        .start()
        .await
        .unwrap();
    assert!(server.address("a").is_some());
    assert_ne!(server.status_address().unwrap().port(), 0);
    assert!(matches!(server.apply([("a.yaml", endpoint("a"))]).await, Err(ServerError::NotInMemory)));
    server.shutdown().await.unwrap();
}

/// Threads and descriptors of this process that belong to a server.
fn footprint() -> (usize, usize) {
    let threads = std::fs::read_dir("/proc/self/task").unwrap().flatten();
    let names = threads.filter_map(|thread| std::fs::read_to_string(thread.path().join("comm")).ok());
    let own = names.filter(|name| name.starts_with("weir-")).count();
    (own, std::fs::read_dir("/proc/self/fd").unwrap().count())
}

#[test]
#[ignore = "its own process: other tests run servers, too; the test beside it runs it"]
fn child_starts_and_stops_servers() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let rounds: usize = std::env::var("WEIR_EMBED_ROUNDS").map_or(60, |rounds| rounds.parse().unwrap());
    let directory = tempfile::tempdir().unwrap();
    runtime.block_on(async {
        let mut warm = None;
        for round in 0..rounds {
            let server = Server::builder().documents([("a.yaml", endpoint("a"))]).shards(2);
            let server = server.data_dir(directory.path()).start().await.unwrap();
            drop(TcpStream::connect(server.address("a").unwrap()).unwrap());
            server.shutdown().await.unwrap();
            let (threads, descriptors) = footprint();
            assert_eq!(threads, 0, "round {round}: all threads are joined");
            if round == rounds / 2 {
                warm = Some((descriptors, resident_kib()));
            }
        }
        let (descriptors, kib) = warm.unwrap();
        assert_eq!(footprint().1, descriptors, "descriptors");
        println!("{rounds} rounds: {kib} KiB resident half-way, {} KiB at the end", resident_kib());
    });
}

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn many_starts_and_stops_leave_no_thread_and_no_descriptor() {
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["embed::lifecycle::child_starts_and_stops_servers", "--ignored", "--exact", "--nocapture"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("1 passed"), "{text}");
}
