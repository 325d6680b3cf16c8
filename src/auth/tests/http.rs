use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

/// A service that answers each question with what `answer` makes of it, and remembers the questions.
struct TestService {
    url: String,
    questions: Arc<Mutex<Vec<String>>>,
}

impl TestService {
    fn start(answer: impl Fn(&str) -> String + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/auth", listener.local_addr().unwrap());
        let questions: Arc<Mutex<Vec<String>>> = Arc::default();
        let seen = Arc::clone(&questions);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let question = read_request(&mut stream);
                let answer = answer(&question);
                seen.lock().unwrap().push(question);
                // The broker may have given up.
                let _ = stream.write_all(answer.as_bytes());
            }
        });
        Self { url, questions }
    }

    fn asked(&self) -> usize {
        self.questions.lock().unwrap().len()
    }
}

fn read_request(stream: &mut impl Read) -> String {
    let mut text = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let count = stream.read(&mut buffer).unwrap_or(0);
        text.extend_from_slice(&buffer[..count]);
        let shown = String::from_utf8_lossy(&text).into_owned();
        let wanted = shown.split_once("\r\n\r\n").map(|(head, body)| {
            let length =
                head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
            body.len() >= length.unwrap_or(0)
        });
        if count == 0 || wanted == Some(true) {
            return shown;
        }
    }
}

fn response(status: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len())
}

fn chain(service: &TestService, more: &str) -> TestChain {
    let fixture = Fixture::with(&[("token", "Bearer s3cret\n")]);
    fixture.chain(&format!(
        "{{chain: [{{http: {{url: \"{}\", headers: {{authorization: \"file:token\"}} {more}}}}}], \
         rateLimit: {{maxFailures: 1000, windowS: 60}}}}",
        service.url
    ))
}

#[test]
fn only_a_clear_answer_admits_a_client() {
    let cases = [
        ("200 OK", r#"{"result": "allow"}"#, "in as alice"),
        ("200 OK", r#"{"result": "allow", "username": "alias"}"#, "in as alias"),
        ("200 OK", r#"{"result": "allow", "expiresAt": 4102444800}"#, "in as alice"),
        ("200 OK", r#"{"result": "allow", "expiresAt": 1000}"#, "BadCredentials"),
        ("200 OK", r#"{"result": "allow", "acl": {"pub": ["a/#"]}}"#, "in as alice"),
        ("200 OK", r#"{"result": "allow", "acl": "all"}"#, "BadCredentials"),
        ("200 OK", r#"{"result": "deny"}"#, "BadCredentials"),
        ("200 OK", r#"{"result": "ignore"}"#, "BadCredentials"),
        ("204 No Content", "", "BadCredentials"),
        ("401 Unauthorized", "", "BadCredentials"),
        ("403 Forbidden", r#"{"result": "allow"}"#, "BadCredentials"),
        ("200 OK", r#"{"result": "Allow"}"#, "Unavailable"),
        ("200 OK", r#"{"result": true}"#, "Unavailable"),
        ("200 OK", r#"{"result": "allow", "username": ""}"#, "Unavailable"),
        ("200 OK", r#"{"result": "allow", "username": 7}"#, "Unavailable"),
        ("200 OK", r#"["allow"]"#, "Unavailable"),
        ("200 OK", "allow", "Unavailable"),
        ("200 OK", "", "Unavailable"),
        ("201 Created", r#"{"result": "allow"}"#, "Unavailable"),
        ("302 Found", r#"{"result": "allow"}"#, "Unavailable"),
        ("400 Bad Request", "", "BadCredentials"),
        ("404 Not Found", r#"{"result": "allow"}"#, "BadCredentials"),
        ("422 Unprocessable Content", r#"{"result": "allow"}"#, "BadCredentials"),
        ("408 Request Timeout", "", "Unavailable"),
        ("429 Too Many Requests", "", "Unavailable"),
        ("503 Service Unavailable", "", "Unavailable"),
        ("500 Oops", r#"{"result": "allow"}"#, "Unavailable"),
    ];
    for (status, body, expected) in cases {
        let service = TestService::start(move |_| response(status, body));
        assert_eq!(chain(&service, "").answer(&user("alice", "secret")), expected, "{status} {body}");
    }
    let garbage = TestService::start(|_| "garbage\r\n\r\n".into());
    assert_eq!(chain(&garbage, "").answer(&user("alice", "secret")), "Unavailable");
    let endless = TestService::start(|_| response("200 OK", &" ".repeat(1 << 20)));
    assert_eq!(chain(&endless, "").answer(&user("alice", "secret")), "Unavailable");
}

#[test]
fn requests_carry_the_client_fields_and_the_declared_headers() {
    let service = TestService::start(|_| response("200 OK", r#"{"result": "allow"}"#));
    let login = Login { password: Some(vec![0xFF, 0x00]), ..user("alice & bob", "") };
    chain(&service, "").answer(&user("alice & bob", "p\"w"));
    chain(&service, "").answer(&login);
    chain(&service, ", method: GET").answer(&user("alice & bob", "p w"));
    let fields = ", fields: {user: \"${username}\", key: \"${clientid}@${address}\", cn: \"${certificatecommonname}\", fix: \"1\"}";
    chain(&service, fields).answer(&user("alice", "secret"));
    let questions = service.questions.lock().unwrap();
    let has = |index: usize, text: &str| assert!(questions[index].contains(text), "{text}: {}", questions[index]);
    has(0, "POST /auth HTTP/1.1");
    has(0, "authorization: Bearer s3cret");
    has(0, r#""clientId":"c1","username":"alice & bob","password":"p\"w","address":"192.0.2.1","protocol":"5.0""#);
    has(1, r#""passwordBase64":"/wA=""#);
    has(3, r#"{"fix":"1","key":"c1@192.0.2.1","user":"alice"}"#);
    has(2, "GET /auth?endpoint=e&clientId=c1&username=alice%20%26%20bob&password=p%20w&address=192.0.2.1");
}

#[test]
fn a_service_that_does_not_answer_denies_clients_and_opens_the_circuit() {
    let hanging = TestService::start(|_| {
        std::thread::sleep(std::time::Duration::from_secs(2));
        String::new()
    });
    let breaker = ", timeoutMs: 50, circuitBreaker: {failures: 2, openS: 60}";
    let hanging_chain = chain(&hanging, breaker);
    let gone = TestService { url: "http://127.0.0.1:1/".into(), questions: Arc::default() };
    let gone_chain = chain(&gone, breaker);
    for _ in 0..4 {
        assert_eq!(hanging_chain.answer(&user("alice", "secret")), "Unavailable");
        assert_eq!(gone_chain.answer(&user("alice", "secret")), "Unavailable");
    }
    // The first is still being answered; the third and fourth never went out.
    assert!(hanging.asked() <= 2, "{}", hanging.asked());
}

/// The attack: CONNECTs that the service answers with 422 opened the circuit, and no client was admitted meanwhile.
#[test]
fn statuses_and_nonsense_about_one_client_do_not_open_the_circuit() {
    let cases = [
        "400 Bad Request",
        "404 Not Found",
        "422 Unprocessable Content",
        "429 Too Many Requests",
        "302 Found",
        "200 OK",
    ];
    for status in cases {
        let service = TestService::start(move |request| {
            let good = request.contains(r#""password":"secret""#);
            if good { response("200 OK", r#"{"result": "allow"}"#) } else { response(status, "") }
        });
        let chain = chain(&service, ", circuitBreaker: {failures: 2, openS: 60}");
        for number in 0..5 {
            let refused = chain.log_in(&Login { password: None, ..user(&format!("user{number}"), "") });
            assert!(refused.is_err(), "{status}");
        }
        assert_eq!((chain.answer(&user("alice", "secret")), service.asked()), ("in as alice".into(), 6), "{status}");
    }
}

#[test]
fn a_denying_status_counts_as_a_failure_of_its_client() {
    let service = TestService::start(|_| response("422 Unprocessable Content", ""));
    let chain = Fixture::default().chain(&format!(
        "{{chain: [{{http: {{url: \"{}\"}}}}], rateLimit: {{maxFailures: 2, windowS: 60}}}}",
        service.url
    ));
    let answers: Vec<_> = (0..3).map(|_| chain.answer(&user("alice", "x"))).collect();
    assert_eq!(
        (answers, service.asked()),
        (vec!["BadCredentials".into(), "BadCredentials".into(), "RateExceeded".to_owned()], 2)
    );
}

/// A client that sends what fits into no request costs itself, not the service's circuit.
#[test]
fn a_request_that_cannot_be_made_denies_its_client() {
    let service = TestService::start(|_| response("200 OK", r#"{"result": "allow"}"#));
    let chain = chain(&service, ", method: GET, circuitBreaker: {failures: 1, openS: 60}");
    for _ in 0..3 {
        assert_eq!(chain.answer(&user(&"x".repeat(65_535), "secret")), "BadCredentials");
    }
    assert_eq!((chain.answer(&user("alice", "secret")), service.asked()), ("in as alice".into(), 1));
}

#[test]
fn timeouts_of_one_address_do_not_close_the_service_to_others() {
    let service = TestService::start(|request| {
        if request.contains("slow") {
            std::thread::sleep(std::time::Duration::from_millis(700));
        }
        response("200 OK", r#"{"result": "allow"}"#)
    });
    let chain = chain(&service, ", timeoutMs: 500, circuitBreaker: {failures: 2, openS: 60}");
    let at =
        |address: &str, login: Login| Login { peer: Some(SocketAddr::new(address.parse().unwrap(), 4000)), ..login };
    for _ in 0..3 {
        assert_eq!(chain.answer(&at("198.51.100.1", user("slow", "x"))), "Unavailable");
    }
    std::thread::sleep(std::time::Duration::from_millis(600));
    assert_eq!(chain.answer(&at("198.51.100.1", user("alice", "secret"))), "Unavailable", "its own circuit is open");
    assert_eq!(chain.answer(&at("198.51.100.2", user("alice", "secret"))), "in as alice");
}

/// A user name that the service did not get is not confirmed by its answer.
#[test]
fn a_service_that_gets_no_user_name_confirms_none() {
    let cases = [
        ("", r#"{"result": "allow"}"#, "in as admin"),
        (", fields: {user: \"${username}\", password: \"${password}\"}", r#"{"result": "allow"}"#, "in as admin"),
        (", fields: {user: \"id-${USERNAME}\"}", r#"{"result": "allow"}"#, "in as admin"),
        (", fields: {token: \"${password}\"}", r#"{"result": "allow"}"#, "in as anonymous"),
        (", fields: {token: \"${password}\"}", r#"{"result": "allow", "username": "device"}"#, "in as device"),
    ];
    for (fields, answer, expected) in cases {
        let service = TestService::start(move |_| response("200 OK", answer));
        assert_eq!(chain(&service, fields).answer(&user("admin", "secret")), expected, "{fields} {answer}");
    }
}

#[test]
fn answers_are_cached_for_identical_requests_only() {
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    let service = TestService::start(move |question| {
        counted.fetch_add(1, Ordering::SeqCst);
        let right = question.contains(r#""password":"secret""#);
        response("200 OK", if right { r#"{"result": "allow"}"# } else { r#"{"result": "deny"}"# })
    });
    let kept = chain(&service, ", cacheTtlS: 60");
    let asked = |chain: &TestChain, login: &Login| (chain.answer(login), count.swap(0, Ordering::SeqCst));
    let alice = user("alice", "secret");
    assert_eq!(asked(&kept, &alice), ("in as alice".into(), 1));
    assert_eq!(asked(&kept, &alice), ("in as alice".into(), 0));
    assert_eq!(asked(&kept, &user("alice", "guess")), ("BadCredentials".into(), 1));
    assert_eq!(asked(&kept, &user("alice", "guess")), ("BadCredentials".into(), 0));
    assert_eq!(asked(&kept, &Login { client_id: "c2", ..alice.clone() }), ("in as alice".into(), 1));
    assert_eq!(asked(&kept, &Login { peer: None, ..alice.clone() }), ("in as alice".into(), 1));
    let not_kept = chain(&service, "");
    assert_eq!([asked(&not_kept, &alice).1, asked(&not_kept, &alice).1], [1, 1]);
}

#[test]
fn authenticators_before_and_after_the_service_are_called_in_order() {
    let ignores = TestService::start(|_| response("200 OK", r#"{"result": "ignore"}"#));
    let allows = TestService::start(|_| response("200 OK", r#"{"result": "allow"}"#));
    let fixture = Fixture::with(&[("people", ALICE_7), ("others", BOB_ARGON2ID)]);
    let chain = fixture.chain(&format!(
        "{{chain: [{{passwordFile: {{file: people}}}}, {{http: {{url: \"{}\"}}}}, {{passwordFile: {{file: others}}}}, \
         {{http: {{url: \"{}\"}}}}]}}",
        ignores.url, allows.url
    ));
    let asked = || [ignores.asked(), allows.asked()];
    assert_eq!((chain.answer(&user("alice", "secret")), asked()), ("in as alice".into(), [0, 0]));
    assert_eq!((chain.answer(&user("alice", "wrong")), asked()), ("BadCredentials".into(), [0, 0]));
    assert_eq!((chain.answer(&user("bob", "password")), asked()), ("in as bob".into(), [1, 0]));
    assert_eq!((chain.answer(&user("carol", "x")), asked()), ("in as carol".into(), [2, 1]));
}

#[test]
fn a_changed_url_makes_admitted_clients_invalid() {
    let answer = |_: &str| response("200 OK", r#"{"result": "allow"}"#);
    let (one, other) = (TestService::start(answer), TestService::start(answer));
    let principal = chain(&one, "").log_in(&user("alice", "secret")).unwrap();
    assert!(chain(&one, ", timeoutMs: 900").still_valid(&principal) && !chain(&other, "").still_valid(&principal));
}

#[test]
fn declarations_that_cannot_work_are_refused_with_a_reason() {
    let cases = [
        ("url: \"https://127.0.0.1/\"", "https needs a `caFile`"),
        ("url: \"https://127.0.0.1/\", caFile: ca", "ca contains no certificate in PEM"),
        ("url: \"ftp://127.0.0.1/\"", "is not an http or https URL"),
        ("url: \"http://u:p@127.0.0.1/\"", "must not hold a user name"),
        ("url: \"http://127.0.0.1/\", headers: {x: \"file:none\"}", "no such file"),
        ("url: \"http://127.0.0.1/\", headers: {x: \"env:WEIR_SECRET_UNSET\"}", "no variable WEIR_SECRET_UNSET"),
        ("url: \"http://127.0.0.1/\", headers: {x: \"env:HOME\"}", "--allow-env HOME"),
    ];
    for (declared, expected) in cases {
        let fixture = Fixture::with(&[("ca", "")]);
        let message = fixture.try_chain(&format!("{{chain: [{{http: {{{declared}}}}}]}}")).err().unwrap().to_string();
        assert!(message.contains(expected), "{declared}: {message}");
    }
}
