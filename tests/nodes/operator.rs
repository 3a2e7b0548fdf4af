//! The operator's socket while the node stops.

use crate::common::{LONG, TestNode, large_event};
use pillarbox::proto::pillarbox::admin::v1::ListQueueRequest;
use tokio::time::timeout;
use tonic::Code;

#[tokio::test]
async fn a_list_that_the_node_does_not_finish_ends_with_an_error() {
    let mut node = TestNode::start().await;
    let away = "away.example:7443".parse().unwrap();
    node.add(&away, node.key).await;
    // More than the way to a command holds while it does not read.
    let rows: u64 = 400;
    let events = (0..rows).map(|n| large_event(n, 60_000)).collect();
    node.federation().send(&away, events).await.unwrap();

    let mut operator = node.operator().await;
    let mut list = operator.list_queue(ListQueueRequest::default()).await.unwrap().into_inner();
    list.message().await.unwrap().unwrap();
    let read = async {
        let mut read = 1;
        loop {
            match list.message().await {
                Ok(Some(_)) => read += 1,
                Ok(None) => panic!("{read} rows of {rows} were all there was"),
                Err(status) => return (read, status),
            }
        }
    };
    // The node is told to stop before the next row is read.
    let ((), (read, status)) = timeout(LONG, async { tokio::join!(node.stop(), read) }).await.unwrap();
    assert!(read < rows, "{read} rows");
    // The end of the socket may outrun the node's own words.
    let said = status.code() == Code::Unavailable && status.message().contains("the list is not whole");
    assert!(said || status.code() == Code::Unknown, "{status}");
}
