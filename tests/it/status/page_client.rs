//! The page's MQTT client in a real Chromium, against the built broker.

use std::io::Write;
use std::process::Stdio;

use serde_json::json;

use super::browser::Browser;
use crate::support::ports;
use crate::support::weir::{self, Weir};

const HOSTILE: &str = "<img src=x onerror=\"window.executed=true\">\u{202e}x";
const ENTER: &str = "\u{E007}";

/// A broker with the user `alice`, and an endpoint over WebSocket with more `fields`.
fn broker(fields: &str) -> Weir {
    let address = ports::free_address();
    let mut broker = Weir::new().with_status().with_shards(2);
    let users = broker.endpoints().join("users.passwd");
    let mut passwd = weir::command()
        .arg("passwd")
        .arg(&users)
        .arg("alice")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    passwd.stdin.take().unwrap().write_all(b"correct-horse\n").unwrap();
    assert!(passwd.wait().unwrap().success());
    let port = address.port();
    broker.write(
        "web.yaml",
        &format!(
            r##"auth: {{name: default, chain: [{{passwordFile: {{file: users.passwd}}}}]}}
---
acl: {{name: default, rules: [{{permission: deny, topics: ["secret/#"]}}, {{permission: allow, topics: ["#"]}}]}}
---
endpoint: {{name: web, host: 127.0.0.1, port: {port}, useWebsocket: true{fields}}}
"##
        ),
    );
    broker.run_until_accepting(&[address]);
    broker
}

/// A browser at the page for the endpoint, found from the endpoint's own page.
async fn open(broker: &Weir) -> Browser {
    let browser = Browser::start().await;
    browser.open(&format!("{}/#/endpoint/web", broker.status_url())).await;
    browser.until("document.querySelector('#endpoint-page a[href^=\"/client?\"]')").await;
    browser.evaluate("document.querySelector('#endpoint-page a[href^=\"/client?\"]').click()").await;
    browser.until("document.querySelector('#client')?.hidden === false").await;
    browser
}

async fn connect(browser: &Browser, password: &str, version: &str) {
    browser.fill("#username", "alice").await;
    browser.fill("#version", version).await;
    browser.fill("#password", password).await;
    browser.keys(&[ENTER]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs chromium and chromedriver; tests/run --all runs it"]
async fn the_client_publishes_and_receives_and_a_wrong_password_shows_the_reason() {
    let broker = broker("");
    let browser = open(&broker).await;
    let received = "document.querySelector('#messages').textContent";
    for (version, code) in [("5", "0x86"), ("4", "0x0")] {
        connect(&browser, "wrong-horse", version).await;
        browser.until(&format!("document.querySelector('#error').textContent.includes({code:?})")).await;
        browser.assert_fits(&format!("client-refused-{version}")).await;
        connect(&browser, "correct-horse", version).await;
        browser.until("document.querySelector('#state').textContent.includes('Connected as weir-page-')").await;
        assert_eq!(browser.evaluate("return document.activeElement.id").await, json!("filter"));

        browser.fill("#subscribe-qos", "1").await;
        for filter in ["plant/#", HOSTILE] {
            browser.fill("#filter", filter).await;
            browser.keys(&[ENTER]).await;
            let shown = filter.replace('\u{202e}', "⟨U+202E⟩");
            let granted = "[...document.querySelectorAll('#subscriptions li')].some((each) => \
                           each.textContent.startsWith(SHOWN) && each.textContent.includes('QoS 1'))";
            let granted = granted.replace("SHOWN", &format!("{shown:?}"));
            browser.until(&granted).await;
        }
        browser.fill("#payload", "21.5 °C").await;
        browser.fill("#publish-qos", "1").await;
        for topic in ["plant/temperature", HOSTILE] {
            browser.fill("#topic", topic).await;
            browser.keys(&[ENTER]).await;
            browser.until("document.querySelector('#publish-note').textContent.includes('acknowledged')").await;
        }
        browser.until(&format!("{received}.includes('<img src=x') && {received}.includes('⟨U+202E⟩')")).await;
        browser.until(&format!("{received}.includes('plant/temperature') && {received}.includes('21.5 °C')")).await;
        browser.assert_fits(&format!("client-{version}")).await;
        browser.assert_accessible().await;
        browser.assert_focus_is_visible(12).await;
        browser.evaluate("document.querySelector('#disconnect-button').click()").await;
        browser.until("document.querySelector('#state').textContent.includes('Not connected')").await;
        assert_eq!(browser.evaluate("return document.activeElement.id").await, json!("connect-button"));
    }
    let executed = "return [window.executed ?? null, document.querySelectorAll('main img').length]";
    assert_eq!(browser.evaluate(executed).await, json!([null, 0]));
    browser.assert_silent().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs chromium and chromedriver; tests/run --all runs it"]
async fn a_message_that_the_access_list_denies_is_reported_and_a_retained_one_is_in_the_tree() {
    let broker = broker("");
    let browser = open(&broker).await;
    connect(&browser, "correct-horse", "5").await;
    browser.until("document.querySelector('#state').textContent.includes('Connected as')").await;
    browser.fill("#filter", "secret/#").await;
    browser.keys(&[ENTER]).await;
    browser
        .until("document.querySelector('#subscribe-note').textContent.includes('failed: not authorized (0x87)')")
        .await;
    browser.fill("#publish-qos", "1").await;
    browser.fill("#topic", "secret/plan").await;
    browser.keys(&[ENTER]).await;
    browser
        .until("document.querySelector('#publish-note').textContent.includes('not published: not authorized (0x87)')")
        .await;
    browser.evaluate("document.querySelector('#retain').checked = true").await;
    browser.fill("#payload", "running").await;
    browser.fill("#topic", "plant/line-1").await;
    browser.keys(&[ENTER]).await;
    browser.until("document.querySelector('#publish-note').textContent.includes('plant/line-1: acknowledged')").await;

    browser.open(&format!("{}/#/topics", broker.status_url())).await;
    let plant = "[...document.querySelectorAll('#tree summary')].find((each) => each.textContent.includes('plant'))";
    browser.until(plant).await;
    browser.evaluate(&format!("{plant}.click()")).await;
    browser.until("document.querySelector('#tree').textContent.includes('running')").await;
    browser.assert_silent().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs chromium and chromedriver; tests/run --all runs it"]
async fn an_endpoint_that_does_not_accept_the_pages_origin_says_which_line_to_declare() {
    let broker = broker(", websocket: {origins: [\"https://app.example.com\"]}");
    let browser = open(&broker).await;
    let line = format!("origins: [\"https://app.example.com\", \"{}\"]", broker.status_url());
    browser.until(&format!("document.querySelector('#advice').textContent.includes({line:?})")).await;
    browser.until("document.querySelector('#advice').textContent.includes('web.yaml:5')").await;
    connect(&browser, "correct-horse", "5").await;
    browser.until("document.querySelector('#error').textContent.includes('No WebSocket opened')").await;
    browser.assert_fits("client-origin").await;
}

/// The page may connect to its endpoint, and to nothing else: neither to another port nor to another host.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs chromium and chromedriver; tests/run --all runs it"]
async fn the_security_policy_permits_one_port_of_the_host() {
    let broker = broker("");
    let browser = open(&broker).await;
    let address = browser.evaluate("return document.querySelector('#url').textContent").await;
    let address = address.as_str().unwrap();
    for (url, expected) in [(address, false), ("ws://127.0.0.1:1/mqtt", true), ("ws://127.0.0.2:8083/mqtt", true)] {
        let script = format!(
            "window.blocked = false; \
             document.addEventListener('securitypolicyviolation', () => (window.blocked = true)); \
             window.ended = false; const socket = new WebSocket({url:?}, 'mqtt'); \
             socket.onopen = socket.onerror = () => (window.ended = true);"
        );
        browser.evaluate(&script).await;
        browser.until("window.blocked || window.ended").await;
        assert_eq!(browser.evaluate("return window.blocked").await, json!(expected), "{url}");
    }
}
