//! The HTTP side: routes, who is let in, and what every answer says of itself.
//!
//! Asks the backend about each client. Never logs a request's URI: a token may
//! be in it.

use super::{
    access::{self, Origin},
    event::Signer,
    hub::{Hub, Refused, Who},
    line::Line,
    page, socket,
    words::sse,
};
use crate::client::{Error, Push};
use axum::{
    Router,
    body::Body as AxumBody,
    extract::{State, ws::WebSocketUpgrade},
    response::{IntoResponse, Response},
    routing::get,
};
use futures_util::stream;
use http::{HeaderMap, HeaderValue, Request, StatusCode, Uri, header, request::Parts};
use serde_json::{Value, json};
use std::{convert::Infallible, sync::Arc, time::Duration};
use tokio::{sync::Semaphore, time::timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{Code, body::Body};
use tower::{Service, ServiceExt};

/// Clients that are being looked up at once; the others wait their turn.
const CHECKS: usize = 64;
const TURN: Duration = Duration::from_secs(5);
/// What a client may call itself; longer names are cut.
const USER_AGENT: usize = 256;
/// An event's id has 20 characters; what is shown of anything else.
const LAST_EVENT_ID: usize = 64;

/// What the routes share.
#[derive(Debug, Clone)]
pub struct App {
    pub hub: Arc<Hub>,
    pub push: Push,
    pub signer: Arc<Signer>,
    pub origins: Arc<[String]>,
    pub keep_alive: Duration,
    /// Owns the tasks of WebSockets and of questions to the backend.
    pub tasks: TaskTracker,
    /// Nobody is asked any more.
    pub stop: CancellationToken,
    pub checks: Checks,
}

/// Turns to ask the backend.
#[derive(Debug, Clone)]
pub struct Checks(Arc<Semaphore>);

impl Default for Checks {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(CHECKS)))
    }
}

/// What the listener serves.
pub fn service(
    app: App,
) -> impl Service<
    Request<Body>,
    Response = http::Response<Body>,
    Error = Infallible,
    Future = impl Future<Output = Result<http::Response<Body>, Infallible>> + Send,
> + Clone
+ Send {
    let router = Router::new()
        .route("/", get(page))
        .route("/events", get(events).options(preflight))
        .route("/ws", get(web_socket))
        .route("/health", get(health))
        .route("/key", get(key))
        .fallback(nothing)
        .method_not_allowed_fallback(no_method)
        .with_state(app);
    tower::service_fn(move |request: Request<Body>| {
        let router = router.clone();
        async move {
            let mut response = router.oneshot(request).await?;
            let headers = response.headers_mut();
            headers.entry(header::CONTENT_SECURITY_POLICY).or_insert(NOTHING_RUNS);
            headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
            headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
            headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
            Ok(response.map(Body::new))
        }
    })
}

const NOTHING_RUNS: HeaderValue = HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'");
const JSON: HeaderValue = HeaderValue::from_static("application/json");

fn answer(status: StatusCode, body: &Value) -> Response {
    (status, [(header::CONTENT_TYPE, JSON)], format!("{body}\n")).into_response()
}

/// A refusal, and when to come again.
fn refusal(status: StatusCode, error: &str, message: &str, retry_after: Option<u64>) -> Response {
    let mut response = answer(status, &json!({ "error": error, "message": message }));
    if let Some(seconds) = retry_after {
        response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
    }
    if status == StatusCode::UNAUTHORIZED {
        response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}

async fn nothing() -> Response {
    refusal(StatusCode::NOT_FOUND, "not_found", "there are /, /events, /ws, /health and /key", None)
}

async fn no_method() -> Response {
    refusal(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "there is GET", None)
}

async fn page() -> Response {
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8")),
        (header::CONTENT_SECURITY_POLICY, page::policy()),
    ];
    (headers, page::HTML).into_response()
}

async fn health(State(app): State<App>) -> Response {
    let standing = app.hub.standing();
    let (status, word) = match (standing.subscribed, standing.open) {
        (true, true) => (StatusCode::OK, "subscribed"),
        (true, false) => (StatusCode::SERVICE_UNAVAILABLE, "catching_up"),
        (false, _) => (StatusCode::SERVICE_UNAVAILABLE, "away"),
    };
    answer(status, &json!({ "status": word, "since": standing.since.0 }))
}

async fn key(State(app): State<App>) -> Response {
    answer(StatusCode::OK, &json!({ "gateway": app.signer.gateway, "key": app.signer.public().to_string() }))
}

/// What a browser asks before a page of another origin may send a token.
async fn preflight(State(app): State<App>, parts: Parts) -> Response {
    let Ok(allowed) = app.origin(&parts.headers, &parts.uri) else { return foreign() };
    let mut response = StatusCode::NO_CONTENT.into_response();
    let headers = response.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET"));
    let names = HeaderValue::from_static("authorization, last-event-id, cache-control");
    headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, names);
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
    with_origin(response, allowed)
}

async fn events(State(app): State<App>, parts: Parts) -> Response {
    let Ok(allowed) = app.origin(&parts.headers, &parts.uri) else { return foreign() };
    with_origin(app.events(&parts).await, allowed)
}

async fn web_socket(State(app): State<App>, parts: Parts, upgrade: Upgrade) -> Response {
    if app.origin(&parts.headers, &parts.uri).is_err() {
        return foreign();
    }
    let upgrade = match upgrade {
        Ok(upgrade) => upgrade,
        Err(rejection) => return refusal(rejection.status(), "no_web_socket", &rejection.body_text(), None),
    };
    match app.admit(&parts).await {
        Ok(line) => socket::serve(upgrade, line, &app.tasks),
        Err(response) => response,
    }
}

type Upgrade = Result<WebSocketUpgrade, axum::extract::ws::rejection::WebSocketUpgradeRejection>;

fn foreign() -> Response {
    let message = "pages of this origin may not use this gateway; its operator can let them in with --allow-origin";
    refusal(StatusCode::FORBIDDEN, "foreign_origin", message, None)
}

fn with_origin(mut response: Response, allowed: Option<HeaderValue>) -> Response {
    let headers = response.headers_mut();
    headers.insert(header::VARY, HeaderValue::from_static("origin"));
    if let Some(origin) = allowed {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static("retry-after"));
    }
    response
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

impl App {
    /// The origin to be allowed in the answer, if it is of another page. An
    /// error: that page may not.
    fn origin(&self, headers: &HeaderMap, uri: &Uri) -> Result<Option<HeaderValue>, ()> {
        // HTTP/2 has the host in the URI.
        let host = text(headers, "host").or(uri.authority().map(|authority| authority.as_str()));
        let origin = match headers.get(header::ORIGIN) {
            None => None,
            Some(value) => Some(value.to_str().map_err(drop)?),
        };
        match access::origin(origin, host, &self.origins) {
            Origin::Own => Ok(None),
            Origin::Allowed => Ok(headers.get(header::ORIGIN).cloned()),
            Origin::Foreign => Err(()),
        }
    }

    async fn events(&self, parts: &Parts) -> Response {
        let line = match self.admit(parts).await {
            Ok(line) => line,
            Err(response) => return response,
        };
        let pieces = stream::unfold(line, |mut line| async move {
            let said = line.next().await?;
            Some((Ok::<_, Infallible>(sse(&said)), line))
        });
        let headers = [
            (header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
            // A proxy that gathers what it passes on would hold the events back.
            (header::HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no")),
        ];
        (headers, AxumBody::from_stream(pieces)).into_response()
    }

    /// The client's stream, or what it is answered instead.
    async fn admit(&self, parts: &Parts) -> Result<Line, Response> {
        let (headers, query) = (&parts.headers, parts.uri.query());
        let unauthenticated = |message: &str| refusal(StatusCode::UNAUTHORIZED, "unauthenticated", message, None);
        let authorization = headers.get(header::AUTHORIZATION).map(|value| value.to_str().unwrap_or_default());
        let token = access::token(authorization, query)
            .ok_or_else(|| unauthenticated("give a token: authorization: Bearer …, or ?token="))?;
        if !self.hub.standing().open {
            return Err(away("the gateway is not ready yet"));
        }
        let last = text(headers, "last-event-id").map(str::to_owned);
        let mut last = last.or_else(|| access::parameter(query, "last_event_id"));
        if let Some(last) = &mut last {
            last.truncate(last.floor_char_boundary(LAST_EVENT_ID));
        }
        let agent = text(headers, "user-agent").unwrap_or_default();
        let agent = agent[..agent.floor_char_boundary(USER_AGENT)].to_owned();

        let ticket = self.hub.ticket();
        let who = self.check(token, agent).await?;
        let admitted = self.hub.admit(ticket, who, last.as_deref()).map_err(|refused| match refused {
            Refused::Full => refusal(StatusCode::SERVICE_UNAVAILABLE, "full", "there are too many clients", Some(30)),
            Refused::UserFull => {
                let message = "this user has too many streams; close one";
                refusal(StatusCode::TOO_MANY_REQUESTS, "too_many_streams", message, Some(30))
            }
            Refused::Revoked => unauthenticated("the session has just ended"),
            Refused::Again => away("the gateway is not ready; come again"),
        })?;
        Ok(Line::new(admitted, self.signer.clone(), last.as_deref(), self.keep_alive))
    }

    async fn check(&self, token: String, agent: String) -> Result<Who, Response> {
        let turn = timeout(TURN, self.checks.0.clone().acquire_owned()).await;
        let Ok(Ok(turn)) = turn else { return Err(away("too many clients come at once")) };
        let (push, stop) = (self.push.clone(), self.stop.clone());
        // Whoever goes away meanwhile does not break the call off: a backend ends a connection on which
        // too much is broken off, and the subscription with it.
        let asked = self.tasks.spawn(async move {
            let answer = stop.run_until_cancelled(push.check(&token, &agent)).await;
            drop(turn);
            answer
        });
        let Ok(Some(answer)) = asked.await else { return Err(away("the gateway stops")) };
        match answer {
            Ok(answer) if !answer.user_id.is_empty() => {
                Ok(Who { user: answer.user_id, session: answer.device_session_id, expires_at: answer.expires_at })
            }
            Ok(_) => {
                tracing::warn!("the backend names no user for a token that it calls valid");
                Err(away("the backend's answer is not understood"))
            }
            Err(error) => match error.code() {
                Some(Code::Unauthenticated | Code::InvalidArgument) if !is_ours(&error) => Err(refusal(
                    StatusCode::UNAUTHORIZED,
                    "unauthenticated",
                    "the token is not valid, or not any more",
                    None,
                )),
                Some(code) => {
                    tracing::warn!(?code, %error, "the backend does not say whose a token is");
                    Err(away("the backend does not say whose the token is"))
                }
                None => {
                    tracing::debug!(%error, "the backend is not reached");
                    Err(away("the backend is away"))
                }
            },
        }
    }
}

/// The backend complains of the gateway's own token, not of the client's.
fn is_ours(error: &Error) -> bool {
    matches!(error, Error::Refused(status) if status.message().starts_with("authorization:"))
}

fn away(message: &str) -> Response {
    refusal(StatusCode::SERVICE_UNAVAILABLE, "unavailable", message, Some(2))
}
