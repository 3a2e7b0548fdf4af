//! The baseline of every call and stream: an echo over the same TLS and HTTP
//! stack, by a process of its own, with nothing behind it.
//!
//! The server is `pillarbox bench echo-server DIR`; it ends with its stdin.

use super::{
    Error,
    caller::Place,
    drive::{Rate, calls},
    usage::cpu,
};
use crate::{
    identity::node_key::NodeKey,
    net::{
        certificate::self_signed,
        codec::RawCodec,
        limits::{Config, Limits},
        link::Link,
        listen::{self, Listener},
        tls::ServerTls,
    },
    types::PublicKey,
};
use bytes::Bytes;
use std::{
    convert::Infallible,
    env,
    io::{self, Write},
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    sync::mpsc,
    time::timeout,
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming, body::Body, codegen::http::uri::PathAndQuery};
use tower::service_fn;

const UNARY: &str = "/echo.Echo/Unary";
const STREAM: &str = "/echo.Echo/Stream";
const START: Duration = Duration::from_secs(10);
/// An echo is back by then.
const PATIENCE: Duration = Duration::from_secs(10);

/// Says where it listens and what its key is, and serves until stdin ends.
pub async fn serve(dir: &Path) -> Result<(), Error> {
    let key = NodeKey::load_or_make(&dir.join("node.key"))?;
    let pems = self_signed(&["localhost".into()], &key.public(), &|framed| key.sign_framed(framed))?;
    let listener = Listener::bind((Ipv4Addr::LOCALHOST, 0).into())?;
    let mut stdout = io::stdout();
    writeln!(stdout, "{} {}", listener.local_addr(), key.public())?;
    stdout.flush()?;
    let (tls, limits) = (ServerTls::new(&pems)?, Limits::new(Config { calls_per_second: 0, ..Config::default() }));
    let stop = CancellationToken::new();
    let ends = stop.clone().drop_guard();
    let service = service_fn(|request| async { Ok::<_, Infallible>(answer(request).await) });
    let serving = tokio::spawn(listen::serve(listener, Some(tls), limits, service, stop, Duration::ZERO));
    // However it ends, whoever started this is gone.
    let _ = tokio::task::spawn_blocking(|| io::copy(&mut io::stdin(), &mut io::sink())).await;
    drop(ends);
    Ok(serving.await?)
}

async fn answer(request: http::Request<Body>) -> http::Response<Body> {
    let mut grpc = tonic::server::Grpc::new(RawCodec);
    if request.uri().path() == UNARY {
        let unary = |request: Request<Bytes>| async { Ok::<_, Status>(Response::new(request.into_inner())) };
        return grpc.unary(service_fn(unary), request).await;
    }
    let stream = |request: Request<Streaming<Bytes>>| async { Ok::<_, Status>(Response::new(request.into_inner())) };
    grpc.streaming(service_fn(stream), request).await
}

/// The server's process, killed when it is dropped, and a connection to it.
pub struct EchoProcess {
    child: Child,
    link: Link,
    body: Bytes,
}

impl EchoProcess {
    /// `program`: the pillarbox binary. `dir`: where the server's key goes. `size`:
    /// bytes of what is echoed.
    pub async fn start(program: &Path, dir: &Path, size: usize) -> Result<Self, Error> {
        let mut command = Command::new(program);
        for (variable, _) in env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("PILLARBOX_")) {
            command.env_remove(variable);
        }
        command.args(["bench", "echo-server"]).arg(dir).stdin(Stdio::piped()).stdout(Stdio::piped());
        // Ctrl-c is for this program; the server ends with it.
        let mut child = command.process_group(0).kill_on_drop(true).spawn()?;
        let (mut line, stdout) = (String::new(), child.stdout.take().ok_or("the echo server has no stdout")?);
        let started = timeout(START, BufReader::new(stdout).read_line(&mut line)).await;
        started.map_err(|_| "the echo server was not ready in time")??;
        let failed = || Error::from("the echo server did not start");
        let (listen, key) = line.trim().split_once(' ').ok_or_else(failed)?;
        let listen: SocketAddr = listen.parse().map_err(|_| failed())?;
        let key: PublicKey = key.parse().map_err(|_| failed())?;
        let link = Place::local(listen.port(), key)?.connect().await?;
        Ok(Self { child, link, body: vec![0x2a; size].into() })
    }

    fn pid(&self) -> Result<u32, Error> {
        self.child.id().ok_or_else(|| "the echo server has ended".into())
    }

    fn client(&self) -> tonic::client::Grpc<Link> {
        tonic::client::Grpc::with_origin(self.link.clone(), self.link.origin())
    }

    /// One message there and back a call.
    pub async fn calls(&self, in_flight: usize, span: Duration) -> Result<Rate, Error> {
        let (client, body) = (self.client(), self.body.clone());
        let call = move || {
            let (mut client, body) = (client.clone(), body.clone());
            async move {
                client.ready().await.map_err(|cause| Status::unavailable(cause.to_string()))?;
                let path = PathAndQuery::from_static(UNARY);
                client.unary::<Bytes, Bytes, _>(Request::new(body), path, RawCodec).await.map(drop)
            }
        };
        calls(self.pid()?, in_flight, span, call).await
    }

    /// Messages there and back on one stream, so many on their way.
    pub async fn streamed(&self, in_flight: usize, span: Duration) -> Result<Rate, Error> {
        let (sender, outgoing) = mpsc::channel(in_flight);
        let mut client = self.client();
        client.ready().await.map_err(|cause| cause.to_string())?;
        let (request, path) = (Request::new(ReceiverStream::new(outgoing)), PathAndQuery::from_static(STREAM));
        let mut echoes = client.streaming::<_, Bytes, Bytes, _>(request, path, RawCodec).await?.into_inner();
        let gone = |_| Error::from("the echo server has ended");
        for _ in 0..in_flight {
            sender.send(self.body.clone()).await.map_err(gone)?;
        }
        let (mut since, mut used, mut count) = (Instant::now(), cpu(self.pid()?)?, 0_u64);
        let mut warm = false;
        while !warm || since.elapsed() < span {
            let echo = timeout(PATIENCE, echoes.message()).await.map_err(|_| "an echo did not come back")??;
            echo.ok_or("the stream of echoes ended")?;
            sender.send(self.body.clone()).await.map_err(gone)?;
            count += 1;
            if !warm && since.elapsed() > span / 5 {
                (warm, since, used, count) = (true, Instant::now(), cpu(self.pid()?)?, 0);
            }
        }
        let (count, took) = (count as f64, since.elapsed().as_secs_f64());
        Ok(Rate { calls: count / took, cpu: (cpu(self.pid()?)? - used) * 1e6 / count })
    }
}
