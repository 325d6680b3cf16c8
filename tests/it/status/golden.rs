//! A file of `tests/golden/status/` is a request, a line of equals signs, and the answer. `UPDATE_GOLDEN=1` rewrites the
//! answers; a new case is a file with a request.

use std::net::SocketAddr;
use std::path::Path;

use super::client::{self, Answered};
use super::fake;

const RULE: &str = "====\n";

#[tokio::test]
async fn answers_equal_the_golden_files() {
    let fake = fake::Fake::new();
    let server = fake::serve(&fake);
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/status");
    let mut wrong = Vec::new();
    let mut count = 0;
    for file in std::fs::read_dir(&directory).unwrap() {
        let path = file.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let (request, expected) = text.split_once(RULE).unwrap_or((&text, ""));
        let answer = shown(&send(server.local_addr(), request).await, server.local_addr());
        count += 1;
        if update {
            std::fs::write(&path, format!("{request}{RULE}{answer}")).unwrap();
        } else if answer != expected {
            let diff = similar::TextDiff::from_lines(expected, &answer).unified_diff().to_string();
            wrong.push(format!("{}:\n{diff}", path.display()));
        }
    }
    assert!(count > 20, "the golden files were not found");
    assert!(wrong.is_empty(), "{}\n(UPDATE_GOLDEN=1 rewrites them)", wrong.join("\n"));
    server.shutdown().await;
}

/// `METHOD target`, header lines, an empty line, a body.
async fn send(addr: SocketAddr, request: &str) -> Answered {
    let (head, body) = request.split_once("\n\n").unwrap_or((request.trim_end(), ""));
    let mut lines = head.lines();
    let (method, target) = lines.next().unwrap().split_once(' ').unwrap();
    let headers: Vec<(&str, &str)> = lines.map(|line| line.split_once(": ").unwrap()).collect();
    client::request(addr, method, target, &headers, body).await
}

/// What of an answer is the contract: not the date, nor the bytes' number and digest, nor what this machine has.
fn shown(answer: &Answered, addr: SocketAddr) -> String {
    let mut text = format!("{}\n", answer.status);
    for (name, value) in &answer.headers {
        match name.as_str() {
            "date" | "content-length" | "connection" => {}
            "content-security-policy" | "x-content-type-options" | "referrer-policy" => {}
            "etag" => text.push_str("etag: (present)\n"),
            _ => text.push_str(&format!("{name}: {value}\n")),
        }
    }
    text.push('\n');
    let json = answer.header("content-type").is_some_and(|kind| kind == "application/json");
    if json && !answer.body.is_empty() {
        text.push_str(&serde_json::to_string_pretty(&answer.json()).unwrap());
        text.push('\n');
    } else {
        let body = answer.text().lines().filter(|line| !line.starts_with("process_"));
        body.for_each(|line| text.push_str(&format!("{line}\n")));
    }
    text.replace(&addr.to_string(), "STATUS")
}
