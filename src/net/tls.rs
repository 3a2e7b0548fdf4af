//! TLS on both sides: rustls with ring, TLS 1.2 and 1.3.
//!
//! The server's certificate can be replaced while it serves. The client
//! accepts a server by WebPKI or by a pinned node key, and tells by which.
//! Never uses a process-wide provider, never reads an environment variable.

use crate::{
    error::Error,
    net::certificate::{self, PemPair},
    types::PublicKey,
};
use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme,
    client::{
        Resumption, WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use std::{
    fs,
    path::Path,
    sync::{Arc, OnceLock, PoisonError, RwLock},
};

const H2: &[u8] = b"h2";
const HTTP1: &[u8] = b"http/1.1";

/// How the other end of a connection we dialled showed who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verified {
    /// A chain to a public root or to one of `ca_file`, for the name dialled.
    WebPki,
    /// Its certificate speaks for the node key that was pinned.
    Pinned,
    /// No TLS, so not at all.
    Plaintext,
}

fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    PROVIDER.get_or_init(|| Arc::new(ring::default_provider())).clone()
}

/// The server's side. Clones share the certificate.
#[derive(Debug, Clone)]
pub struct ServerTls {
    config: Arc<ServerConfig>,
    current: Arc<Current>,
}

/// The certificate to show; the lock is held for a pointer's copy.
#[derive(Debug)]
struct Current(RwLock<Arc<CertifiedKey>>);

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.read().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

impl ServerTls {
    /// [`Error::Invalid`] when the texts are no certificate and key, or do not
    /// belong together.
    pub fn new(pems: &PemPair) -> Result<Self, Error> {
        let current = Arc::new(Current(RwLock::new(certified(pems)?)));
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(Error::internal)?
            .with_no_client_auth()
            .with_cert_resolver(current.clone());
        config.alpn_protocols = vec![H2.to_vec(), HTTP1.to_vec()];
        Ok(Self { config: Arc::new(config), current })
    }

    /// From now on new connections see this certificate. On an error the one
    /// before stays.
    pub fn replace(&self, pems: &PemPair) -> Result<(), Error> {
        let certified = certified(pems)?;
        *self.current.0.write().unwrap_or_else(PoisonError::into_inner) = certified;
        Ok(())
    }

    pub fn config(&self) -> Arc<ServerConfig> {
        self.config.clone()
    }
}

fn certified(pems: &PemPair) -> Result<Arc<CertifiedKey>, Error> {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(pems.cert.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|cause| Error::invalid(format!("TLS certificate: {cause}")))?;
    if chain.is_empty() {
        return Err(Error::invalid("TLS certificate: there is no CERTIFICATE section in the PEM text"));
    }
    let key = PrivateKeyDer::from_pem_slice(pems.key.as_bytes())
        .map_err(|cause| Error::invalid(format!("TLS key: {cause}")))?;
    let certified = CertifiedKey::from_der(chain, key, &provider())
        .map_err(|cause| Error::invalid(format!("TLS certificate and key: {cause}")))?;
    Ok(Arc::new(certified))
}

/// The roots that count as WebPKI: Mozilla's and those of `ca_file`.
#[derive(Debug, Clone)]
pub struct Roots(Arc<WebPkiServerVerifier>);

impl Roots {
    /// `ca_file`: PEM certificates, each a root of its own (a CA's, or a
    /// server's self-signed one). [`Error::Invalid`] names the file.
    pub fn new(ca_file: Option<&Path>) -> Result<Self, Error> {
        let mut store = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
        if let Some(path) = ca_file {
            let bad = |cause: String| Error::invalid(format!("ca_file {}: {cause}", path.display()));
            let text = fs::read(path).map_err(|cause| bad(cause.to_string()))?;
            let before = store.len();
            for certificate in CertificateDer::pem_slice_iter(&text) {
                let certificate = certificate.map_err(|cause| bad(cause.to_string()))?;
                store.add(certificate).map_err(|cause| bad(cause.to_string()))?;
            }
            if store.len() == before {
                return Err(bad("there is no CERTIFICATE section in it".into()));
            }
        }
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(store), provider()).build();
        Ok(Self(verifier.map_err(Error::internal)?))
    }

    /// A configuration for one handshake. `http1_only` offers no h2.
    ///
    /// A resumed session would skip the verifier, and with it the pin: so
    /// there is no resumption, and each handshake has a verifier of its own.
    pub(super) fn client(
        &self,
        pinned: Option<PublicKey>,
        http1_only: bool,
    ) -> Result<(ClientConfig, Arc<Verifier>), Error> {
        let verifier = Arc::new(Verifier { webpki: self.0.clone(), pinned, verified: OnceLock::new() });
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(Error::internal)?
            .dangerous()
            .with_custom_certificate_verifier(verifier.clone())
            .with_no_client_auth();
        config.resumption = Resumption::disabled();
        config.alpn_protocols = if http1_only { vec![HTTP1.to_vec()] } else { vec![H2.to_vec(), HTTP1.to_vec()] };
        Ok((config, verifier))
    }
}

/// WebPKI first (it may replace a learnt key, so it must be seen when it
/// holds), then the pin.
#[derive(Debug)]
pub(super) struct Verifier {
    webpki: Arc<WebPkiServerVerifier>,
    pinned: Option<PublicKey>,
    verified: OnceLock<Verified>,
}

impl Verifier {
    /// `None` before the certificate was seen and accepted.
    pub(super) fn verified(&self) -> Option<Verified> {
        self.verified.get().copied()
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let webpki = self.webpki.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        let verified = match (webpki, &self.pinned) {
            (Ok(_), _) => Verified::WebPki,
            (Err(cause), None) => return Err(cause),
            (Err(cause), Some(pinned)) => {
                certificate::check_pinned(end_entity, pinned, now.as_secs())
                    .map_err(|why| rustls::Error::General(format!("{why} (and by WebPKI: {cause})")))?;
                Verified::Pinned
            }
        };
        // A handshake verifies once; should it not, the first word stands.
        self.verified.get_or_init(|| verified);
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.webpki.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.webpki.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.webpki.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests;
