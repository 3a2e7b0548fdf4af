//! A link between two nodes that can be cut: what connects to it is carried to
//! a port of this machine.
//!
//! Ends, with every connection, when it is dropped.

use std::net::{Ipv4Addr, SocketAddr};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
    task::{AbortHandle, JoinSet},
};

pub struct Link {
    address: SocketAddr,
    cut: watch::Sender<bool>,
    task: AbortHandle,
}

impl Link {
    /// A way to `port`.
    pub async fn to(port: u16) -> Result<Self, String> {
        let failed = |cause: std::io::Error| format!("cannot make a link: {cause}");
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let (cut, watched) = watch::channel(false);
        let task = tokio::spawn(accept(listener, port, watched)).abort_handle();
        Ok(Self { address, cut, task })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// While it is cut nothing goes through, and what went through has ended.
    pub fn cut(&self, cut: bool) {
        self.cut.send_replace(cut);
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, port: u16, cut: watch::Receiver<bool>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((client, _)) if !*cut.borrow() => _ = connections.spawn(carry(client, port, cut.clone())),
                // Refused, or the machine is out of sockets: whoever connects tries again.
                _ => tokio::task::yield_now().await,
            },
        }
    }
}

async fn carry(mut client: TcpStream, port: u16, mut cut: watch::Receiver<bool>) {
    let Ok(mut server) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await else { return };
    tokio::select! {
        _ = copy_bidirectional(&mut client, &mut server) => {}
        _ = cut.wait_for(|cut| *cut) => {}
    }
}
