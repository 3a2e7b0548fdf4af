//! One HTTP POST to an address that the operator gave.
//!
//! Over HTTP/1.1, each on a connection of its own. Plain HTTP goes to loopback
//! addresses only. Never follows a redirect, never shows the path or the query
//! of an address: they may hold a secret.

use crate::{
    error::Error,
    net::{
        dial::{Dialer, Target},
        link::LinkBody,
    },
    types::ServerId,
};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri, header, uri::PathAndQuery};
use http_body_util::{BodyExt, Full};
use std::{net::IpAddr, str::FromStr, time::Duration};
use tokio::time::{Instant, timeout_at};
use tonic::body::Body;

/// Of an answer's body no more is read.
const ANSWER_MAX: usize = 64 << 10;

/// Where to post to.
#[derive(Debug, Clone)]
pub struct PostUrl {
    target: Target,
    /// As it was written, so without a port that was not.
    host: HeaderValue,
    path: PathAndQuery,
}

impl PostUrl {
    pub fn host(&self) -> &str {
        self.target.id.host()
    }
}

impl FromStr for PostUrl {
    type Err = Error;

    /// [`Error::Invalid`] says what is wrong and does not quote the text.
    fn from_str(text: &str) -> Result<Self, Error> {
        let bad = |why: &str| Error::invalid(why);
        let uri: Uri = text.parse().map_err(|_| bad("not a URL"))?;
        let plaintext = match uri.scheme_str() {
            Some("https") => false,
            Some("http") => true,
            _ => return Err(bad("begins with neither https:// nor http://")),
        };
        let authority = uri.authority().ok_or_else(|| bad("the host is missing"))?;
        if authority.as_str().contains('@') {
            return Err(bad("a user in it is not supported"));
        }
        let port = uri.port_u16().unwrap_or(if plaintext { 80 } else { 443 });
        let id: ServerId =
            format!("{}:{port}", authority.host()).parse().map_err(|_| bad("the host is no domain or address"))?;
        if plaintext && !is_loopback(id.host()) {
            return Err(bad("plain http:// goes to localhost and loopback addresses only; write https://"));
        }
        let host = HeaderValue::from_str(authority.as_str()).map_err(|_| bad("the host is no domain or address"))?;
        let path = uri.path_and_query().cloned().unwrap_or(PathAndQuery::from_static("/"));
        let target = Target { id, address: None, plaintext, http1: true, pinned: None, trusted: true };
        Ok(Self { target, host, path })
    }
}

/// Whether a host, without brackets, is this machine by its very name.
pub fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
}

/// What was answered; the body is of no interest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    pub status: StatusCode,
    /// `Retry-After` in seconds; one that names a date counts as absent.
    pub retry_after: Option<Duration>,
}

/// [`Error::Unavailable`] when there was no answer before `deadline`.
pub async fn post(
    dialer: &Dialer,
    url: &PostUrl,
    headers: HeaderMap,
    body: Bytes,
    deadline: Instant,
) -> Result<Answer, Error> {
    let link = dialer.dial(&url.target, deadline).await.map_err(|error| Error::unavailable(error.to_string()))?;
    let mut request = Request::new(Body::new(Full::new(body)));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = url.path.clone().into();
    *request.headers_mut() = headers;
    request.headers_mut().insert(header::HOST, url.host.clone());
    let response = timeout_at(deadline, link.send(request))
        .await
        .map_err(|_| Error::unavailable(format!("{}: no answer in time", url.host())))?
        .map_err(|error| Error::unavailable(error.to_string()))?;
    let answer = Answer { status: response.status(), retry_after: retry_after(response.headers()) };
    // Read, so that the other side can finish; late or broken, the answer stands.
    let _ = timeout_at(deadline, drain(response.into_body())).await;
    Ok(answer)
}

async fn drain(mut body: LinkBody) {
    let mut read = 0;
    while let Some(Ok(frame)) = body.frame().await {
        read += frame.data_ref().map_or(0, Bytes::len);
        if read >= ANSWER_MAX {
            return;
        }
    }
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim().parse().ok().map(Duration::from_secs)
}

#[cfg(test)]
mod tests;
