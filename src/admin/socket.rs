//! `DATA_DIR/admin.sock`: gRPC for the operator's commands.
//!
//! The socket's mode is its protection: 0600, made under umask 077. The caller
//! holds the lock of the data directory, so a socket found there is stale.

use crate::{error::Error, net::tasks::Tasks};
use hyper_util::{rt::TokioIo, server::conn::auto, service::TowerToHyperService};
use rustix::{fs::Mode, process::umask};
use std::{convert::Infallible, fs, io::ErrorKind, os::unix::fs::PermissionsExt, path::Path, time::Duration};
use tokio::{net::UnixListener, time::timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::body::Body;
use tower::{Service, ServiceExt};

/// Commands under way when the node stops.
const GRACE: Duration = Duration::from_secs(1);
/// Bytes of a socket's path: `sockaddr_un` holds one more, a zero.
const PATH_MAX: usize = 107;
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Makes the socket anew. To be called while the process has one thread that
/// makes files: the umask is the process's.
pub fn bind(path: &Path) -> Result<UnixListener, Error> {
    let failed = |cause: std::io::Error| Error::Precondition(format!("cannot make {}: {cause}", path.display()));
    match fs::remove_file(path) {
        Ok(()) => {}
        Err(cause) if cause.kind() == ErrorKind::NotFound => {}
        Err(cause) => return Err(failed(cause)),
    }
    let length = path.as_os_str().len();
    if length > PATH_MAX {
        return Err(Error::Precondition(format!(
            "cannot make {}: its path has {length} bytes, a socket's at most {PATH_MAX}; give a shorter --data-dir",
            path.display()
        )));
    }
    let before = umask(Mode::RWXG | Mode::RWXO);
    let bound = UnixListener::bind(path);
    umask(before);
    let listener = bound.map_err(failed)?;
    // Making a socket leaves the owner's right to execute.
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(failed)?;
    Ok(listener)
}

/// Serves until `stop`.
pub async fn serve<S>(listener: UnixListener, service: S, stop: CancellationToken)
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send + 'static,
{
    let tasks = TaskTracker::new();
    let cut = CancellationToken::new();
    while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
        let Ok((stream, _)) = accepted else {
            stop.run_until_cancelled(tokio::time::sleep(ACCEPT_PAUSE)).await;
            continue;
        };
        let service = TowerToHyperService::new(
            service.clone().map_request(|request: http::Request<hyper::body::Incoming>| request.map(Body::new)),
        );
        let (stop, cut) = (stop.clone(), cut.clone());
        let executor = Tasks { tracker: tasks.clone(), cut: cut.clone() };
        tasks.spawn(async move {
            let builder = auto::Builder::new(executor).http2_only();
            let connection = builder.serve_connection(TokioIo::new(stream), service);
            tokio::pin!(connection);
            tokio::select! {
                _ = &mut connection => return,
                () = stop.cancelled() => connection.as_mut().graceful_shutdown(),
            }
            cut.run_until_cancelled(connection).await;
        });
    }
    tasks.close();
    if timeout(GRACE, tasks.wait()).await.is_err() {
        cut.cancel();
        tasks.wait().await;
    }
}
