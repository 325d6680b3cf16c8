//! The listener and its connections: HTTP/1.1 with keep-alive and HTTP/2, every resource of theirs bounded.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;

use super::StatusProvider;
use super::access::{Access, AccessOptions};
use super::router::{self, App};
use super::{probes, sampler};

/// Bounds of the status server. The defaults are for operators' tools, not for the public.
#[derive(Debug, Clone)]
pub struct StatusOptions {
    /// The access rules.
    pub access: AccessOptions,
    /// Connections at a time; more wait in the listening socket's backlog.
    pub max_connections: usize,
    /// Event streams at a time, over all connections.
    pub max_streams: usize,
    /// Bytes of a request's head.
    pub max_head_bytes: usize,
    /// Bytes of a request's body.
    pub max_body_bytes: usize,
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
            max_streams: 64,
            max_head_bytes: 16 << 10,
            max_body_bytes: 4 << 20,
            head_timeout: Duration::from_secs(30),
            request_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(60),
            ping_interval: Duration::from_secs(2),
            ping_timeout: Duration::from_secs(30),
            shutdown_timeout: Duration::from_secs(5),
        }
    }
}

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
    let app = Arc::new(App::new(view, options.clone(), access, local_addr, stopping.clone()));
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
    let places = Arc::new(Semaphore::new(options.max_connections));
    let mut accept_failed = false;
    loop {
        let accepted = tokio::select! {
            _ = stopping.wait_for(|stop| *stop) => break,
            accepted = accept(&listener, &places) => accepted,
        };
        match accepted {
            Ok((stream, place)) => {
                accept_failed = false;
                let connection = connection(stream, app.clone(), &options, graceful.watcher());
                tokio::spawn(async move {
                    connection.await;
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

async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> std::io::Result<(TcpStream, tokio::sync::OwnedSemaphorePermit)> {
    let place = places.clone().acquire_owned().await.map_err(std::io::Error::other)?;
    let (stream, _) = listener.accept().await?;
    Ok((stream, place))
}

/// State of a connection for its idle time-out, and whether its client is identified.
pub(super) struct Activity {
    opened: Instant,
    /// Milliseconds after `opened` of the last request.
    last_request_ms: AtomicU64,
    /// Event streams open on it.
    pub(super) streams: AtomicUsize,
    /// Whether the caller showed a certificate.
    pub(super) identified: bool,
}

impl Activity {
    fn new(identified: bool) -> Self {
        Self { opened: Instant::now(), last_request_ms: AtomicU64::new(0), streams: AtomicUsize::new(0), identified }
    }

    fn touch(&self) {
        let elapsed_ms = u64::try_from(self.opened.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_request_ms.store(elapsed_ms, Ordering::Relaxed);
    }

    fn idle(&self) -> Duration {
        let last = Duration::from_millis(self.last_request_ms.load(Ordering::Relaxed));
        if self.streams.load(Ordering::Relaxed) > 0 {
            Duration::ZERO
        } else {
            self.opened.elapsed().saturating_sub(last)
        }
    }
}

fn connection(
    stream: TcpStream,
    app: Arc<App>,
    options: &StatusOptions,
    watcher: Watcher,
) -> impl Future<Output = ()> + Send + use<> {
    let (idle_timeout, handshake_timeout) = (options.idle_timeout, options.head_timeout);
    let builder = builder(options);
    if let Err(error) = bound_unread_writes(&stream, idle_timeout) {
        tracing::debug!(%error, "status connection has no write timeout");
    }
    async move {
        let Some(tls) = app.access.tls() else {
            return serve_connection(TokioIo::new(stream), builder, app, false, watcher, idle_timeout).await;
        };
        let handshake = tokio_rustls::TlsAcceptor::from(tls).accept(stream);
        match tokio::time::timeout(handshake_timeout, handshake).await {
            Ok(Ok(stream)) => {
                let identified = stream.get_ref().1.peer_certificates().is_some();
                serve_connection(TokioIo::new(stream), builder, app, identified, watcher, idle_timeout).await;
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
    identified: bool,
    watcher: Watcher,
    idle_timeout: Duration,
) where
    S: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let activity = Arc::new(Activity::new(identified));
    let seen = activity.clone();
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        seen.touch();
        let (app, activity) = (app.clone(), seen.clone());
        async move { Ok::<_, Infallible>(router::answer(app, activity, request).await) }
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
        .max_concurrent_streams(32)
        .keep_alive_interval(Duration::from_secs(20))
        .keep_alive_timeout(Duration::from_secs(20));
    builder
}
