//! Notifications by e-mail: one connection a mail, to the operator's server.
//!
//! With TLS, or STARTTLS that is insisted on; without either towards loopback
//! only. A mail says which session and which node, never what waits there.

use super::{Failure, Notice};
use crate::{error::Error, net::post::is_loopback};
use http::Uri;
use lettre::{
    Address, Message,
    message::{
        Mailbox,
        header::{ContentType, HeaderName, HeaderValue},
    },
    transport::smtp::{
        authentication::{Credentials, Mechanism},
        client::{AsyncSmtpConnection, Certificate, CertificateStore, TlsParameters},
        extension::ClientId,
    },
};
use std::{fs, net::IpAddr, path::Path, time::Duration};
use tokio::time::{Instant, timeout, timeout_at};

const MECHANISMS: [Mechanism; 2] = [Mechanism::Plain, Mechanism::Login];
/// To connect to one address of the server; there may be others.
const CONNECT: Option<Duration> = Some(Duration::from_secs(4));
/// A server that took the mail may answer QUIT for so long.
const GOODBYE: Duration = Duration::from_secs(1);

/// How a connection is made secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Security {
    None,
    StartTls,
    Tls,
}

/// Where mails are handed in.
#[derive(Debug)]
pub struct Server {
    /// Without brackets.
    host: String,
    port: u16,
    security: Security,
    credentials: Option<Credentials>,
}

impl Server {
    /// Reads `smtps://user:password@host:port` or `smtp://`, user and password
    /// percent-encoded. The error does not quote the text.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let bad = |why: &str| Error::invalid(why);
        let uri: Uri = text.parse().map_err(|_| bad("not a URL; percent-encode what is special in the password"))?;
        let authority = uri.authority().ok_or_else(|| bad("the host is missing"))?;
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
        let (security, port) = match uri.scheme_str() {
            Some("smtps") => (Security::Tls, 465),
            Some("smtp") if is_loopback(&host) => (Security::None, 25),
            Some("smtp") => (Security::StartTls, 587),
            _ => return Err(bad("begins with neither smtps:// nor smtp://")),
        };
        if host.is_empty() {
            return Err(bad("the host is missing"));
        }
        if uri.path() != "/" && !uri.path().is_empty() || uri.query().is_some() {
            return Err(bad("there is something after the host and port"));
        }
        let credentials = match authority.as_str().rsplit_once('@') {
            None => None,
            Some((user, _)) => {
                let (name, password) = user.split_once(':').ok_or_else(|| bad("a user without a password"))?;
                let plain = |text| decode(text).ok_or_else(|| bad("user or password: not percent-encoded UTF-8"));
                Some(Credentials::new(plain(name)?, plain(password)?))
            }
        };
        Ok(Self { host, port: uri.port_u16().unwrap_or(port), security, credentials })
    }
}

/// "%40" → "@".
fn decode(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let byte = match byte {
            b'%' => {
                let mut digit = || char::from(rest.next()?).to_digit(16);
                u8::try_from(digit()? << 4 | digit()?).ok()?
            }
            byte => byte,
        };
        out.push(byte);
    }
    String::from_utf8(out).ok()
}

/// Sends mails.
pub struct Mail {
    server: Server,
    from: Mailbox,
    tls: Option<TlsParameters>,
}

impl Mail {
    /// `ca_file`: PEM certificates that are roots besides the public ones.
    pub fn new(server: Server, from: Mailbox, ca_file: Option<&Path>) -> Result<Self, Error> {
        let tls = match server.security {
            Security::None => None,
            Security::StartTls | Security::Tls => {
                let builder = TlsParameters::builder(server.host.clone());
                let mut builder = builder.certificate_store(CertificateStore::WebpkiRoots);
                if let Some(path) = ca_file {
                    let bad = |cause: String| Error::invalid(format!("ca_file {}: {cause}", path.display()));
                    let pem = fs::read(path).map_err(|cause| bad(cause.to_string()))?;
                    let roots = Certificate::from_pem(&pem).map_err(|cause| bad(cause.to_string()))?;
                    builder = builder.add_root_certificate(roots);
                }
                Some(builder.build().map_err(|cause| Error::invalid(format!("relay.notify.smtp_url: {cause}")))?)
            }
        };
        Ok(Self { server, from, tls })
    }

    /// Hands one mail to the server. When it failed late the server may have
    /// taken it: the next attempt has the same `Message-ID`.
    pub async fn send(&self, to: &str, notice: &Notice<'_>, deadline: Instant) -> Result<(), Failure> {
        let to: Address = to.parse().map_err(|_| Failure::last("the party's e-mail address is none"))?;
        let mail = compose(self.from.clone(), to, notice).map_err(|cause| Failure::last(cause.to_string()))?;
        let host = notice.node.host();
        let hello = match host.parse() {
            Ok(IpAddr::V4(address)) => ClientId::Ipv4(address),
            Ok(IpAddr::V6(address)) => ClientId::Ipv6(address),
            Err(_) => ClientId::Domain(host.to_owned()),
        };
        let sent = timeout_at(deadline, self.hand_in(&hello, &mail)).await;
        let mut connection = sent.map_err(|_| Failure::transient("no answer in time"))??;
        // The mail is taken; how we part does not matter.
        let _ = timeout(GOODBYE, connection.quit()).await;
        Ok(())
    }

    async fn hand_in(&self, hello: &ClientId, mail: &Message) -> Result<AsyncSmtpConnection, Failure> {
        let server = (self.server.host.as_str(), self.server.port);
        let tls = self.tls.clone();
        let mut connection = match (self.server.security, tls) {
            (Security::StartTls, Some(tls)) => {
                let mut connection = AsyncSmtpConnection::connect_tokio1(server, CONNECT, hello, None, None).await?;
                connection.starttls(tls, hello).await?;
                connection
            }
            (_, tls) => AsyncSmtpConnection::connect_tokio1(server, CONNECT, hello, tls, None).await?,
        };
        if let Some(credentials) = &self.server.credentials {
            connection.auth(&MECHANISMS, credentials).await?;
        }
        connection.send(mail.envelope(), &mail.formatted()).await?;
        Ok(connection)
    }
}

impl From<lettre::transport::smtp::Error> for Failure {
    /// What the server writes may quote the recipient: only its code is told.
    fn from(error: lettre::transport::smtp::Error) -> Self {
        let cause = match error.status() {
            Some(code) => format!("the SMTP server answered {code}"),
            None => error.to_string(),
        };
        match error.is_permanent() || error.is_client() {
            true => Self::last(cause),
            false => Self::transient(cause),
        }
    }
}

fn compose(from: Mailbox, to: Address, notice: &Notice<'_>) -> Result<Message, lettre::error::Error> {
    let (node, session) = (notice.node, notice.session);
    Message::builder()
        .from(from)
        .to(Mailbox::new(None, to))
        .subject(format!("A session waits for you on {node}"))
        .message_id(Some(format!("<{}@{}>", notice.id, node.host())))
        // So that no holiday answer comes back.
        .raw_header(HeaderValue::new(HeaderName::new_from_ascii_str("Auto-Submitted"), "auto-generated".to_owned()))
        .header(ContentType::TEXT_PLAIN)
        .body(format!("Session: {session}\nNode: {node}\n"))
}

#[cfg(test)]
mod tests;
