//! Streams of answers by themselves, without a connection.

use super::*;
use futures_util::{FutureExt, future, stream};
use std::sync::Mutex;
use tokio::sync::{Semaphore, oneshot};

fn numbers(count: u32) -> impl Stream<Item = Item<u32>> {
    stream::iter((0..count).map(|number| Ok(number.into())))
}

#[tokio::test]
async fn answers_come_in_order_and_end_with_the_stream() {
    let tasks = TaskTracker::new();
    let feed = Feed::new(&tasks, numbers(100), future::pending(), None);
    let read: Vec<u32> = feed.map(Result::unwrap).collect().await;
    assert_eq!(read, (0..100).collect::<Vec<_>>());
    tasks.close();
    tasks.wait().await;
}

#[tokio::test]
async fn an_error_is_the_last_answer() {
    let tasks = TaskTracker::new();
    let stream = numbers(2).chain(stream::iter([Err(Status::aborted("replaced")), Ok(9.into())]));
    let mut feed = Feed::new(&tasks, stream, future::pending(), None);
    assert_eq!((feed.next().await.unwrap().unwrap(), feed.next().await.unwrap().unwrap()), (0, 1));
    assert_eq!(feed.next().await.unwrap().unwrap_err().code(), tonic::Code::Aborted);
    assert!(feed.next().await.is_none());
}

/// What a stream waits for is waited for although its client reads nothing.
#[tokio::test]
async fn the_work_goes_on_without_a_reader() {
    let tasks = TaskTracker::new();
    let (go, asked) = oneshot::channel::<()>();
    let (done, seen) = oneshot::channel::<()>();
    let work = async move {
        asked.await.unwrap();
        done.send(()).unwrap();
        Ok(Held::from(1))
    };
    let feed = Feed::new(&tasks, stream::once(work), future::pending(), None);
    go.send(()).unwrap();
    seen.await.unwrap();
    drop(feed);
}

#[tokio::test]
async fn it_ends_from_outside_at_once_whatever_waits() {
    let tasks = TaskTracker::new();
    let (end, ended) = oneshot::channel::<Status>();
    let mut feed = Feed::new(&tasks, numbers(u32::MAX), ended.map(Result::unwrap), None);
    assert_eq!(feed.next().await.unwrap().unwrap(), 0);
    end.send(Status::unauthenticated("revoked")).unwrap();
    // The task has ended although its queue is full.
    tasks.close();
    tasks.wait().await;
    assert_eq!(feed.next().await.unwrap().unwrap_err().code(), tonic::Code::Unauthenticated);
    assert!(feed.next().await.is_none());
}

#[tokio::test]
async fn the_task_ends_with_its_reader() {
    let tasks = TaskTracker::new();
    let gone = Arc::new(Mutex::new(()));
    let kept = gone.clone();
    let silent = stream::unfold(kept, |kept| async { Some((future::pending::<Item<u32>>().await, kept)) });
    drop(Feed::new(&tasks, silent, future::pending(), None));
    tasks.close();
    tasks.wait().await;
    assert_eq!(Arc::strong_count(&gone), 1);
}

#[tokio::test]
async fn room_is_given_back_when_the_next_answer_is_asked_for() {
    let tasks = TaskTracker::new();
    let rooms = Arc::new(Semaphore::new(1));
    let room = Arc::new(rooms.clone().acquire_owned().await.unwrap());
    let items = stream::iter([Ok(Held { answer: 1, room: Some(room) })]).chain(stream::pending());
    let mut feed = Feed::new(&tasks, items, future::pending(), None);
    feed.next().await.unwrap().unwrap();
    assert_eq!(rooms.available_permits(), 0);
    assert!(feed.next().now_or_never().is_none());
    assert_eq!(rooms.available_permits(), 1);
}

#[tokio::test]
async fn who_does_not_read_is_told_so_when_it_does() {
    let tasks = TaskTracker::new();
    let patience = |lasts| Some(Patience { lasts, over: Status::resource_exhausted("unread") });
    let patient = Feed::new(&tasks, numbers(100), future::pending(), patience(Duration::from_secs(3_600)));
    assert_eq!(patient.map(Result::unwrap).collect::<Vec<_>>().await.len(), 100);
    let mut unread = Feed::new(&tasks, numbers(100), future::pending(), patience(Duration::from_millis(1)));
    // The task has ended by itself.
    tasks.close();
    tasks.wait().await;
    assert_eq!(unread.next().await.unwrap().unwrap_err().code(), tonic::Code::ResourceExhausted);
    assert!(unread.next().await.is_none());
}
