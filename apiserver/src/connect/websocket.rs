//! Streams for clients that ask by WebSocket: what a body holds, message by message (upstream: `apimachinery/pkg/util/httpstream/wsstream`, its reader).
//!
//! Only for answers that go one way, logs above all; exec and its like speak protocols of their own, which pass through untouched.

use axum::body::Body;
use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use http::{Request, Response, StatusCode, header};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Message, handshake::derive_accept_key, protocol::Role},
};

/// How messages carry bytes, by the name of the subprotocol; a client that names none gets binary ones.
const PROTOCOLS: &[(&str, bool)] = &[("binary.k8s.io", false), ("base64.binary.k8s.io", true)];

/// A connection that is to become a WebSocket.
pub struct Upgrade {
    on: OnUpgrade,
    accept: String,
    protocol: Option<&'static str>,
    base64: bool,
}

/// Takes the wish for a WebSocket out of a request, so that the rest can be passed on as an ordinary one.
pub fn taken(request: &mut Request<Body>) -> Option<Upgrade> {
    let headers = request.headers();
    let says = |name: header::HeaderName, word: &str| {
        let values = headers.get_all(name).iter().filter_map(|v| v.to_str().ok()).flat_map(|v| v.split(','));
        values.into_iter().any(|v| v.trim().eq_ignore_ascii_case(word))
    };
    if !says(header::UPGRADE, "websocket") || !says(header::CONNECTION, "upgrade") {
        return None;
    }
    let accept = derive_accept_key(headers.get(header::SEC_WEBSOCKET_KEY)?.as_bytes());
    let known = PROTOCOLS.iter().find(|(name, _)| says(header::SEC_WEBSOCKET_PROTOCOL, name));
    let (protocol, base64) = known.map_or((None, false), |(name, base64)| (Some(*name), *base64));
    let on = hyper::upgrade::on(&mut *request);
    for name in [
        header::UPGRADE,
        header::CONNECTION,
        header::SEC_WEBSOCKET_KEY,
        header::SEC_WEBSOCKET_VERSION,
        header::SEC_WEBSOCKET_PROTOCOL,
        header::SEC_WEBSOCKET_EXTENSIONS,
    ] {
        request.headers_mut().remove(name);
    }
    Some(Upgrade { on, accept, protocol, base64 })
}

impl Upgrade {
    /// The answer that makes the connection a WebSocket, on which the body follows. It ends when the body does, or the client.
    pub fn answer(self, body: Body) -> Response<Body> {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(header::UPGRADE, header::HeaderValue::from_static("websocket"));
        headers.insert(header::CONNECTION, header::HeaderValue::from_static("Upgrade"));
        if let Ok(accept) = header::HeaderValue::from_str(&self.accept) {
            headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
        }
        if let Some(protocol) = self.protocol {
            headers.insert(header::SEC_WEBSOCKET_PROTOCOL, header::HeaderValue::from_static(protocol));
        }
        tokio::spawn(async move {
            let Ok(upgraded) = self.on.await else { return };
            let socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, None).await;
            let (mut to, mut from) = socket.split();
            let sent = async {
                let mut chunks = body.into_data_stream();
                while let Some(Ok(chunk)) = chunks.next().await {
                    to.send(message(chunk, self.base64)).await?;
                }
                to.close().await
            };
            // What the client sends but its goodbye is of no interest.
            let left = async { while from.next().await.is_some_and(|m| m.is_ok_and(|m| !m.is_close())) {} };
            tokio::select! {
                result = sent => if let Err(error) = result { tracing::debug!(%error, "a WebSocket client left") },
                () = left => {}
            }
        });
        response
    }
}

fn message(chunk: Bytes, base64: bool) -> Message {
    if base64 { Message::text(STANDARD.encode(&chunk)) } else { Message::binary(chunk) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_wish_is_taken() {
        let request = |headers: &[(&str, &str)]| {
            let mut request = Request::builder();
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            request.body(Body::empty()).expect("valid")
        };
        let key = ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
        let upgrade = [("connection", "keep-alive, Upgrade"), ("upgrade", "WebSocket"), key];
        for (protocols, want) in
            [("", None), ("v4.channel.k8s.io, base64.binary.k8s.io", Some(("base64.binary.k8s.io", true))), ("nosuch", None)]
        {
            let mut request = request(&[&upgrade[..], &[("sec-websocket-protocol", protocols)]].concat());
            let taken = taken(&mut request).expect("it is a WebSocket's");
            assert_eq!(taken.accept, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
            assert_eq!(taken.protocol.map(|p| (p, taken.base64)), want);
            assert!(request.headers().is_empty(), "what is passed on is an ordinary request");
        }
        for part in [&upgrade[..1], &upgrade[1..], &upgrade[..2]] {
            assert!(taken(&mut request(part)).is_none());
        }
    }
}
