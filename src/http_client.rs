//! The HTTP/1.1 client of the `http` authenticator, of the trace exporter and of the command line.
//!
//! It owns the pool of idle connections, the verification of TLS servers and the retry on a connection that the server
//! closed meanwhile. It follows no redirection, and bounds no time: the caller wraps each request in its own timeout.

use std::error::Error;
use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::{self, Client};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, PercentEncode, utf8_percent_encode};
use rustls::client::WantsClientCert;
use rustls::{ClientConfig, ConfigBuilder, RootCertStore};

/// An idle connection is closed after this time.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// Bounds connection attempts that no request waits for any more.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(60);

/// What [`query_value`] encodes.
pub const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

type Connections = Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

/// Sends requests over connections that it keeps. Cheap to clone; clones share the connections.
#[derive(Debug, Clone)]
pub struct HttpClient {
    pooled: Connections,
    /// For the retry: a connection of its own.
    unpooled: Connections,
}

/// Why a request has no answer.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// The name does not resolve, or no TCP connection could be made.
    #[error("{0}")]
    Connect(String),
    /// The server did not prove who it is, or speaks no TLS.
    #[error("{0}")]
    Tls(String),
    /// The connection failed, or the answer is not HTTP.
    #[error("{0}")]
    Exchange(String),
    /// The answer's body is too long, or was cut short.
    #[error("its answer cannot be read: {0}")]
    Body(String),
}

impl HttpClient {
    /// `tls` verifies the servers of `https` URLs; without it, they all fail. At most `idle_max` idle connections are
    /// kept for each server.
    ///
    /// # Errors
    /// The crypto provider supports no version of TLS.
    pub fn new(tls: Option<ClientConfig>, idle_max: usize) -> Result<Self, rustls::Error> {
        let tls = match tls {
            Some(tls) => tls,
            None => tls_trusting(RootCertStore::empty())?.with_no_client_auth(),
        };
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false); // https comes here, too
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
        let connector = HttpsConnector::from((tcp, Arc::new(tls)));
        let client = |idle_max| {
            let mut builder = Client::builder(TokioExecutor::new());
            builder.pool_timer(TokioTimer::new()).pool_idle_timeout(IDLE_TIMEOUT).pool_max_idle_per_host(idle_max);
            builder.build(connector.clone())
        };
        Ok(Self { pooled: client(idle_max), unpooled: client(0) })
    }

    /// Sends a request with an absolute URL. Where the connection ends before the answer begins, the request is sent once
    /// more, on a new connection: servers close idle connections, also in the moment in which one is used.
    ///
    /// # Errors
    /// See [`HttpError`].
    pub async fn send(&self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, HttpError> {
        let answer = match self.pooled.request(request.clone()).await {
            Err(error) if ended_without_answer(&error) => self.unpooled.request(request).await,
            answer => answer,
        };
        answer.map_err(HttpError::from)
    }
}

/// Reads the body of an answer, of at most `bytes_max` bytes.
///
/// # Errors
/// [`HttpError::Body`].
pub async fn read_body(body: Incoming, bytes_max: usize) -> Result<Bytes, HttpError> {
    let collected = Limited::new(body, bytes_max).collect().await;
    collected.map(|body| body.to_bytes()).map_err(|error| HttpError::Body(innermost(&*error).to_string()))
}

/// Percent-encodes a query string's value: all but RFC 3986's unreserved characters.
pub fn query_value(text: &str) -> PercentEncode<'_> {
    utf8_percent_encode(text, RESERVED)
}

/// TLS that trusts servers with a certificate issued by one of `roots`.
///
/// # Errors
/// The crypto provider supports no version of TLS.
pub fn tls_trusting(roots: RootCertStore) -> Result<ConfigBuilder<ClientConfig, WantsClientCert>, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(builder.with_root_certificates(roots))
}

impl From<legacy::Error> for HttpError {
    fn from(error: legacy::Error) -> Self {
        let innermost = innermost(&error);
        let message = innermost.to_string();
        if !error.is_connect() {
            Self::Exchange(message)
        } else if innermost.is::<rustls::Error>() || message.starts_with("tls handshake") {
            Self::Tls(message)
        } else {
            Self::Connect(message)
        }
    }
}

/// The error at the end of the chain of causes: it says what happened, the others where in the client.
fn innermost<'a>(error: &'a (dyn Error + 'static)) -> &'a (dyn Error + 'static) {
    causes(error).last().unwrap_or(error)
}

/// The error and its causes. An [`io::Error`] hides the error that it was made of from [`Error::source`].
fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error| {
        let error: &'a (dyn Error + 'static) = *error;
        match error.downcast_ref::<io::Error>() {
            Some(error) => error.get_ref().map(|inner| inner as _),
            None => error.source(),
        }
    })
}

/// Whether the connection ended before the answer was there.
fn ended_without_answer(error: &legacy::Error) -> bool {
    !error.is_connect()
        && causes(error).any(|cause| {
            let incomplete = cause.downcast_ref().is_some_and(hyper::Error::is_incomplete_message);
            let ended = |error: &io::Error| {
                use ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
                matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof)
            };
            incomplete || cause.downcast_ref().is_some_and(ended)
        })
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// A server on a port of its own: `serve` gets each connection, with its number from 0.
    fn server(serve: impl Fn(usize, TcpStream) + Send + Sync + 'static) -> (String, Arc<AtomicUsize>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let (serve, count) = (Arc::new(serve), Arc::<AtomicUsize>::default());
        let connections = Arc::clone(&count);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (serve, number) = (Arc::clone(&serve), count.fetch_add(1, Ordering::SeqCst));
                std::thread::spawn(move || serve(number, stream.unwrap()));
            }
        });
        (url, connections)
    }

    /// Reads one request; false: the client closed the connection.
    fn read_request(stream: &mut TcpStream) -> bool {
        let mut buffer = [0; 4096];
        let mut text = Vec::new();
        while !text.windows(4).any(|window| window == b"\r\n\r\n") {
            match stream.read(&mut buffer) {
                Ok(0) | Err(_) => return false,
                Ok(count) => text.extend_from_slice(&buffer[..count]),
            }
        }
        true
    }

    fn answer(stream: &mut TcpStream) {
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").unwrap();
    }

    async fn get(client: &HttpClient, url: &str) -> Result<Bytes, HttpError> {
        let response = client.send(Request::get(url).body(Full::default()).unwrap()).await?;
        let body = read_body(response.into_body(), 10).await;
        // A connection is idle once its task has run.
        tokio::time::sleep(Duration::from_millis(20)).await;
        body
    }

    #[tokio::test]
    async fn requests_share_one_connection() {
        let (url, connections) = server(|_, mut stream| {
            while read_request(&mut stream) {
                answer(&mut stream);
            }
        });
        let client = HttpClient::new(None, 4).unwrap();
        for _ in 0..3 {
            assert_eq!(get(&client, &url).await.unwrap(), "ok");
        }
        assert_eq!(connections.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn a_server_that_closes_idle_connections_costs_no_request() {
        // Each connection answers once; the first ones are closed on the next request, the others when idle.
        let (url, connections) = server(|number, mut stream| {
            if read_request(&mut stream) {
                answer(&mut stream);
            }
            if number < 2 {
                read_request(&mut stream);
            }
        });
        let client = HttpClient::new(None, 4).unwrap();
        for _ in 0..6 {
            assert_eq!(get(&client, &url).await.unwrap(), "ok");
        }
        assert!(connections.load(Ordering::SeqCst) >= 5);
    }

    #[tokio::test]
    async fn a_server_that_never_answers_is_asked_twice() {
        let (url, connections) = server(|_, mut stream| {
            read_request(&mut stream);
        });
        let client = HttpClient::new(None, 4).unwrap();
        assert!(matches!(get(&client, &url).await, Err(HttpError::Exchange(_))));
        assert_eq!(connections.load(Ordering::SeqCst), 2);
    }

    #[tokio::test]
    async fn errors_say_what_failed() {
        let (url, _) = server(|_, mut stream| {
            read_request(&mut stream);
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 11\r\n\r\n").unwrap();
            stream.write_all(&[b'x'; 11]).unwrap();
        });
        let client = HttpClient::new(None, 4).unwrap();
        assert!(matches!(get(&client, &url).await, Err(HttpError::Body(_))));
        let error = get(&client, "http://127.0.0.1:1/").await.unwrap_err();
        assert!(matches!(&error, HttpError::Connect(why) if why.contains("refused")), "{error:?}");
        let (url, _) = server(|_, mut stream| stream.write_all(b"no TLS\r\n\r\n").unwrap());
        let error = get(&client, &url.replace("http:", "https:")).await.unwrap_err();
        assert!(matches!(error, HttpError::Tls(_)), "{error:?}");
    }
}
