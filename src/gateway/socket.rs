//! A client's stream over a WebSocket.
//!
//! One task a socket, of which the gateway is the owner. What the client says
//! is not listened to, but that it says something: a silent one is gone.

use super::{
    line::Line,
    words::{Frame, frame},
};
use axum::{
    extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade},
    response::Response,
};
use std::time::Duration;
use tokio::time::{Instant, timeout};
use tokio_util::task::TaskTracker;

/// A frame that the client does not take for so long ends its socket.
const WRITE: Duration = Duration::from_secs(5);
/// For the client's own close frame.
const GOODBYE: Duration = Duration::from_secs(2);
/// It is pinged when nothing comes; this many pings without a word are too many.
const SILENT_PINGS: u32 = 3;
/// A client has nothing to say.
const MESSAGE_MAX: usize = 4 << 10;
/// Each socket has one, as long as it is open.
const READ_BUFFER: usize = 512;

/// Answers the upgrade; the task is one of `owner`'s.
pub fn serve(upgrade: WebSocketUpgrade, line: Line, owner: &TaskTracker) -> Response {
    let token = owner.token();
    let upgrade = upgrade.max_message_size(MESSAGE_MAX).max_frame_size(MESSAGE_MAX);
    upgrade.read_buffer_size(READ_BUFFER).write_buffer_size(0).on_upgrade(async move |socket| {
        run(socket, line).await;
        drop(token);
    })
}

async fn run(mut socket: WebSocket, mut line: Line) {
    let mut silent = 0;
    loop {
        let said = tokio::select! {
            said = line.next() => said,
            heard = socket.recv() => match heard {
                Some(Ok(Message::Close(_)) | Err(_)) | None => return,
                Some(Ok(_)) => {
                    silent = 0;
                    continue;
                }
            },
        };
        let Some(said) = said else { return };
        let message = match frame(&said) {
            Frame::Text(text) => Message::Text(text.into()),
            Frame::Ping if silent == SILENT_PINGS => return,
            Frame::Ping => {
                silent += 1;
                Message::Ping(bytes::Bytes::new())
            }
            Frame::Close { code, reason } => {
                // Its room is for others from now on.
                drop(line);
                return close(socket, CloseFrame { code, reason: reason.into() }).await;
            }
        };
        if !matches!(timeout(WRITE, socket.send(message)).await, Ok(Ok(()))) {
            return;
        }
    }
}

async fn close(mut socket: WebSocket, frame: CloseFrame) {
    let deadline = Instant::now() + GOODBYE;
    let goodbye = async {
        socket.send(Message::Close(Some(frame))).await?;
        while let Some(Ok(_)) = socket.recv().await {}
        Ok::<_, axum::Error>(())
    };
    // Whoever does not answer is gone all the same.
    let _ = tokio::time::timeout_at(deadline, goodbye).await;
}
