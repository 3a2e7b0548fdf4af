//! Threshold ECDSA (CGGMP24) on secp256k1 over three nodes, one of which is
//! killed in the middle: alice, bob and carol generate a key, two of them sign,
//! and the signature verifies under plain ECDSA.
//!
//! `cargo run --release --example cggmp` does all of it and exits 1 unless the
//! signature verifies. The protocols are those of the `cggmp24` crate, with
//! their own checks that broadcasts were the same for all. The safe primes of
//! the parties' Paillier keys are in `primes.json`, since finding them takes
//! minutes: anybody can read them there. A real party makes its own
//! (`-- primes` prints three new sets).

#[path = "../stage/mod.rs"]
mod stage;

use cggmp24::{
    DataToSign, ExecutionId, IncompleteKeyShare, KeyShare, PregeneratedPrimes, key_share::AuxInfo,
    security_level::SecurityLevel128, supported_curves::Secp256k1,
};
use k256::{ecdsa::signature::Verifier, sha2::Sha256};
use rand_core::OsRng;
use stage::{Actor, Director, Outage, Run, bytes, hex};
use std::{error::Error, process::ExitCode};

const THRESHOLD: u16 = 2;
const PRIMES: &str = include_str!("primes.json");

type Primes = PregeneratedPrimes<SecurityLevel128>;

#[derive(Default)]
struct Party {
    key: Option<(IncompleteKeyShare<Secp256k1>, Vec<String>)>,
    aux: Option<AuxInfo<SecurityLevel128>>,
}

impl Actor for Party {
    async fn play(&mut self, run: Run<'_>) -> Result<String, Box<dyn Error>> {
        let id = ExecutionId::new(run.session.as_bytes());
        match run.kind.as_str() {
            "keygen" => {
                let keygen = cggmp24::keygen::<Secp256k1>(id, run.own, run.count()).set_threshold(THRESHOLD);
                let share = keygen.start(&mut OsRng, run.connect()?).await?;
                let key = hex(share.shared_public_key.to_bytes(true).as_ref());
                self.key = Some((share, run.parties));
                Ok(key)
            }
            "aux" => {
                let mut primes: Vec<Primes> = serde_json::from_str(PRIMES)?;
                let primes = primes.swap_remove(usize::from(run.own));
                let aux = cggmp24::aux_info_gen(id, run.own, run.count(), primes);
                self.aux = Some(aux.start(&mut OsRng, run.connect()?).await?);
                Ok("verified".into())
            }
            "sign" => {
                let (key, names) = self.key.clone().ok_or("there is no key yet")?;
                let aux = self.aux.clone().ok_or("there is no auxiliary information yet")?;
                let share = KeyShare::from_parts((key, aux))?;
                let seat = |name: &String| names.iter().position(|other| other == name);
                let seats = run.parties.iter().map(|name| {
                    let seat = seat(name).ok_or_else(|| format!("{name} has no share of this key"))?;
                    Ok(u16::try_from(seat)?)
                });
                let seats = seats.collect::<Result<Vec<u16>, Box<dyn Error>>>()?;
                let data = DataToSign::digest::<Sha256>(&run.message);
                let signing = cggmp24::signing(id, run.own, &seats, &share);
                let signature = signing.sign(&mut OsRng, run.connect()?, &data).await?.normalize_s();
                let mut bytes = [0; 64];
                signature.write_to_slice(&mut bytes);
                Ok(hex(&bytes))
            }
            other => Err(format!("{other:?} is no run of this example").into()),
        }
    }
}

async fn play(director: &mut Director) -> Result<String, String> {
    let message = b"a letter from anyone in the street";
    let all = ["alice", "bob", "carol"];
    let key = director.run("keygen", &all, &[]).await?;
    director.run("aux", &all, &[]).await?;
    let signature = director.run("sign", &["alice", "carol"], message).await?;
    director.says(format!("public key  {key}"));
    director.says(format!("signature   {signature}"));
    // Another implementation than the one that signed.
    verify(&key, &signature, message).map_err(|why| format!("the signature does not verify: {why}"))?;
    Ok("VERIFIED: alice and carol signed as one ECDSA key on secp256k1 (checked by k256)".into())
}

fn verify(key: &str, signature: &str, message: &[u8]) -> Result<(), Box<dyn Error>> {
    let key = k256::ecdsa::VerifyingKey::from_sec1_bytes(&bytes(key)?)?;
    Ok(key.verify(message, &k256::ecdsa::Signature::from_slice(&bytes(signature)?)?)?)
}

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some("primes") {
        let primes: Vec<Primes> = (0..3).map(|_| Primes::generate(&mut OsRng)).collect();
        return match serde_json::to_string_pretty(&primes) {
            Ok(text) => {
                println!("{text}");
                ExitCode::SUCCESS
            }
            Err(cause) => stage::failed(&cause.to_string()),
        };
    }
    // Before they send their proofs, the largest messages: two of them wait for node C.
    stage::run::<Party>(Outage { run: "aux".into(), round: 1 }, play)
}
