//! NATS JetStream beside it, file store, on the same machine: messages of the
//! same size, published with an acknowledgement each.
//!
//! What each promises differs: JetStream acknowledges what is in the page cache
//! and syncs every two minutes; a message that this program acknowledges is
//! synced. Needs `nats-server` in the PATH; passed over without.

use crate::{
    Failure, Size,
    report::{Figure, Report},
};
use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
};

const PAYLOAD: usize = 256;

struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// One connection that publishes and reads acknowledgements.
struct Client {
    reader: BufReader<OwnedReadHalf>,
    writer: OwnedWriteHalf,
}

impl Client {
    async fn connect(port: u16) -> Result<Self, Failure> {
        let deadline = Instant::now() + Duration::from_secs(10);
        let stream = loop {
            match TcpStream::connect(("127.0.0.1", port)).await {
                Ok(stream) => break stream,
                Err(error) if Instant::now() > deadline => return Err(error.into()),
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        };
        stream.set_nodelay(true)?;
        let (reader, writer) = stream.into_split();
        let mut client = Self { reader: BufReader::new(reader), writer };
        client.writer.write_all(b"CONNECT {\"verbose\":false}\r\nSUB ack 1\r\n").await?;
        let config = r#"{"name":"bench","subjects":["bench"],"storage":"file"}"#;
        let create = format!("PUB $JS.API.STREAM.CREATE.bench ack {}\r\n{config}\r\n", config.len());
        client.writer.write_all(create.as_bytes()).await?;
        let made = client.acknowledgement().await?;
        if made.contains("error") {
            return Err(format!("JetStream: {made}").into());
        }
        Ok(client)
    }

    async fn publish(&mut self, count: usize) -> Result<(), Failure> {
        let mut text = format!("PUB bench ack {PAYLOAD}\r\n").into_bytes();
        text.extend([0x2a; PAYLOAD]);
        text.extend(b"\r\n");
        Ok(self.writer.write_all(&text.repeat(count)).await?)
    }

    async fn acknowledgement(&mut self) -> Result<String, Failure> {
        loop {
            let mut line = String::new();
            if self.reader.read_line(&mut line).await? == 0 {
                return Err("nats-server closed the connection".into());
            }
            if line.starts_with("PING") {
                self.writer.write_all(b"PONG\r\n").await?;
            }
            if let Some(size) = line.strip_prefix("MSG ").and_then(|rest| rest.split_whitespace().last()) {
                let mut body = vec![0; size.parse::<usize>()? + 2];
                self.reader.read_exact(&mut body).await?;
                return Ok(String::from_utf8_lossy(&body).into_owned());
            }
        }
    }
}

async fn start(dir: &Path) -> Result<(Server, u16), Failure> {
    // nats-server tells the port it took only in a file.
    let ports = dir.join("ports");
    fs::create_dir_all(&ports)?;
    let config = dir.join("nats.conf");
    let store = dir.join("js");
    let text = format!(
        "listen: \"127.0.0.1:-1\"\nports_file_dir: {ports:?}\njetstream {{ store_dir: {store:?}, max_file_store: 20GB }}\n"
    );
    fs::write(&config, text)?;
    let mut command = Command::new("nats-server");
    let child = command.arg("-c").arg(&config).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let server = Server(child);
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        for entry in fs::read_dir(&ports)? {
            let text = fs::read_to_string(entry?.path())?;
            let told: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
            let port = told["nats"][0].as_str().and_then(|url| url.rsplit(':').next()?.parse().ok());
            if let Some(port) = port {
                return Ok((server, port));
            }
        }
        if Instant::now() > deadline {
            return Err("nats-server did not say where it listens".into());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub async fn run(report: &mut Report, size: Size) -> Result<(), Failure> {
    if Command::new("nats-server").arg("--version").output().is_err() {
        eprintln!("nats: passed over, there is no nats-server in the PATH");
        return Ok(());
    }
    for in_flight in [1, 64, 512] {
        let mut rates = vec![];
        for _ in 0..size.rounds {
            let dir = crate::directory()?;
            let (_server, port) = start(dir.path()).await?;
            let mut client = Client::connect(port).await?;
            client.publish(in_flight).await?;
            let (since, mut done) = (Instant::now(), 0u64);
            while since.elapsed() < size.span {
                client.acknowledgement().await?;
                client.publish(1).await?;
                done += 1;
            }
            rates.push(done as f64 / since.elapsed().as_secs_f64());
        }
        report.add(&Figure::new(format!("JetStream (synced every 2 min), {in_flight} in flight"), "/s", rates));
    }
    Ok(())
}
