//! The page in a real Chromium, over WebDriver. `WEIR_SCREENSHOTS=DIR` keeps screenshots.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};
use weirmq::status::{AccessOptions, Secret, StatusOptions};

use super::fake;
use crate::support::child::ChildGuard;

/// A chromedriver and its one session; both end with it.
struct Browser {
    _driver: ChildGuard,
    session: String,
    _profile: tempfile::TempDir,
}

impl Browser {
    async fn start() -> Self {
        let mut driver = ChildGuard::spawn(Command::new("chromedriver").arg("--port=0").stdout(Stdio::piped()));
        // "ChromeDriver was started successfully on port 38383."
        let port = BufReader::new(driver.take_stdout())
            .lines()
            .map_while(Result::ok)
            .find_map(|line| line.strip_prefix("ChromeDriver was started successfully on port ").map(str::to_owned))
            .expect("chromedriver says its port");
        let base = format!("http://127.0.0.1:{}", port.trim_end_matches('.'));
        let profile = tempfile::tempdir().unwrap();
        let args = [
            "--headless".to_owned(),
            "--no-sandbox".to_owned(),
            "--disable-gpu".to_owned(),
            "--disable-quic".to_owned(),
            "--no-first-run".to_owned(),
            "--disable-background-networking".to_owned(),
            "--disable-component-update".to_owned(),
            "--disable-sync".to_owned(),
            "--disable-dev-shm-usage".to_owned(),
            "--window-size=1280,1000".to_owned(),
            format!("--user-data-dir={}", profile.path().display()),
        ];
        let options = json!({"goog:chromeOptions": {"args": args}, "goog:loggingPrefs": {"browser": "ALL"}});
        let asked = json!({"capabilities": {"alwaysMatch": options}});
        let answer = send(&format!("{base}/session"), &asked).await;
        let id = answer["sessionId"].as_str().unwrap_or_else(|| panic!("no session: {answer}")).to_owned();
        Self { _driver: driver, session: format!("{base}/session/{id}"), _profile: profile }
    }

    async fn post(&self, command: &str, body: Value) -> Value {
        send(&format!("{}/{command}", self.session), &body).await
    }

    async fn evaluate(&self, script: &str) -> Value {
        self.post("execute/sync", json!({"script": script, "args": []})).await
    }

    /// Waits until `condition` (an expression) is true.
    async fn until(&self, condition: &str) {
        for _ in 0..300 {
            if self.evaluate(&format!("return Boolean({condition})")).await == json!(true) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let text = self.evaluate("return document.body.innerText").await;
        panic!("it never came true that {condition}; the page says {text}");
    }

    async fn devtools(&self, command: &str, parameters: Value) -> Value {
        self.post("goog/cdp/execute", json!({"cmd": command, "params": parameters})).await
    }

    /// The keys go to whatever has the focus.
    async fn keys(&self, keys: &[&str]) {
        for key in keys {
            let actions = json!([{"type": "keyDown", "value": key}, {"type": "keyUp", "value": key}]);
            self.post("actions", json!({"actions": [{"type": "key", "id": "keyboard", "actions": actions}]})).await;
        }
    }

    async fn screenshot(&self, name: &str) {
        let Some(directory) = std::env::var_os("WEIR_SCREENSHOTS") else { return };
        let picture = self.devtools("Page.captureScreenshot", json!({"captureBeyondViewport": true})).await;
        let path = std::path::Path::new(&directory).join(format!("{name}.png.base64"));
        std::fs::write(path, picture["data"].as_str().unwrap()).unwrap();
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let session = self.session.clone();
        // Asks the driver to close the browser; the guard ends the driver.
        let end = format!("curl -s -X DELETE {session} >/dev/null");
        let _ = Command::new("sh").args(["-c", &end]).status();
    }
}

async fn send(url: &str, body: &Value) -> Value {
    let client = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
    let request = hyper::Request::post(url).body(Full::new(Bytes::from(body.to_string()))).unwrap();
    let answer = client.request(request).await.unwrap().into_body().collect().await.unwrap().to_bytes();
    let answer: Value = serde_json::from_slice(&answer).unwrap();
    assert!(answer["value"].get("error").is_none(), "{url}: {}", answer["value"]["message"]);
    answer["value"].clone()
}

/// Moves the fake broker's clock and counters on, as a busy one's would.
fn drive(fake: &Arc<fake::Fake>) -> tokio::task::JoinHandle<()> {
    let fake = fake.clone();
    tokio::spawn(async move {
        for step in 0_u64.. {
            {
                let mut now = fake.now.lock().unwrap();
                *now = now.plus_ms(100);
                let mut traffic = fake.traffic.lock().unwrap();
                let wave = 60 + (step % 70) + if (step / 90) % 2 == 0 { 40 } else { 0 };
                let mqtt = traffic.endpoints.get_mut("mqtt").unwrap();
                mqtt.messages_received += wave / 4;
                mqtt.messages_sent += wave;
                mqtt.connections = 17 + (step / 40) % 9;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs chromium and chromedriver; tests/run --all runs it"]
async fn the_page_shows_the_broker_and_executes_nothing_of_its_clients() {
    let mut fake = fake::Fake::new();
    // It would be read as "pumpexe.jpg".
    Arc::get_mut(&mut fake).unwrap().clients[3].client_id = "pump\u{202e}gpj.exe".to_owned();
    *fake.now.lock().unwrap() = fake::NOW;
    let server = fake::serve(&fake);
    let driving = drive(&fake);
    let browser = Browser::start().await;
    browser.post("url", json!({"url": format!("http://{}/", server.local_addr())})).await;

    browser.until("document.querySelectorAll('#endpoint-list > details').length === 8").await;
    browser.until("document.querySelector('#connection').textContent.includes('live')").await;
    browser.until("document.querySelector('#verdict').textContent.includes('An endpoint is down')").await;
    // A client whose id is markup is shown, not obeyed.
    browser.until("document.querySelector('#client-rows').textContent.includes('<script>alert(1)</script>')").await;
    assert_eq!(browser.evaluate("return document.querySelectorAll('#client-rows script').length").await, json!(0));
    // By keyboard: a client opens in place.
    browser.evaluate("document.querySelector('.opener').focus()").await;
    browser.keys(&["\u{E007}"]).await;
    browser.until("document.querySelector('.client-detail')?.textContent.includes('sensor/+/temp')").await;
    browser.until("document.querySelector('#client-rows').textContent.includes('pump⟨U+202E⟩gpj.exe')").await;
    browser.until("document.querySelector('#verdict').textContent.includes('site/spare')").await;
    browser.until("document.querySelector('#diagnostic-list').textContent.includes('did you mean `port`?')").await;
    browser.until("document.querySelectorAll('#plots path').length === 3 && document.querySelectorAll('[data-key=mqtt] path').length === 2").await;

    browser.until("document.querySelector('[data-key=mqtt] .rates').textContent.includes('in,')").await;

    // By keyboard: the focus goes to the first endpoint, Enter opens it.
    browser.evaluate("document.querySelector('#endpoint-list summary').focus()").await;
    browser.keys(&["\u{E007}"]).await;
    browser.until("document.querySelector('#endpoint-list details').open").await;
    browser.evaluate("document.querySelector('[data-key=\"tls-a\"]').open = true").await;
    browser.until("document.querySelectorAll('[data-key=\"tls-a\"] tr.differs').length === 3").await;
    browser.evaluate("document.querySelector('#history-list details').open = true").await;
    browser.until("document.querySelector('#history-list .minus').textContent === '-  port: 8083'").await;

    // A change is seen without a reload, and what was open stays open.
    fake.change(|state| {
        for endpoint in &mut state.endpoints {
            if endpoint.name == "tls-a" {
                endpoint.live.clone_from(&endpoint.declared);
            }
        }
    });
    browser.until("document.querySelectorAll('[data-key=\"tls-a\"] tr.differs').length === 0").await;
    assert_eq!(browser.evaluate("return document.querySelector('[data-key=\"tls-a\"]').open").await, json!(true));

    pictures(&browser).await;
    assert_nothing_overflows(&browser).await;
    let log = browser.post("se/log", json!({"type": "browser"})).await;
    assert_eq!(log, json!([]), "the console is not silent");

    driving.abort();
    server.shutdown().await;
    browser.until("document.querySelector('#connection').textContent.includes('no answer')").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs chromium and chromedriver; tests/run --all runs it"]
async fn a_guarded_page_asks_for_the_token() {
    let secret = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(secret.path(), "correct-horse-battery").unwrap();
    let token = Some(Secret::File(secret.path().to_owned()));
    let access = AccessOptions { token, ..AccessOptions::default() };
    let server = fake::serve_with(&fake::Fake::new(), StatusOptions { access, ..StatusOptions::default() });
    let browser = Browser::start().await;
    browser.post("url", json!({"url": format!("http://{}/", server.local_addr())})).await;
    browser.until("!document.querySelector('#login').hidden").await;
    assert_eq!(browser.evaluate("return document.querySelectorAll('#endpoint-list > details').length").await, json!(0));
    for (typed, outcome) in [
        (
            "wrong-horse-battery",
            "!document.querySelector('#login').hidden && document.querySelector('#token').value === ''",
        ),
        ("correct-horse-battery", "document.querySelectorAll('#endpoint-list > details').length === 8"),
    ] {
        let script = format!(
            "document.querySelector('#token').value = '{typed}'; document.querySelector('#login').requestSubmit()"
        );
        browser.evaluate(&script).await;
        browser.until(outcome).await;
    }
    browser.until("document.querySelector('#connection').textContent.includes('live')").await;
    server.shutdown().await;
}

/// On a phone's screen nothing is wider than the screen.
async fn assert_nothing_overflows(browser: &Browser) {
    let phone = json!({"width": 360, "height": 800, "deviceScaleFactor": 1, "mobile": true});
    browser.devtools("Emulation.setDeviceMetricsOverride", phone).await;
    browser.screenshot("phone").await;
    // A page that is too wide makes Chromium zoom out, which widens both.
    let widths = browser.evaluate("return [document.documentElement.scrollWidth, innerWidth]").await;
    assert_eq!(widths, json!([360, 360]), "the page is wider than the screen");
    browser.devtools("Emulation.clearDeviceMetricsOverride", json!({})).await;
}

async fn pictures(browser: &Browser) {
    for scheme in ["light", "dark"] {
        let features = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        browser.devtools("Emulation.setEmulatedMedia", features).await;
        browser.screenshot(scheme).await;
    }
}
