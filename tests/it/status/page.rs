//! The page in a real Chromium.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use weirmq::status::{AccessOptions, Secret, StatusOptions, StatusServer};

use super::browser::Browser;
use super::fake;

const ENTER: &str = "\u{E007}";
const ESCAPE: &str = "\u{E00C}";
const TAB: &str = "\u{E004}";

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

/// A browser that shows a path of a fake broker.
async fn shown(path: &str) -> (Browser, Arc<fake::Fake>, StatusServer) {
    let mut fake = fake::Fake::new();
    let clients = &mut Arc::get_mut(&mut fake).unwrap().clients;
    // It would be read as "pumpexe.jpg".
    clients[3].client_id = "pump\u{202e}gpj.exe".to_owned();
    clients[2].client_id = "<img src=x onerror=\"window.executed = true\">".to_owned();
    clients[1].username = Some("x".repeat(3000));
    clients[0].client_id = format!("line\nbell\u{7}{}", "w".repeat(3000));
    *fake.now.lock().unwrap() = fake::NOW;
    let server = fake::serve(&fake);
    let browser = Browser::start().await;
    browser.open(&format!("http://{}{path}", server.local_addr())).await;
    (browser, fake, server)
}

async fn text(browser: &Browser, selector: &str) -> String {
    let script = format!("return document.querySelector({selector:?})?.textContent ?? ''");
    browser.evaluate(&script).await.as_str().unwrap().to_owned()
}

/// Nothing that clients named became an element or ran.
async fn assert_nothing_executed(browser: &Browser) {
    let found = browser
        .evaluate("return [window.executed ?? null, document.querySelectorAll('main img, main script').length]")
        .await;
    assert_eq!(found, json!([null, 0]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs chromium and chromedriver; tests/run --all runs it"]
async fn the_overview_shows_problems_first_and_executes_nothing_of_its_clients() {
    let (browser, fake, server) = shown("/").await;
    let driving = drive(&fake);
    browser.until("document.querySelectorAll('#endpoint-list > .endpoint').length === 8").await;
    browser.until("document.querySelector('#connection').textContent.includes('live')").await;
    browser.until("document.querySelector('#verdict').textContent.includes('endpoint down')").await;
    browser.until("document.querySelector('#problem-list').textContent.includes('did you mean `port`?')").await;
    browser.until("!document.querySelector('#slow').hidden").await;
    let titles = "[...document.querySelectorAll('#overview h2')].filter((each) => each.offsetParent).map((each) => each.textContent)";
    let titles = browser.evaluate(&format!("return {titles}.slice(1, 4)")).await;
    assert_eq!(titles, json!(["Problems", "Slow consumers", "Endpoints"]));
    assert!(text(&browser, "#problem-list li").await.contains("endpoints.d/"), "with file and line");

    browser.until("document.querySelector('#clients').textContent.includes('<img src=x onerror=')").await;
    let clients = text(&browser, "#clients").await;
    for shown in ["pump⟨U+202E⟩gpj.exe", "line⟨U+000A⟩bell⟨U+0007⟩", "3010 characters"] {
        assert!(clients.contains(shown), "{shown}: {clients}");
    }
    assert_nothing_executed(&browser).await;

    browser.until("document.querySelectorAll('#plots path').length === 3").await;
    browser.until("document.querySelector('[data-key=mqtt] .rates').textContent.includes('in,')").await;
    browser.evaluate("document.querySelector('#history-list details').open = true").await;
    browser.until("document.querySelector('#history-list .minus').textContent === '-  port: 8083'").await;
    // Short on one line, whole as the title.
    let revision =
        "const shown = document.querySelector('.tiles .rev'); return [shown.title, getComputedStyle(shown).whiteSpace]";
    assert_eq!(browser.evaluate(revision).await, json!(["0badc0ffee00", "nowrap"]));

    browser.assert_fits("overview").await;
    browser.assert_accessible().await;
    browser.assert_focus_is_visible(25).await;
    browser.assert_silent().await;
    driving.abort();
    server.shutdown().await;
    browser.until("document.querySelector('#connection').textContent.includes('no answer')").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs chromium and chromedriver; tests/run --all runs it"]
async fn the_keyboard_opens_an_endpoint_and_a_client_and_escape_closes_the_client() {
    let (browser, fake, server) = shown("/").await;
    browser.until("document.querySelectorAll('#endpoint-list > .endpoint').length === 8").await;
    browser.keys(&[TAB]).await;
    assert_eq!(browser.evaluate("return document.activeElement.className").await, json!("skip"));
    browser.keys(&[ENTER]).await;
    browser.until("document.activeElement.id === 'main'").await;

    browser.evaluate("document.querySelector('[data-key=\"tls-a\"] a').focus()").await;
    browser.keys(&[ENTER]).await;
    browser
        .until("!document.querySelector('#endpoint').hidden && document.activeElement.id === 'endpoint-title'")
        .await;
    browser.until("document.title.startsWith('tls-a – Weir')").await;
    browser.until("document.querySelectorAll('#endpoint-page tr.differs').length === 3").await;
    let page = text(&browser, "#endpoint-page").await;
    for part in [
        "endpoints.d/tls-a.yaml:2",
        "certificate expired",
        "Conditions",
        "maxConnectionSize",
        "No bridge uses this endpoint",
    ] {
        assert!(page.contains(part), "{part}: {page}");
    }
    // A change is seen without a reload.
    fake.change(|state| {
        for endpoint in &mut state.endpoints {
            if endpoint.name == "tls-a" {
                endpoint.live.clone_from(&endpoint.declared);
            }
        }
    });
    browser.until("document.querySelectorAll('#endpoint-page tr.differs').length === 0").await;

    browser.evaluate("location.hash = '#/endpoint/mqtt'").await;
    browser.until("document.querySelector('#endpoint-page .opener')").await;
    browser.until("document.querySelector('#endpoint-page').textContent.includes('mqtt://b.example.com:1883')").await;
    browser.until("document.querySelector('#endpoint-page').textContent.includes('dashboard')").await;
    let order = "[...document.querySelectorAll('#endpoint-page h3')].filter((each) => each.offsetParent).map((each) => each.textContent)";
    assert_eq!(
        browser.evaluate(&format!("return {order}.slice(0, 2)")).await,
        json!(["Slow consumers", "Errors since start"])
    );
    browser.evaluate("document.querySelector('#endpoint-page .opener').focus()").await;
    browser.keys(&[ENTER]).await;
    browser.until("document.querySelector('.client-detail')?.textContent.includes('sensor/+/temp')").await;
    browser.assert_fits("endpoint").await;
    browser.assert_accessible().await;
    browser.evaluate("document.querySelector('#endpoint-page .opener').focus()").await;
    browser.keys(&[ESCAPE]).await;
    browser.until("!document.querySelector('.client-detail') && document.activeElement.className === 'opener'").await;
    browser.assert_focus_is_visible(20).await;

    browser.evaluate("location.hash = '#/endpoint/' + encodeURIComponent('site/spare')").await;
    browser
        .until("document.querySelector('#endpoint-page .banner.bad')?.textContent.includes('in use by process 4711')")
        .await;
    browser.assert_fits("endpoint-down").await;
    browser.assert_silent().await;
    browser.evaluate("location.hash = '#/endpoint/' + encodeURIComponent('<img src=x onerror=alert(1)>')").await;
    browser
        .until("document.querySelector('#endpoint-page .banner.bad')?.textContent.includes('no endpoint is named')")
        .await;
    assert_nothing_executed(&browser).await;
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs chromium and chromedriver; tests/run --all runs it"]
async fn the_topic_tree_is_read_level_by_level_and_shows_the_last_values() {
    let (browser, _fake, server) = shown("/#/topics").await;
    let summary = |name: &str| {
        format!(
            "[...document.querySelectorAll('#tree summary')].find((each) => each.querySelector('code').textContent === {name:?})"
        )
    };
    browser.until(&format!("{}?.textContent.includes('/')", summary("plant"))).await;
    let tree = text(&browser, "#tree").await;
    for name in ["<img src=x onerror=alert(1)>", "pump⟨U+202E⟩gpj.exe", "$SYS"] {
        assert!(tree.contains(name), "{name}: {tree}");
    }
    assert_nothing_executed(&browser).await;

    browser.evaluate(&format!("{}.focus()", summary("plant"))).await;
    browser.keys(&[ENTER]).await;
    browser.until(&format!("{}?.textContent.includes('running')", summary("line-1"))).await;
    browser.evaluate(&format!("{}.focus()", summary("line-1"))).await;
    browser.keys(&[ENTER]).await;
    browser.until(&format!("{}?.textContent.includes('21.5')", summary("temperature"))).await;
    browser.evaluate(&format!("{}.focus()", summary("camera"))).await;
    browser.keys(&[ENTER]).await;
    browser.until("document.querySelector('#tree').textContent.includes('ff d8 ff e0')").await;
    browser.evaluate(&format!("{}.parentElement.open = true", summary("long"))).await;
    browser.until("document.querySelector('#tree').textContent.includes('5000 characters')").await;
    browser.assert_fits("topics").await;
    browser.assert_accessible().await;
    browser.assert_focus_is_visible(15).await;

    // A level of 250 topics comes in three pages.
    browser.evaluate(&format!("{}.parentElement.open = true", summary("many"))).await;
    let many = format!("{}.parentElement.querySelectorAll('li').length", summary("many"));
    for read in [100, 200, 250] {
        browser.until(&format!("{many} === {read}")).await;
        browser.evaluate(&format!("{}.parentElement.querySelector('.more button').click()", summary("many"))).await;
    }
    // Escape closes the level that has the focus.
    browser.evaluate(&format!("{}.parentElement.querySelector('li summary').focus()", summary("many"))).await;
    browser.keys(&[ESCAPE]).await;
    browser.until(&format!("!{}.parentElement.open && document.activeElement === {0}", summary("many"))).await;

    browser.fill("#topic-filter", "sensor/#").await;
    browser.keys(&[ENTER]).await;
    browser.until("document.querySelectorAll('#topic-list tbody tr').length === 2").await;
    browser.assert_silent().await;
    server.shutdown().await;
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
    browser.open(&format!("http://{}/", server.local_addr())).await;
    browser.until("!document.querySelector('#login').hidden").await;
    let endpoints = "document.querySelectorAll('#endpoint-list > .endpoint').length";
    assert_eq!(browser.evaluate(&format!("return {endpoints}")).await, json!(0));
    for (typed, outcome) in [
        (
            "wrong-horse-battery",
            "!document.querySelector('#login').hidden && document.querySelector('#token').value === ''",
        ),
        ("correct-horse-battery", &format!("{endpoints} === 8")),
    ] {
        browser.fill("#token", typed).await;
        browser.keys(&[ENTER]).await;
        browser.until(outcome).await;
    }
    browser.until("document.querySelector('#connection').textContent.includes('live')").await;
    // The other page of the tab uses the same token.
    browser.open(&format!("http://{}/client", server.local_addr())).await;
    browser.until("document.querySelector('#choice').textContent.includes('Choose an endpoint')").await;
    assert_eq!(browser.evaluate("return document.querySelector('#login').hidden").await, json!(true));
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs chromium and chromedriver; tests/run --all runs it"]
async fn empty_lists_say_what_to_do() {
    let fake = fake::Fake::new();
    fake.change(|state| {
        state.endpoints.clear();
        Arc::make_mut(&mut state.history).clear();
        state.diagnostics = Arc::from([]);
    });
    let server = fake::serve(&fake);
    let browser = Browser::start().await;
    browser.open(&format!("http://{}/", server.local_addr())).await;
    browser
        .until(
            "document.querySelector('#endpoint-list').textContent.includes('Add a document to /etc/weir/endpoints.d')",
        )
        .await;
    browser.until("document.querySelector('#history-list').textContent.includes('Commit a document')").await;
    browser.assert_fits("empty").await;
    browser.open(&format!("http://{}/client", server.local_addr())).await;
    browser.until("document.querySelector('#choice').textContent.includes('useWebsocket: true')").await;
    assert_eq!(browser.evaluate("return document.querySelector('#client').hidden").await, Value::Bool(true));
    browser.assert_accessible().await;
    browser.assert_silent().await;
    server.shutdown().await;
}
