//! Whose task a fetch is.

use super::*;
use crate::net::dial::DialConfig;
use tokio::{net::TcpListener, time::timeout};

const LONG: Duration = Duration::from_secs(40);

#[tokio::test]
async fn a_fetch_under_way_is_known_to_its_owner_and_ends_with_the_node() {
    // It takes the connection and never says a word.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let id = format!("localhost:{}", silent.local_addr().unwrap().port()).parse().unwrap();
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let keys = Keys::new(tasks.clone(), stop.clone());
    let (dialer, metrics) = (Dialer::new(&DialConfig::default()).unwrap(), Metrics::new());
    let target = Target { id, address: None, plaintext: false, http1: false, pinned: None, trusted: true };
    let stopped = async {
        let _open = silent.accept().await.unwrap();
        assert_eq!(tasks.len(), 1);
        stop.cancel();
        tasks.close();
        tasks.wait().await;
    };
    let both = async { tokio::join!(keys.fetch(&dialer, target, false, None, &metrics), stopped) };
    let (fetched, ()) = timeout(LONG, both).await.unwrap();
    assert!(fetched.unwrap_err().to_string().contains("the attempt was given up"));
}
