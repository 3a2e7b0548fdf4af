//! The node's self-signed certificate: made, kept in a directory, read back.
//!
//! It carries the node's Ed25519 key and that key's signature over the
//! certificate's own key (the scheme of libp2p's TLS specification), so that
//! who pinned the node key needs no authority. Never holds the node's private
//! key: the caller signs.

use crate::{
    error::Error,
    types::{PublicKey, signed_bytes},
};
use rcgen::{
    CertificateParams, CustomExtension, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    PKCS_ECDSA_P256_SHA256, PublicKeyData,
};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use std::{
    fs,
    io::{self, Write},
    net::IpAddr,
    os::unix::fs::OpenOptionsExt,
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use x509_parser::{
    der_parser::Oid,
    extensions::GeneralName,
    prelude::{ASN1Time, FromDer, X509Certificate},
};

/// The extension's id, under the arc that needs no registration (ITU-T X.667).
///
/// Its value is DER: SEQUENCE { OCTET STRING key (32 bytes, Ed25519),
/// OCTET STRING signature (64 bytes) }; the signature is over
/// `signed_bytes("tls", SubjectPublicKeyInfo of the certificate in DER)`.
pub const NODE_KEY_OID: &[u64] = &[2, 25, 4_327_480_746_965_936_465];

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const LIFETIME: Duration = Duration::from_secs(3652 * 24 * 60 * 60);
/// A kept certificate is made anew when it ends within this time.
const RENEW_BEFORE: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// Certificate (chain) and private key as PEM texts.
#[derive(Clone, PartialEq, Eq)]
pub struct PemPair {
    pub cert: String,
    /// Secret.
    pub key: String,
}

impl std::fmt::Debug for PemPair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PemPair").field("cert", &self.cert).finish_non_exhaustive()
    }
}

impl PemPair {
    /// Both files as they are. [`Error::Precondition`] names the file that
    /// cannot be read.
    pub fn read(cert: &Path, key: &Path) -> Result<Self, Error> {
        let text = |path: &Path| fs::read_to_string(path).map_err(|cause| unusable(path, &cause));
        Ok(Self { cert: text(cert)?, key: text(key)? })
    }
}

/// An ECDSA P-256 certificate valid from yesterday for ten years.
///
/// `names`: DNS names and addresses (subjectAltName), at least one. `sign`
/// signs the bytes it is given with the private key of `node_public`. It is no
/// CA, and yet a client that is given it as its only root accepts it.
pub fn self_signed(
    names: &[String],
    node_public: &PublicKey,
    sign: &dyn Fn(&[u8]) -> [u8; 64],
) -> Result<PemPair, Error> {
    let now = SystemTime::now();
    self_signed_within(names, node_public, sign, now - DAY, now + LIFETIME)
}

pub(super) fn self_signed_within(
    names: &[String],
    node_public: &PublicKey,
    sign: &dyn Fn(&[u8]) -> [u8; 64],
    not_before: SystemTime,
    not_after: SystemTime,
) -> Result<PemPair, Error> {
    let Some(first) = names.first() else {
        return Err(Error::invalid("a certificate needs at least one name"));
    };
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(Error::internal)?;
    let mut params = CertificateParams::new(names)
        .map_err(|cause| Error::invalid(format!("certificate names {names:?}: {cause}")))?;
    params.not_before = not_before.into();
    params.not_after = not_after.into();
    params.is_ca = IsCa::ExplicitNoCa;
    // No key usage: some verifiers look for keyCertSign before they let a
    // certificate be its own issuer, and a non-CA may not have that.
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.distinguished_name = DistinguishedName::new();
    // X.520 bounds a common name to 64 characters; the names that count are in subjectAltName.
    params.distinguished_name.push(DnType::CommonName, first.chars().take(64).collect::<String>());
    let signature = sign(&signed_bytes("tls", &key.subject_public_key_info()));
    params.custom_extensions =
        vec![CustomExtension::from_oid_content(NODE_KEY_OID, extension_value(node_public, &signature))];
    let certificate = params.self_signed(&key).map_err(Error::internal)?;
    Ok(PemPair { cert: certificate.pem(), key: key.serialize_pem() })
}

/// The extension's DER; every length in it is fixed.
pub(super) fn extension_value(key: &PublicKey, signature: &[u8; 64]) -> Vec<u8> {
    let mut out = Vec::with_capacity(102);
    out.extend_from_slice(&[0x30, 100, 0x04, 32]);
    out.extend_from_slice(key.as_bytes());
    out.extend_from_slice(&[0x04, 64]);
    out.extend_from_slice(signature);
    out
}

fn parse_extension(value: &[u8]) -> Option<(&[u8], &[u8])> {
    let (key, rest) = value.strip_prefix(&[0x30, 100, 0x04, 32])?.split_at_checked(32)?;
    let signature = rest.strip_prefix(&[0x04, 64])?;
    (signature.len() == 64).then_some((key, signature))
}

/// Whether this certificate speaks for the node key `pinned`: it carries that
/// key, the key signed the certificate's own key, and `now` (seconds since
/// 1970) lies within its dates. Names do not matter. `Err` says why not.
pub fn check_pinned(certificate: &[u8], pinned: &PublicKey, now: u64) -> Result<(), &'static str> {
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|_| "the certificate cannot be read")?;
    let moment = i64::try_from(now).ok().and_then(|seconds| ASN1Time::from_timestamp(seconds).ok());
    let moment = moment.ok_or("the clock is out of range")?;
    if moment < parsed.validity().not_before {
        return Err("the certificate is not valid yet");
    }
    if moment > parsed.validity().not_after {
        return Err("the certificate has expired");
    }
    let oid = Oid::from(NODE_KEY_OID).map_err(|_| "the extension's id cannot be written")?;
    let extension = parsed.get_extension_unique(&oid).map_err(|_| "the certificate carries more than one node key")?;
    let extension = extension.ok_or("the certificate carries no node key")?;
    let (key, signature) = parse_extension(extension.value).ok_or("the certificate's node key cannot be read")?;
    if key != pinned.as_bytes() {
        return Err("the certificate carries another node key than the one pinned");
    }
    if !pinned.verify(&signed_bytes("tls", parsed.public_key().raw), signature) {
        return Err("the node key's signature in the certificate is wrong");
    }
    Ok(())
}

/// Keeps `cert.pem` (0644) and `key.pem` (0600) in `dir`, which is made if it
/// is missing. Makes both anew when one is missing or unreadable, when a name
/// is not covered, when it ends within 30 days, and when it speaks for another
/// node key. [`Error::Precondition`] names the file that cannot be read or written.
pub fn load_or_make(
    dir: &Path,
    names: &[String],
    node_public: &PublicKey,
    sign: &dyn Fn(&[u8]) -> [u8; 64],
) -> Result<PemPair, Error> {
    let (cert_path, key_path) = (dir.join("cert.pem"), dir.join("key.pem"));
    let (cert, key) = (read_if_there(&cert_path)?, read_if_there(&key_path)?);
    if let (Some(cert), Some(key)) = (cert, key) {
        let kept = PemPair { cert, key };
        match still_good(&kept, names, node_public, SystemTime::now()) {
            Ok(()) => return Ok(kept),
            Err(why) => tracing::info!(why, "making a new self-signed certificate"),
        }
    }
    let made = self_signed(names, node_public, sign)?;
    fs::create_dir_all(dir).map_err(|cause| unusable(dir, &cause))?;
    // The key first: a crash between the two leaves a pair that does not
    // match, which the next start sees and mends.
    write(&key_path, &made.key, 0o600).map_err(|cause| unusable(&key_path, &cause))?;
    write(&cert_path, &made.cert, 0o644).map_err(|cause| unusable(&cert_path, &cause))?;
    Ok(made)
}

fn read_if_there(path: &Path) -> Result<Option<String>, Error> {
    match fs::read(path) {
        // What is not UTF-8 is not PEM: as good as missing.
        Ok(bytes) => Ok(String::from_utf8(bytes).ok()),
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(cause) => Err(unusable(path, &cause)),
    }
}

fn unusable(path: &Path, cause: &io::Error) -> Error {
    Error::Precondition(format!("{}: {cause}; check that it exists and who may read and write it", path.display()))
}

/// `Err` says why the pair must be made anew.
fn still_good(pair: &PemPair, names: &[String], node_public: &PublicKey, now: SystemTime) -> Result<(), &'static str> {
    let der = CertificateDer::from_pem_slice(pair.cert.as_bytes()).map_err(|_| "the certificate cannot be read")?;
    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    check_pinned(&der, node_public, now.as_secs())?;
    check_pinned(&der, node_public, (now + RENEW_BEFORE).as_secs()).map_err(|_| "the certificate ends soon")?;
    let (_, parsed) = X509Certificate::from_der(&der).map_err(|_| "the certificate cannot be read")?;
    let key = KeyPair::from_pem(&pair.key).map_err(|_| "the key cannot be read")?;
    if key.subject_public_key_info() != parsed.public_key().raw {
        return Err("key and certificate do not belong together");
    }
    let covered = match parsed.subject_alternative_name() {
        Ok(Some(extension)) => &extension.value.general_names[..],
        _ => &[],
    };
    if !names.iter().all(|name| covered.iter().any(|general| is_name(general, name))) {
        return Err("the certificate lacks a name");
    }
    Ok(())
}

fn is_name(general: &GeneralName<'_>, name: &str) -> bool {
    match (general, name.parse::<IpAddr>()) {
        (GeneralName::DNSName(dns), Err(_)) => dns.eq_ignore_ascii_case(name),
        (GeneralName::IPAddress(bytes), Ok(IpAddr::V4(v4))) => *bytes == v4.octets(),
        (GeneralName::IPAddress(bytes), Ok(IpAddr::V6(v6))) => *bytes == v6.octets(),
        _ => false,
    }
}

/// Whole or not at all: a temporary file beside it, synced, renamed over it.
fn write(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    let temporary = path.with_extension("pem.new");
    // A crash may have left one, with who knows what mode.
    match fs::remove_file(&temporary) {
        Err(cause) if cause.kind() != io::ErrorKind::NotFound => return Err(cause),
        _ => {}
    }
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
    // The mode given to open is cut by the process's umask.
    file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(mode))?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&temporary, path)
}

#[cfg(test)]
mod tests;
