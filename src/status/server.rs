//! The listener and its connections: HTTP/1.1 with keep-alive and HTTP/2, every resource of theirs bounded.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::StatusProvider;
use super::access::{Access, AccessOptions};
use super::connections::{Activity, Connections};
use super::hosts::KnownHosts;
use super::router::{self, App};
use super::{probes, sampler};

/// Bounds of the status server. The defaults are for operators' tools, not for the public.
#[derive(Debug, Clone)]
pub struct StatusOptions {
    /// The access rules.
    pub access: AccessOptions,
    /// Connections at a time. A further one closes the one that has been idle longest.
    pub max_connections: usize,
    /// Connections of one address (one /64 of IPv6) at a time.
    pub max_connections_per_source: usize,
    /// Event streams at a time, over all connections. One address may have a quarter of them.
    pub max_streams: usize,
    /// Bytes of a request's head.
    pub max_head_bytes: usize,
    /// Bytes of a request's body.
    pub max_body_bytes: usize,
    /// Bytes of all bodies that are being read. One address may have a quarter of them.
    pub max_bodies_bytes: usize,
    /// Bytes of all answers that are not written yet. One address may have a quarter of them.
    pub max_answers_bytes: usize,
    /// Time-out of a request's head, and of an idle HTTP/1.1 connection.
    pub head_timeout: Duration,
    /// For a request's body to arrive and its answer to be made.
    pub request_timeout: Duration,
    /// A connection without a request for so long, and without an event stream, is closed.
    pub idle_timeout: Duration,
    /// Between two questions to the shards for a sign of life.
    pub ping_interval: Duration,
    /// `/livez` fails when a shard has not answered for so long.
    pub ping_timeout: Duration,
    /// For open requests to end at shutdown.
    pub shutdown_timeout: Duration,
}

impl Default for StatusOptions {
    fn default() -> Self {
        Self {
            access: AccessOptions::default(),
            max_connections: 256,
            max_connections_per_source: 64,
            max_streams: 64,
            max_head_bytes: 16 << 10,
            max_body_bytes: 1 << 20,
            max_bodies_bytes: 8 << 20,
            max_answers_bytes: 32 << 20,
            head_timeout: Duration::from_secs(10),
            request_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(60),
            ping_interval: Duration::from_secs(2),
            ping_timeout: Duration::from_secs(30),
            shutdown_timeout: Duration::from_secs(5),
        }
    }
}

/// Requests at a time over one HTTP/2 connection.
const HTTP2_STREAMS_MAX: u32 = 16;
/// Bytes of bodies that an HTTP/2 connection holds before they are read.
const HTTP2_WINDOW_BYTES: u32 = 64 << 10;

/// A running status server; dropping it leaves it running until the runtime ends.
#[derive(Debug)]
pub struct StatusServer {
    local_addr: SocketAddr,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl StatusServer {
    /// Where it listens (the port found, where 0 was asked for).
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Accepts no more, lets open requests end (within [`StatusOptions::shutdown_timeout`]), ends event streams.
    pub async fn shutdown(self) {
        self.stop.send_replace(true);
        if let Err(error) = self.task.await {
            tracing::error!(%error, "status server task failed");
        }
    }
}

/// Serves `view` on `listener` from a task of the present tokio runtime.
///
/// # Errors
/// A file or secret of `options.access` cannot be used, or the listener cannot be registered with the runtime.
pub fn serve(
    listener: std::net::TcpListener,
    view: Arc<dyn StatusProvider>,
    options: StatusOptions,
) -> std::io::Result<StatusServer> {
    listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(listener)?;
    let local_addr = listener.local_addr()?;
    let (stop, stopping) = watch::channel(false);
    let access = Arc::new(Access::open(options.access.clone()).map_err(std::io::Error::other)?);
    tokio::spawn(Arc::clone(&access).follow(stopping.clone()));
    let hosts = KnownHosts::new(&options.access.hosts, local_addr.ip());
    let app = Arc::new(App::new(view, options.clone(), access, hosts, local_addr, stopping.clone()));
    tokio::spawn(sample(app.clone(), stopping.clone()));
    tokio::spawn(probes::watch(app.clone(), stopping.clone()));
    let task = tokio::spawn(accept_loop(listener, app, options, stopping));
    Ok(StatusServer { local_addr, stop, task })
}

/// Looks at the counters now and then, for rates and plots.
async fn sample(app: Arc<App>, mut stopping: watch::Receiver<bool>) {
    let mut ticks = tokio::time::interval(Duration::from_millis(sampler::INTERVAL_MS));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = stopping.wait_for(|stop| *stop) => return,
            _ = ticks.tick() => {}
        }
        let now = app.view.now();
        app.sampler.add(now, &app.view.traffic());
        app.sampled.send_replace(now);
    }
}

async fn accept_loop(
    listener: TcpListener,
    app: Arc<App>,
    options: StatusOptions,
    mut stopping: watch::Receiver<bool>,
) {
    let graceful = GracefulShutdown::new();
    let (most, most_per_source) = (options.max_connections, options.max_connections_per_source);
    let connections = Arc::new(Connections::new(most, most_per_source, Arc::clone(&app.counters)));
    let mut accept_failed = false;
    loop {
        let accepted = tokio::select! {
            _ = stopping.wait_for(|stop| *stop) => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                accept_failed = false;
                let activity = Arc::new(Activity::new(peer, stream.local_addr().ok()));
                let place = connections.admit(&activity);
                let connection = connection(stream, app.clone(), &options, Arc::clone(&activity), graceful.watcher());
                tokio::spawn(async move {
                    tokio::select! {
                        () = connection => {}
                        () = activity.evicted() => tracing::debug!(%peer, "status connection closed for a newer one"),
                    }
                    drop(place);
                });
            }
            Err(error) => {
                // Most likely out of file descriptors: logged once, without spinning.
                if !std::mem::replace(&mut accept_failed, true) {
                    tracing::warn!(%error, "status server accept failed");
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    drop(listener);
    if tokio::time::timeout(options.shutdown_timeout, graceful.shutdown()).await.is_err() {
        tracing::warn!("status server shutdown timed out: requests were still open");
    }
}

fn connection(
    stream: TcpStream,
    app: Arc<App>,
    options: &StatusOptions,
    activity: Arc<Activity>,
    watcher: Watcher,
) -> impl Future<Output = ()> + Send + use<> {
    let (idle_timeout, handshake_timeout) = (options.idle_timeout, options.head_timeout);
    let builder = builder(options);
    if let Err(error) = bound_unread_writes(&stream, idle_timeout) {
        tracing::debug!(%error, "status connection has no write timeout");
    }
    async move {
        let Some(tls) = app.access.tls() else {
            return serve_connection(TokioIo::new(stream), builder, app, activity, watcher, idle_timeout).await;
        };
        let handshake = tokio_rustls::TlsAcceptor::from(tls).accept(stream);
        match tokio::time::timeout(handshake_timeout, handshake).await {
            Ok(Ok(stream)) => {
                if stream.get_ref().1.peer_certificates().is_some() {
                    activity.set_identified();
                }
                serve_connection(TokioIo::new(stream), builder, app, activity, watcher, idle_timeout).await;
            }
            Ok(Err(error)) => tracing::debug!(%error, "status TLS handshake failed"),
            Err(_) => tracing::debug!("status TLS handshake timed out"),
        }
    }
}

/// Answers the requests of one connection until it ends or has been idle too long.
async fn serve_connection<S>(
    stream: S,
    builder: auto::Builder<TokioExecutor>,
    app: Arc<App>,
    activity: Arc<Activity>,
    watcher: Watcher,
    idle_timeout: Duration,
) where
    S: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let seen = activity.clone();
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let (app, activity, open) = (app.clone(), seen.clone(), seen.begin_request());
        async move {
            let response = router::answer(app, activity, request).await;
            drop(open);
            Ok::<_, Infallible>(response)
        }
    });
    let served = watcher.watch(builder.serve_connection(stream, service).into_owned());
    tokio::select! {
        served = served => {
            if let Err(error) = served {
                tracing::debug!(%error, "status connection ended");
            }
        }
        () = idle(&activity, idle_timeout) => tracing::debug!("status connection closed: it was idle"),
    }
}

/// Ends when the connection has been idle for `timeout`. hyper's own timeouts do not cover the wait for the first
/// byte, an idle HTTP/2 connection, or a peer that does not read its answer.
async fn idle(activity: &Activity, timeout: Duration) {
    loop {
        let idle = activity.idle();
        if idle >= timeout {
            return;
        }
        tokio::time::sleep(timeout.saturating_sub(idle).max(Duration::from_millis(10))).await;
    }
}

/// A peer that acknowledges nothing for so long loses its connection, an event stream's too.
fn bound_unread_writes(stream: &TcpStream, timeout: Duration) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    #[cfg(target_os = "linux")]
    socket2::SockRef::from(stream).set_tcp_user_timeout(Some(timeout))?;
    #[cfg(not(target_os = "linux"))]
    let _ = timeout;
    Ok(())
}

fn builder(options: &StatusOptions) -> auto::Builder<TokioExecutor> {
    let head_bytes = options.max_head_bytes;
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(options.head_timeout)
        .max_buf_size(head_bytes.max(8192))
        .max_headers(100)
        .keep_alive(true);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(u32::try_from(head_bytes).unwrap_or(u32::MAX))
        .max_concurrent_streams(HTTP2_STREAMS_MAX)
        .initial_stream_window_size(HTTP2_WINDOW_BYTES)
        .initial_connection_window_size(HTTP2_WINDOW_BYTES)
        .max_send_buf_size(HTTP2_WINDOW_BYTES as usize)
        .keep_alive_interval(Duration::from_secs(20))
        .keep_alive_timeout(Duration::from_secs(20));
    builder
}
