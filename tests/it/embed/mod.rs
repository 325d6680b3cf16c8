//! A server inside of a program: `weirmq::Server`.

use std::io::{Read, Write};
use std::net::TcpStream;

use weirmq::ServerHandle;

mod authenticators;
mod clients;
mod events;
mod examples;
mod interceptors;
mod lifecycle;
mod views;

/// An endpoint without authentication, on a free port.
pub(crate) fn endpoint(name: &str) -> String {
    format!("endpoint: {{name: {name}, port: 0, enableAuth: false, enableAcl: false}}")
}

/// Runs blocking code of a remote client beside the runtime.
async fn remote<T: Send + 'static>(run: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(run).await.unwrap()
}

/// The value of the metric whose line begins with `name`.
async fn metric(server: &ServerHandle, name: &str) -> String {
    let address = server.status_address().unwrap();
    let text = remote(move || {
        let mut stream = TcpStream::connect(address).unwrap();
        write!(stream, "GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    })
    .await;
    text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("no {name}\n{text}")).to_owned()
}
