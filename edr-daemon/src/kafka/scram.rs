//! The client side of a SCRAM login (RFC 5802, RFC 7677): the password is proved without being sent, and the broker
//! proves that it knows the password too.

use openssl::base64::{decode_block, encode_block};
use openssl::error::ErrorStack;
use openssl::hash::{MessageDigest, hash};
use openssl::memcmp;
use openssl::pkcs5::pbkdf2_hmac;
use openssl::pkey::PKey;
use openssl::sign::Signer;

use crate::secret::Secret;

/// Largest number of hash iterations that a broker may demand. Kafka stores 4,096 to 16,384; a million takes a second.
const ITERATIONS_MAX: usize = 1_000_000;
/// Bytes of the client's nonce.
const NONCE_BYTES: usize = 24;

/// A login under way.
pub(super) struct Scram<'a> {
    digest: MessageDigest,
    password: &'a Secret,
    nonce: String,
    first_bare: String,
}

/// The last message of the client, and the signature with which the broker must answer.
pub(super) struct Proof {
    /// The message to send.
    pub(super) message: String,
    signature: Vec<u8>,
}

impl<'a> Scram<'a> {
    pub(super) fn new(digest: MessageDigest, username: &str, password: &'a Secret) -> Result<Self, String> {
        let mut random = [0; NONCE_BYTES];
        openssl::rand::rand_bytes(&mut random).map_err(text)?;
        Ok(Self::with_nonce(digest, username, password, encode_block(&random)))
    }

    fn with_nonce(digest: MessageDigest, username: &str, password: &'a Secret, nonce: String) -> Self {
        let name = username.replace('=', "=3D").replace(',', "=2C");
        let first_bare = format!("n={name},r={nonce}");
        Self { digest, password, nonce, first_bare }
    }

    /// Returns the first message of the client.
    pub(super) fn first(&self) -> String {
        format!("n,,{}", self.first_bare)
    }

    /// Answers the broker's first message with the proof of the password.
    pub(super) fn prove(&self, server_first: &[u8]) -> Result<Proof, String> {
        let server_first = std::str::from_utf8(server_first).map_err(|_| malformed())?;
        let field = |name: &str| server_first.split(',').find_map(|part| part.strip_prefix(name)).ok_or_else(malformed);
        let nonce = field("r=")?;
        if !nonce.starts_with(&self.nonce) || nonce.len() == self.nonce.len() {
            return Err("the broker answered another login (SCRAM nonce)".to_owned());
        }
        let salt = decode_block(field("s=")?).map_err(|_| malformed())?;
        let iterations: usize = field("i=")?.parse().map_err(|_| malformed())?;
        if !(1..=ITERATIONS_MAX).contains(&iterations) {
            return Err(format!(
                "the broker demands {iterations} iterations of SCRAM; at most {ITERATIONS_MAX} are made"
            ));
        }
        let mut salted = vec![0; self.digest.size()];
        pbkdf2_hmac(self.password.expose(), &salt, iterations, self.digest, &mut salted).map_err(text)?;
        let without_proof = format!("c=biws,r={nonce}");
        let auth = format!("{},{server_first},{without_proof}", self.first_bare);
        let client_key = self.hmac(&salted, b"Client Key")?;
        let stored_key = hash(self.digest, &client_key).map_err(text)?;
        let client_signature = self.hmac(&stored_key, auth.as_bytes())?;
        let proof: Vec<u8> = client_key.iter().zip(&client_signature).map(|(key, signature)| key ^ signature).collect();
        let server_key = self.hmac(&salted, b"Server Key")?;
        let signature = self.hmac(&server_key, auth.as_bytes())?;
        Ok(Proof { message: format!("{without_proof},p={}", encode_block(&proof)), signature })
    }

    fn hmac(&self, key: &[u8], data: &[u8]) -> Result<Vec<u8>, String> {
        let key = PKey::hmac(key).map_err(text)?;
        Signer::new(self.digest, &key).and_then(|mut signer| signer.sign_oneshot_to_vec(data)).map_err(text)
    }
}

impl Proof {
    /// Checks the broker's last message.
    pub(super) fn check(&self, server_final: &[u8]) -> Result<(), String> {
        let server_final = std::str::from_utf8(server_final).map_err(|_| malformed())?;
        let signature = server_final.split(',').find_map(|part| part.strip_prefix("v=")).ok_or_else(malformed)?;
        let signature = decode_block(signature).map_err(|_| malformed())?;
        if signature.len() == self.signature.len() && memcmp::eq(&signature, &self.signature) {
            Ok(())
        } else {
            Err("the broker does not know this user's password (SCRAM signature)".to_owned())
        }
    }
}

fn malformed() -> String {
    "the broker's SCRAM message is malformed".to_owned()
}

fn text(error: ErrorStack) -> String {
    error.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of RFC 7677, section 3.
    #[test]
    fn the_login_of_the_standard_is_made_and_a_wrong_broker_is_found() {
        let password = Secret::new(b"pencil".to_vec());
        let nonce = "rOprNGfwEbeRWgbNEkqO".to_owned();
        let scram = Scram::with_nonce(MessageDigest::sha256(), "user", &password, nonce);
        assert_eq!(scram.first(), "n,,n=user,r=rOprNGfwEbeRWgbNEkqO");
        let server_first = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
        let proof = scram.prove(server_first.as_bytes()).unwrap();
        assert_eq!(
            proof.message,
            "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
        );
        proof.check(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=").unwrap();
        proof.check(b"v=7rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=").unwrap_err();
        proof.check(b"e=invalid-proof").unwrap_err();
        for wrong in ["r=other,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096", &server_first.replace("4096", "4000000000"), "r="] {
            assert!(scram.prove(wrong.as_bytes()).is_err(), "{wrong}");
        }
    }
}
