//! Handshakes: who is accepted, and why.

use super::*;
use crate::net::fixture::{node, pair};
use rustls::{ClientConnection, ServerConnection};

/// A whole handshake in memory.
fn shake(client: ClientConfig, server: Arc<ServerConfig>, name: &str) -> Result<(), String> {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut client = ClientConnection::new(Arc::new(client), name).unwrap();
    let mut server = ServerConnection::new(server).unwrap();
    let mut bytes = Vec::new();
    while client.is_handshaking() || server.is_handshaking() {
        client.write_tls(&mut bytes).unwrap();
        server.read_tls(&mut &*std::mem::take(&mut bytes)).unwrap();
        server.process_new_packets().map_err(|cause| format!("server: {cause}"))?;
        server.write_tls(&mut bytes).unwrap();
        client.read_tls(&mut &*std::mem::take(&mut bytes)).unwrap();
        client.process_new_packets().map_err(|cause| format!("client: {cause}"))?;
    }
    Ok(())
}

#[test]
fn a_certificate_is_no_use_without_its_key() {
    // The victim's certificate, another's key: only the handshake's signature can tell.
    let (public, _) = node(1);
    let victim = CertificateDer::from_pem_slice(pair(1, "localhost").cert.as_bytes()).unwrap();
    let own = PrivateKeyDer::from_pem_slice(pair(2, "localhost").key.as_bytes()).unwrap();
    let stolen = CertifiedKey::new(vec![victim], ring::sign::any_supported_type(&own).unwrap());
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let mut server = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[version])
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(Current(RwLock::new(Arc::new(stolen.clone())))));
        server.alpn_protocols = vec![H2.to_vec()];
        let (client, _) = Roots::new(None).unwrap().client(Some(public), false).unwrap();
        let error = shake(client, Arc::new(server), "localhost").unwrap_err();
        assert!(error.contains("client: invalid peer certificate: BadSignature"), "{version:?}: {error}");
    }
}

#[test]
fn both_versions_of_tls_are_spoken() {
    let (public, _) = node(1);
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let server = ServerTls::new(&pair(1, "localhost")).unwrap();
        let (mut client, verifier) = Roots::new(None).unwrap().client(Some(public), false).unwrap();
        client = {
            let mut only = ClientConfig::builder_with_provider(provider())
                .with_protocol_versions(&[version])
                .unwrap()
                .dangerous()
                .with_custom_certificate_verifier(verifier.clone())
                .with_no_client_auth();
            only.alpn_protocols = client.alpn_protocols;
            only
        };
        assert_eq!(verifier.verified(), None);
        shake(client, server.config(), "localhost").unwrap();
        assert_eq!(verifier.verified(), Some(Verified::Pinned));
    }
}

#[test]
fn a_pair_that_does_not_belong_together_is_refused_and_the_old_one_stays() {
    let (one, two) = (pair(1, "localhost"), pair(2, "localhost"));
    let mixed = PemPair { cert: one.cert.clone(), key: two.key.clone() };
    assert!(matches!(ServerTls::new(&mixed), Err(Error::Invalid(_))));
    for bad in [mixed, PemPair { cert: String::new(), ..two.clone() }, PemPair { key: String::new(), ..two }] {
        let server = ServerTls::new(&one).unwrap();
        assert!(matches!(server.replace(&bad), Err(Error::Invalid(_))));
        let (client, verifier) = Roots::new(None).unwrap().client(Some(node(1).0), false).unwrap();
        shake(client, server.config(), "localhost").unwrap();
        assert_eq!(verifier.verified(), Some(Verified::Pinned));
    }
}

#[test]
fn a_replaced_certificate_is_shown_from_then_on() {
    let server = ServerTls::new(&pair(1, "localhost")).unwrap();
    let try_pin = |seed| {
        let (client, _) = Roots::new(None).unwrap().client(Some(node(seed).0), false).unwrap();
        shake(client, server.config(), "localhost")
    };
    assert!(try_pin(1).is_ok() && try_pin(2).is_err());
    server.replace(&pair(2, "localhost")).unwrap();
    assert!(try_pin(1).is_err() && try_pin(2).is_ok());
}

#[test]
fn a_ca_file_that_holds_no_certificate_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ca.pem");
    for text in ["", "hello", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
        fs::write(&path, text).unwrap();
        let error = Roots::new(Some(&path)).unwrap_err();
        assert!(error.to_string().contains("ca.pem"), "{error}");
    }
    assert!(Roots::new(Some(&dir.path().join("none"))).is_err());
}
