//! An Ed25519 key: what every peer knows the node by, or clients their gateway.
//!
//! Kept in one PKCS#8 PEM file of mode 0600. Never leaves this type; never
//! logged.

use crate::{
    error::Error,
    types::{PublicKey, signed_bytes},
};
use ed25519_dalek::{
    Signer, SigningKey,
    pkcs8::{DecodePrivateKey, EncodePrivateKey, spki::der::pem::LineEnding},
};
use std::{
    fs::{self, OpenOptions},
    io::{ErrorKind, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::Path,
};

#[derive(Clone)]
pub struct NodeKey(SigningKey);

impl NodeKey {
    /// Reads the key, or makes one if there is no file. Refuses a file that
    /// anybody but its owner can read.
    pub fn load_or_make(path: &Path) -> Result<Self, Error> {
        match fs::metadata(path) {
            Ok(metadata) if metadata.mode() & 0o077 != 0 => Err(Error::Precondition(format!(
                "{} can be read by others (mode {:o}); whoever read it can sign as its owner. \
                 If nobody did: chmod 600 {}",
                path.display(),
                metadata.mode() & 0o777,
                path.display(),
            ))),
            Ok(_) => Self::load(path),
            Err(error) if error.kind() == ErrorKind::NotFound => Self::make(path),
            Err(error) => Err(Error::internal(format!("{}: {error}", path.display()))),
        }
    }

    fn load(path: &Path) -> Result<Self, Error> {
        let pem = fs::read_to_string(path).map_err(|error| Error::internal(format!("{}: {error}", path.display())))?;
        SigningKey::from_pkcs8_pem(&pem)
            .map(Self)
            .map_err(|_| Error::Precondition(format!("{} is not an Ed25519 key in PKCS#8 PEM", path.display())))
    }

    fn make(path: &Path) -> Result<Self, Error> {
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).map_err(Error::internal)?;
        let key = SigningKey::from_bytes(&seed);
        let pem = key.to_pkcs8_pem(LineEnding::LF).map_err(Error::internal)?;
        // Whole or not at all: a half-written key would stop the next start.
        let fresh = path.with_extension("new");
        let write = || {
            let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
            file.write_all(pem.as_bytes())?;
            file.sync_all()?;
            fs::rename(&fresh, path)?;
            let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
            fs::File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
        };
        write().map_err(|error| Error::internal(format!("{}: {error}", path.display())))?;
        Ok(Self(key))
    }

    pub fn public(&self) -> PublicKey {
        PublicKey::from_bytes(self.0.verifying_key().as_bytes())
            .expect("the public half of a signing key is a strong point of the curve")
    }

    /// Signs the bytes as they stand; for Harmony's tokens only.
    pub(super) fn sign_token_data(&self, data: &[u8]) -> [u8; 64] {
        self.0.sign(data).to_bytes()
    }

    /// Signs the bytes for one purpose of ours (`types::signed_bytes`).
    pub fn sign(&self, purpose: &str, bytes: &[u8]) -> [u8; 64] {
        self.0.sign(&signed_bytes(purpose, bytes)).to_bytes()
    }

    /// Signs what is framed already.
    pub fn sign_framed(&self, framed: &[u8]) -> [u8; 64] {
        debug_assert!(framed.starts_with(b"\0pillarbox"), "never sign what could be a Harmony token");
        self.0.sign(framed).to_bytes()
    }
}

#[cfg(test)]
mod tests;
