//! Signs tokens for runners: valid ones with the keys of operator and gateway, and invalid ones.

use crate::Fleet;
use anyhow::{Context, Result};
use aws_lc_rs::signature::Ed25519KeyPair;
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use camofleet_auth::token::{Issuer, Signer};
use k8s_openapi::api::core::v1::Secret;
use serde_json::Value;
use std::time::{SystemTime, UNIX_EPOCH};

/// An issuer's private key.
pub struct Key {
    issuer: Issuer,
    der: Vec<u8>,
}

impl Key {
    /// Loads the key with which the fleet's issuer signs.
    pub async fn load(fleet: &Fleet, issuer: Issuer) -> Result<Self> {
        let name = format!("camofleet-{}-key", issuer.as_str());
        let secret = fleet.release::<Secret>().get(&name).await?;
        let key = secret.data.and_then(|mut data| data.remove("private-key"));
        Ok(Self { issuer, der: key.with_context(|| format!("Secret {name} has no key"))?.0 })
    }

    /// Creates a key that no runner trusts.
    pub fn untrusted(issuer: Issuer) -> Self {
        Self { issuer, der: camofleet_auth::token::new_private_key() }
    }

    /// A signer of valid tokens.
    pub fn signer(&self) -> Signer {
        Signer::from_pkcs8(self.issuer, &self.der).expect("the key is an Ed25519 key")
    }

    /// Signs a JWT with arbitrary claims (RFC 7519, RFC 8037).
    pub fn sign(&self, claims: &Value) -> String {
        let encode = |value: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(value);
        let signed = format!("{}.{}", encode(br#"{"alg":"EdDSA","typ":"JWT"}"#), encode(claims.to_string().as_bytes()));
        let pair = Ed25519KeyPair::from_pkcs8(&self.der).expect("the key is an Ed25519 key");
        format!("{signed}.{}", encode(pair.sign(signed.as_bytes()).as_ref()))
    }
}

/// The time in `seconds` seconds as a JWT's NumericDate (RFC 7519).
pub fn unix_time_in(seconds: i64) -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is set after 1970").as_secs();
    i64::try_from(now).expect("the time fits into an i64") + seconds
}
