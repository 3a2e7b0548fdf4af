//! The baseline of every call: a unary echo over the same TLS and HTTP stack,
//! by a process of its own, with nothing behind it.
//!
//! The server is this very program, started again.

use crate::{
    ECHO, Failure,
    load::{Rate, Shape, calls, connect, event},
};
use bytes::Bytes;
use pillarbox::{
    identity::node_key::NodeKey,
    net::{
        certificate::self_signed,
        limits::Limits,
        link::Link,
        listen::{self, Listener},
        tls::ServerTls,
    },
    proto::protocol::sync::v1::{
        postbox_service_client::PostboxServiceClient,
        postbox_service_server::{PostboxService, PostboxServiceServer},
    },
};
use std::{
    env,
    io::{BufRead, BufReader, Write},
    net::Ipv4Addr,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

struct Echo;

#[tonic::async_trait]
impl PostboxService for Echo {
    async fn push(&self, request: Request<Bytes>) -> Result<Response<Bytes>, Status> {
        Ok(Response::new(request.into_inner()))
    }

    async fn pull(&self, _: Request<Bytes>) -> Result<Response<Bytes>, Status> {
        Err(Status::unimplemented("an echo"))
    }

    async fn notify_new_id(&self, _: Request<Bytes>) -> Result<Response<Bytes>, Status> {
        Err(Status::unimplemented("an echo"))
    }
}

/// Says where it listens and what its key is, and serves until it is killed.
pub async fn serve(dir: &Path) -> Result<(), Failure> {
    let key = NodeKey::load_or_make(&dir.join("node.key"))?;
    let pems = self_signed(&["localhost".into()], &key.public(), &|framed| key.sign_framed(framed))?;
    let listener = Listener::bind((Ipv4Addr::LOCALHOST, 0).into())?;
    println!("{} {}", listener.local_addr(), key.public());
    std::io::stdout().flush()?;
    let (tls, limits) = (ServerTls::new(&pems)?, Limits::new(Default::default()));
    let service = PostboxServiceServer::new(Echo);
    listen::serve(listener, Some(tls), limits, service, CancellationToken::new(), Duration::ZERO).await;
    Ok(())
}

/// The server's process, killed when it is dropped, and a connection to it.
pub struct EchoProcess {
    child: Child,
    link: Link,
    _dir: tempfile::TempDir,
}

impl EchoProcess {
    pub async fn start() -> Result<Self, Failure> {
        let dir = crate::directory()?;
        let mut command = Command::new(env::current_exe()?);
        command.arg(ECHO).arg(dir.path()).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn()?;
        let mut line = String::new();
        let stdout = child.stdout.take().ok_or("the echo server has no stdout")?;
        BufReader::new(stdout).read_line(&mut line)?;
        let (listen, key) = line.trim().split_once(' ').ok_or("the echo server did not start")?;
        let link = connect(listen, key).await?;
        Ok(Self { child, link, _dir: dir })
    }

    /// One event there and back a call.
    pub async fn calls(&self, in_flight: usize, span: Duration) -> Result<Rate, Failure> {
        let client = PostboxServiceClient::with_origin(self.link.clone(), self.link.origin());
        let body = event(Shape::Added, 0);
        let call = move || {
            let (mut client, body) = (client.clone(), body.clone());
            async move { client.push(body).await.map(drop) }
        };
        calls(self.child.id(), in_flight, span, call).await
    }
}

impl Drop for EchoProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
