//! Byte streams to a broker: TCP, Unix sockets, TLS, WebSocket.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tokio_tungstenite::WebSocketStream;
use tungstenite::client::IntoClientRequest;
use tungstenite::http::HeaderValue;
use tungstenite::protocol::WebSocketConfig;
use tungstenite::{Bytes, Message};

use super::address::Transport;
use crate::client::{ByteStream, ClientError};

/// Bytes that wait for a WebSocket's socket, at most.
const WEBSOCKET_BUFFER_BYTES: usize = 1 << 20;

/// Opens a connection; `tls` is there where the transport needs it.
pub(super) async fn open(
    transport: &Transport,
    tls: Option<&Arc<ClientConfig>>,
) -> Result<Box<dyn ByteStream>, ClientError> {
    let connect_error = |error: io::Error| ClientError::Connect(error.to_string());
    let (host, port, websocket) = match transport {
        Transport::Unix(path) => {
            return Ok(Box::new(UnixStream::connect(path).await.map_err(connect_error)?));
        }
        Transport::Network { host, port, websocket, .. } => (host, *port, websocket),
    };
    let tcp = TcpStream::connect((host.as_str(), port)).await.map_err(connect_error)?;
    tcp.set_nodelay(true).map_err(connect_error)?;
    let stream: Box<dyn ByteStream> = match tls {
        None => Box::new(tcp),
        Some(config) => {
            let name = ServerName::try_from(host.clone())
                .map_err(|_| ClientError::Tls(format!("{host:?} is not a name that a certificate can have")))?;
            let connected = TlsConnector::from(Arc::clone(config)).connect(name, tcp).await;
            Box::new(connected.map_err(|error| ClientError::Tls(error.to_string()))?)
        }
    };
    match websocket {
        None => Ok(stream),
        Some(_) => Ok(Box::new(upgrade(stream, transport).await?)),
    }
}

async fn upgrade(stream: Box<dyn ByteStream>, transport: &Transport) -> Result<WebSocket, ClientError> {
    let failed = |error: tungstenite::Error| ClientError::WebSocket(error.to_string());
    let mut request = transport.to_string().into_client_request().map_err(failed)?;
    // [MQTT-6.0.0-3]
    request.headers_mut().insert("Sec-WebSocket-Protocol", HeaderValue::from_static("mqtt"));
    let config = WebSocketConfig::default()
        .max_message_size(None)
        .max_frame_size(None)
        .write_buffer_size(0)
        .max_write_buffer_size(WEBSOCKET_BUFFER_BYTES);
    let upgraded = tokio_tungstenite::client_async_with_config(request, stream, Some(config)).await;
    Ok(WebSocket { frames: upgraded.map_err(failed)?.0, unread: Bytes::new() })
}

/// MQTT's bytes in binary frames, which need not align with packets [MQTT-6.0.0-2].
struct WebSocket {
    frames: WebSocketStream<Box<dyn ByteStream>>,
    unread: Bytes,
}

fn io_error(error: tungstenite::Error) -> io::Error {
    match error {
        tungstenite::Error::Io(error) => error,
        other => io::Error::other(other),
    }
}

impl AsyncRead for WebSocket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        while self.unread.is_empty() {
            match ready!(futures_core::Stream::poll_next(Pin::new(&mut self.frames), cx)) {
                Some(Ok(Message::Binary(bytes))) => self.unread = bytes,
                Some(Ok(Message::Close(_))) | None => return Poll::Ready(Ok(())),
                Some(Ok(Message::Text(_))) => return Poll::Ready(Err(io::Error::other("a text frame [MQTT-6.0.0-1]"))),
                Some(Ok(_)) => {}
                Some(Err(tungstenite::Error::ConnectionClosed)) => return Poll::Ready(Ok(())),
                Some(Err(error)) => return Poll::Ready(Err(io_error(error))),
            }
        }
        let taken = self.unread.len().min(buffer.remaining());
        let bytes = self.unread.split_to(taken);
        buffer.put_slice(&bytes);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for WebSocket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        use futures_sink::Sink;
        ready!(Sink::poll_ready(Pin::new(&mut self.frames), cx)).map_err(io_error)?;
        // A frame must fit into the buffer.
        let part = &bytes[..bytes.len().min(WEBSOCKET_BUFFER_BYTES / 4)];
        Sink::start_send(Pin::new(&mut self.frames), Message::Binary(Bytes::copy_from_slice(part)))
            .map_err(io_error)?;
        Poll::Ready(Ok(part.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        futures_sink::Sink::poll_flush(Pin::new(&mut self.frames), cx).map_err(io_error)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match ready!(futures_sink::Sink::poll_close(Pin::new(&mut self.frames), cx)) {
            Ok(()) | Err(tungstenite::Error::ConnectionClosed) => Poll::Ready(Ok(())),
            Err(error) => Poll::Ready(Err(io_error(error))),
        }
    }
}
