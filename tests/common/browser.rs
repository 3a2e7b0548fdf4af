//! What stands at the other end of a gateway: a reader of Server-Sent Events
//! and one of WebSockets, by hand.

use super::LONG;
use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use serde_json::Value;
use std::{net::SocketAddr, sync::Arc};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;

/// One request over a connection of its own.
pub async fn ask(address: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
    let tcp = TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(tcp)).await.unwrap();
    tokio::spawn(connection);
    let mut request = Request::builder().method(method).uri(path).header("host", address.to_string());
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Empty::<Bytes>::new()).unwrap();
    let response = timeout(LONG, sender.send_request(request)).await.unwrap().unwrap();
    let (parts, body) = response.into_parts();
    Answer { status: parts.status, headers: parts.headers, body, left: BytesMut::new() }
}

pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    body: Incoming,
    left: BytesMut,
}

/// One event of an event stream.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    pub id: String,
    /// Empty: an event of the backend.
    pub name: String,
    pub data: Value,
}

impl Event {
    pub fn cursor(&self) -> u64 {
        self.id.parse().unwrap()
    }

    /// Of an event that the scripted backend published.
    pub fn text(&self) -> String {
        assert_eq!(self.name, "", "{self:?}");
        let payload: Value = serde_json::from_str(self.data["payload"].as_str().unwrap()).unwrap();
        payload["text"].as_str().unwrap().to_owned()
    }
}

impl Answer {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map(|value| value.to_str().unwrap()).unwrap_or_default()
    }

    pub async fn text(self) -> String {
        let body = timeout(LONG, self.body.collect()).await.unwrap().unwrap().to_bytes();
        String::from_utf8(body.to_vec()).unwrap()
    }

    pub async fn json(self) -> Value {
        serde_json::from_str(&self.text().await).unwrap()
    }

    /// The next event; `None` at the end of the stream.
    pub async fn next(&mut self) -> Option<Event> {
        loop {
            let end = self.left.windows(2).position(|pair| pair == b"\n\n");
            if let Some(end) = end {
                let piece = self.left.split_to(end + 2);
                match event(std::str::from_utf8(&piece).unwrap()) {
                    Some(event) => return Some(event),
                    None => continue,
                }
            }
            let frame = timeout(LONG, self.body.frame()).await.expect("nothing came")?;
            self.left.extend_from_slice(&frame.ok()?.into_data().unwrap_or_default());
        }
    }

    /// The next event, which is there.
    pub async fn event(&mut self) -> Event {
        self.next().await.expect("the stream ended")
    }

    /// The reason it ends with; nothing follows.
    pub async fn closed(&mut self) -> String {
        loop {
            let event = self.event().await;
            if event.name == "closed" {
                assert_eq!(self.next().await, None);
                return event.data["reason"].as_str().unwrap().to_owned();
            }
        }
    }
}

/// `None`: a comment.
fn event(piece: &str) -> Option<Event> {
    let field = |name: &str| {
        piece.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ")).unwrap_or_default().to_owned()
    };
    let data = field("data");
    let data = serde_json::from_str(&data).ok()?;
    Some(Event { id: field("id"), name: field("event"), data })
}

/// A WebSocket's client.
pub struct Socket {
    stream: Box<dyn Stream>,
    read: BytesMut,
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// What a server says over it.
#[derive(Debug, Clone, PartialEq)]
pub enum Said {
    Message(Value),
    Ping,
    Close(u16, String),
    Gone,
}

impl Socket {
    /// The error is the status of a refusal.
    pub async fn open(address: SocketAddr, path: &str, headers: &[(&str, &str)]) -> Result<Self, u16> {
        let stream = TcpStream::connect(address).await.unwrap();
        Self::over(Box::new(stream), address, path, headers).await
    }

    /// Over TLS with a server that this certificate (PEM) is of.
    pub async fn open_tls(address: SocketAddr, path: &str, certificate: &str) -> Result<Self, u16> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let tcp = TcpStream::connect(address).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let stream = TlsConnector::from(Arc::new(config)).connect(name, tcp).await.unwrap();
        Self::over(Box::new(stream), address, path, &[]).await
    }

    async fn over(
        mut stream: Box<dyn Stream>,
        address: SocketAddr,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Result<Self, u16> {
        let mut request = format!(
            "GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
             sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        );
        for (name, value) in headers {
            request.push_str(&format!("{name}: {value}\r\n"));
        }
        request.push_str("\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut read = BytesMut::new();
        let end = loop {
            if let Some(end) = read.windows(4).position(|four| four == b"\r\n\r\n") {
                break end + 4;
            }
            assert!(timeout(LONG, stream.read_buf(&mut read)).await.unwrap().unwrap() > 0, "no answer");
        };
        let head = String::from_utf8(read.split_to(end).to_vec()).unwrap();
        let status: u16 = head[9..12].parse().unwrap();
        if status != 101 {
            return Err(status);
        }
        assert!(head.to_ascii_lowercase().contains("s3pplmbitxaq9kygzzhzrbk+xoo="), "{head}");
        Ok(Self { stream, read })
    }

    async fn fill(&mut self, bytes: usize) -> bool {
        while self.read.len() < bytes {
            match timeout(LONG, self.stream.read_buf(&mut self.read)).await.expect("nothing came") {
                Ok(0) | Err(_) => return false,
                Ok(_) => {}
            }
        }
        true
    }

    pub async fn next(&mut self) -> Said {
        if !self.fill(2).await {
            return Said::Gone;
        }
        let (kind, short) = (self.read[0] & 0x0f, self.read[1]);
        let head = match short {
            126 => 4,
            127 => 10,
            _ => 2,
        };
        assert!(self.fill(head).await);
        let mut length = [0; 8];
        let bytes = if head == 2 { &self.read[1..2] } else { &self.read[2..head] };
        length[8 - bytes.len()..].copy_from_slice(bytes);
        let length = usize::try_from(u64::from_be_bytes(length)).unwrap();
        assert!(self.fill(head + length).await);
        self.read.advance(head);
        let mut payload = self.read.split_to(length);
        match kind {
            1 => Said::Message(serde_json::from_slice(&payload).unwrap()),
            8 => {
                let code = payload.get_u16();
                Said::Close(code, String::from_utf8(payload.to_vec()).unwrap())
            }
            9 => Said::Ping,
            other => panic!("a frame of kind {other}"),
        }
    }

    /// The next message that is no ping.
    pub async fn message(&mut self) -> Value {
        loop {
            match self.next().await {
                Said::Ping => {}
                Said::Message(message) => return message,
                other => panic!("{other:?}"),
            }
        }
    }

    /// The code it is closed with.
    pub async fn closed(&mut self) -> (u16, String) {
        loop {
            match self.next().await {
                Said::Close(code, reason) => return (code, reason),
                Said::Gone => panic!("gone without a word"),
                _ => {}
            }
        }
    }

    /// A short text of the client's own.
    pub async fn say(&mut self, text: &str) {
        let mut frame = vec![0x81, 0x80 | u8::try_from(text.len()).unwrap(), 0, 0, 0, 0];
        frame.extend_from_slice(text.as_bytes());
        self.stream.write_all(&frame).await.unwrap();
    }
}
