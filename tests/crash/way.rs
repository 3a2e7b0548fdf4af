//! A node as one principal reaches it, over all its restarts.

use crate::process::NodeProcess;
use pillarbox::net::{
    dial::{DialConfig, Dialer, Target},
    link::Link,
};
use std::time::Duration;
use tokio::time::{Instant, sleep};
use tonic::{
    Request,
    metadata::{Ascii, MetadataValue},
};

#[derive(Clone)]
pub struct Way {
    pub target: Target,
    bearer: MetadataValue<Ascii>,
    dialer: Dialer,
}

impl Way {
    pub fn of(node: &NodeProcess, principal: &str) -> Self {
        let target = Target {
            id: node.server_id.parse().unwrap(),
            address: None,
            plaintext: false,
            http1: false,
            pinned: Some(node.key.parse().unwrap()),
            trusted: true,
        };
        let bearer = format!("Bearer {}", node.ok(&["token", "new", principal]).trim()).parse().unwrap();
        Self { target, bearer, dialer: Dialer::new(&DialConfig::default()).unwrap() }
    }

    /// Asks until it is up, not too often: what is waited for is the connection.
    pub async fn connect(&self) -> Link {
        loop {
            let soon = Instant::now() + Duration::from_secs(5);
            if let Ok(link) = self.dialer.dial(&self.target, soon).await {
                return link;
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    pub fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.metadata_mut().insert("authorization", self.bearer.clone());
        request
    }
}
