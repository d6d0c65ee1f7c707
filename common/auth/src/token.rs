//! Signs and verifies tokens: JWTs with Ed25519 signatures (RFC 7519, RFC 8037).
//!
//! Every call to a runner carries a token whose audience is the UID of the runner's pod. A runner pod runs once
//! (`restartPolicy: Never`), so a token for one run is invalid for any other. There are two issuers. The operator's
//! token has its epoch, by which the runner fences off former leaders. The gateway's *hop token* is for connections to
//! one session with one scope. The gateway signs one for each connection, but the runner does not remember it, so it
//! opens any number of connections within its lifetime unless it has the id of a single-use token.
//!
//! The gateway also signs *session tokens* for users ([`SessionToken`]) and *logins* for browsers ([`Login`]). Their
//! audiences differ from those of runner calls, so runners reject them and users cannot bypass the gateway.

use aws_lc_rs::signature::{ED25519_PUBLIC_KEY_LEN, Ed25519KeyPair, KeyPair};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// Lifetime of an operator's token.
pub const OPERATOR_TOKEN_TTL: Duration = Duration::from_secs(60);
/// Lifetime of a hop token. The runner checks it when the connection is opened, and not afterwards.
pub const HOP_TOKEN_TTL: Duration = Duration::from_secs(30);
/// Tolerated difference between the clocks of two nodes.
const LEEWAY: Duration = Duration::from_secs(10);

/// A program that signs tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Issuer {
    /// Signs tokens for its calls to runners.
    Operator,
    /// Signs hop tokens, session tokens and logins.
    Gateway,
}

impl Issuer {
    /// Value of the claim `iss`, and key of the issuer in key files.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Operator => "operator",
            Self::Gateway => "gateway",
        }
    }
}

const SESSION_AUDIENCE: &str = "camofleet-session";
const LOGIN_AUDIENCE: &str = "camofleet-login";

/// What a token permits its holder to do with a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Control the browser with Playwright.
    Connect,
    /// View the display and send input to it.
    Control,
    /// View the display.
    View,
}

impl Scope {
    /// The serialized name. In a token, the claim `role` holds the scope, which is unrelated to the role of a static
    /// token.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Control => "control",
            Self::View => "view",
        }
    }
}

/// Authenticated caller of a runner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Caller {
    /// The operator.
    Operator {
        /// resourceVersion of the Lease when the leader acquired it. A runner rejects a lower epoch than the highest it
        /// has seen.
        epoch: u64,
    },
    /// The gateway, on behalf of an authenticated client.
    Gateway {
        /// UID of the only session that the token is valid for.
        session: String,
        /// What the token permits.
        scope: Scope,
        /// Id of the user's token, if that token is valid for one connection only.
        single_use_id: Option<String>,
    },
}

/// A user's token for one session, valid for a limited time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionToken {
    /// UID of the session.
    pub session: String,
    /// What the token permits.
    pub scope: Scope,
    /// Expiry, in seconds since 1970-01-01 UTC.
    pub expires: u64,
    /// Id of the token, if it is valid for one connection only. The session's runner remembers used ids.
    pub single_use_id: Option<String>,
}

/// A login cookie of a browser, which replaces the static token that the user entered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login {
    /// SHA-256 of the static token in base64url. The login is invalid once that token is removed.
    pub token_hash: String,
    /// Expiry, in seconds since 1970-01-01 UTC.
    pub expires: u64,
}

/// Why a token was rejected. The messages can be sent to the caller, because they reveal nothing about keys.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The token is malformed, expired, for another audience, or signed with an unknown key.
    #[error("invalid token: {0}")]
    Invalid(#[from] jsonwebtoken::errors::Error),
    /// The token is valid but lacks a claim that its issuer's tokens must have.
    #[error("the token has no claim {0}")]
    Missing(&'static str),
    /// No public key of the token's issuer is configured.
    #[error("unknown token issuer")]
    UnknownIssuer,
}

impl TokenError {
    /// Whether the token was rejected only because it has expired.
    pub fn is_expiry(&self) -> bool {
        matches!(self, Self::Invalid(error) if *error.kind() == jsonwebtoken::errors::ErrorKind::ExpiredSignature)
    }
}

#[derive(Serialize, Deserialize)]
struct Claims {
    iss: Issuer,
    aud: String,
    exp: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    epoch: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sub: Option<String>,
    /// Serialized as `role`, because programs of an earlier version read that claim during an upgrade. It is not the
    /// role of a static token.
    #[serde(rename = "role", skip_serializing_if = "Option::is_none")]
    scope: Option<Scope>,
    /// Set in tokens that are valid for one connection only.
    #[serde(skip_serializing_if = "Option::is_none")]
    jti: Option<String>,
}

/// Signs tokens with the private key of one issuer.
pub struct Signer {
    issuer: Issuer,
    key: EncodingKey,
    public: PublicKey,
}

impl Signer {
    /// Reads the private key from a PKCS#8 document (DER), like those of [`new_private_key`].
    ///
    /// # Errors
    /// The document is not an Ed25519 private key.
    pub fn from_pkcs8(issuer: Issuer, der: &[u8]) -> Result<Self, InvalidKey> {
        let pair = Ed25519KeyPair::from_pkcs8(der).map_err(|_| InvalidKey)?;
        let public = PublicKey(BASE64_URL_SAFE_NO_PAD.encode(pair.public_key().as_ref()));
        Ok(Self { issuer, key: EncodingKey::from_ed_der(der), public })
    }

    /// Public key of the pair.
    pub fn public_key(&self) -> &PublicKey {
        &self.public
    }

    /// Signs a token for the operator's calls to the runner in this pod. `at` is the current time by the operator's own
    /// clock, which follows the API server and not its node.
    pub fn operator_token(&self, pod_uid: &str, epoch: u64, at: SystemTime) -> String {
        self.sign(Claims { epoch: Some(epoch), ..self.claims(pod_uid, unix_seconds(at + OPERATOR_TOKEN_TTL)) })
    }

    /// Signs a token for connections to a session on the runner in this pod, within [`HOP_TOKEN_TTL`]. `single_use_id`
    /// is the id of the user's token, if that token is valid for one connection only. The runner then accepts it once.
    pub fn hop_token(&self, pod_uid: &str, session_uid: &str, scope: Scope, single_use_id: Option<&str>) -> String {
        self.sign(Claims {
            sub: Some(session_uid.to_owned()),
            scope: Some(scope),
            jti: single_use_id.map(str::to_owned),
            ..self.claims(pod_uid, unix_seconds(SystemTime::now() + HOP_TOKEN_TTL))
        })
    }

    /// Signs a session token.
    pub fn session_token(&self, token: SessionToken) -> String {
        let SessionToken { session, scope, expires, single_use_id } = token;
        self.sign(Claims {
            sub: Some(session),
            scope: Some(scope),
            jti: single_use_id,
            ..self.claims(SESSION_AUDIENCE, expires)
        })
    }

    /// Signs a login.
    pub fn login(&self, login: Login) -> String {
        self.sign(Claims { sub: Some(login.token_hash), ..self.claims(LOGIN_AUDIENCE, login.expires) })
    }

    fn claims(&self, aud: &str, exp: u64) -> Claims {
        Claims { iss: self.issuer, aud: aud.to_owned(), exp, epoch: None, sub: None, scope: None, jti: None }
    }

    fn sign(&self, claims: Claims) -> String {
        jsonwebtoken::encode(&Header::new(Algorithm::EdDSA), &claims, &self.key)
            .expect("the claims serialize, and `from_pkcs8` has validated the key")
    }
}

/// A document is not an Ed25519 private key in PKCS#8.
#[derive(Debug, thiserror::Error)]
#[error("not an Ed25519 private key in PKCS#8")]
pub struct InvalidKey;

/// Generates a private key as a PKCS#8 document (DER).
pub fn new_private_key() -> Vec<u8> {
    let document =
        Ed25519KeyPair::generate_pkcs8(&aws_lc_rs::rand::SystemRandom::new()).expect("the system has a random source");
    document.as_ref().to_vec()
}

/// A raw Ed25519 public key in base64url, like the parameter `x` of a JWK (RFC 8037 section 2).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PublicKey(String);

impl PublicKey {
    /// Parses the base64url form.
    ///
    /// # Errors
    /// The text is not the base64url of 32 bytes.
    pub fn parse(text: &str) -> Result<Self, InvalidPublicKey> {
        match BASE64_URL_SAFE_NO_PAD.decode(text.trim()) {
            Ok(bytes) if bytes.len() == ED25519_PUBLIC_KEY_LEN => Ok(Self(text.trim().to_owned())),
            _ => Err(InvalidPublicKey(text.to_owned())),
        }
    }

    /// The base64url form.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A text is not an Ed25519 public key.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is not an Ed25519 public key in base64url")]
pub struct InvalidPublicKey(String);

/// Trusted public keys by issuer, the current one first. Serialized, they are a runner's key file. Previous keys stay
/// trusted during a key rotation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PublicKeys(pub BTreeMap<Issuer, Vec<PublicKey>>);

impl PublicKeys {
    /// Takes the keys of `fallback` for each issuer that has none here.
    pub fn with_fallback(mut self, fallback: Self) -> Self {
        for (issuer, keys) in fallback.0 {
            let own = self.0.entry(issuer).or_default();
            if own.is_empty() {
                *own = keys;
            }
        }
        self
    }

    /// Authenticates the caller of the runner in the pod with this UID.
    ///
    /// # Errors
    /// The token is not valid: see [`TokenError`].
    pub fn verify(&self, token: &str, pod_uid: &str) -> Result<Caller, TokenError> {
        self.claims(token, pod_uid, LEEWAY)?.try_into()
    }

    /// Verifies a session token. No leeway applies to its expiry, because gateways both sign and verify it, and the
    /// user knows the exact time.
    ///
    /// # Errors
    /// The token is not valid, or the gateway did not sign it: see [`TokenError`].
    pub fn verify_session_token(&self, token: &str) -> Result<SessionToken, TokenError> {
        let claims = self.gateway_claims(token, SESSION_AUDIENCE)?;
        Ok(SessionToken {
            session: claims.sub.ok_or(TokenError::Missing("`sub`"))?,
            scope: claims.scope.ok_or(TokenError::Missing("`role` (the scope)"))?,
            expires: claims.exp,
            single_use_id: claims.jti,
        })
    }

    /// Verifies a login, also without leeway.
    ///
    /// # Errors
    /// The login is not valid, or the gateway did not sign it: see [`TokenError`].
    pub fn verify_login(&self, text: &str) -> Result<Login, TokenError> {
        let claims = self.gateway_claims(text, LOGIN_AUDIENCE)?;
        Ok(Login { token_hash: claims.sub.ok_or(TokenError::Missing("`sub`"))?, expires: claims.exp })
    }

    fn gateway_claims(&self, token: &str, audience: &str) -> Result<Claims, TokenError> {
        let claims = self.claims(token, audience, Duration::ZERO)?;
        if claims.iss == Issuer::Gateway { Ok(claims) } else { Err(TokenError::UnknownIssuer) }
    }

    fn claims(&self, token: &str, audience: &str, leeway: Duration) -> Result<Claims, TokenError> {
        let mut rejection = None;
        for (issuer, key) in self.0.iter().flat_map(|(issuer, keys)| keys.iter().map(move |key| (*issuer, key))) {
            let mut validation = Validation::new(Algorithm::EdDSA);
            validation.set_audience(&[audience]);
            validation.set_issuer(&[issuer.as_str()]);
            validation.set_required_spec_claims(&["aud", "exp", "iss"]);
            validation.leeway = leeway.as_secs();
            let decoded = DecodingKey::from_ed_components(key.as_str())
                .and_then(|key| jsonwebtoken::decode::<Claims>(token, &key, &validation));
            match decoded {
                Ok(decoded) => return Ok(decoded.claims),
                // Any other error is more specific: the key that signed an expired token reports the expiry.
                Err(error) => {
                    let is_bad_signature = matches!(error.kind(), jsonwebtoken::errors::ErrorKind::InvalidSignature);
                    if rejection.is_none() || !is_bad_signature {
                        rejection = Some(error);
                    }
                }
            }
        }
        Err(rejection.map_or(TokenError::UnknownIssuer, TokenError::Invalid))
    }
}

impl TryFrom<Claims> for Caller {
    type Error = TokenError;

    fn try_from(claims: Claims) -> Result<Self, TokenError> {
        match claims.iss {
            Issuer::Operator => Ok(Self::Operator { epoch: claims.epoch.ok_or(TokenError::Missing("`epoch`"))? }),
            Issuer::Gateway => Ok(Self::Gateway {
                session: claims.sub.ok_or(TokenError::Missing("`sub`"))?,
                scope: claims.scope.ok_or(TokenError::Missing("`role` (the scope)"))?,
                single_use_id: claims.jti,
            }),
        }
    }
}

/// Seconds since 1970-01-01 UTC.
fn unix_seconds(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signer(issuer: Issuer) -> Signer {
        Signer::from_pkcs8(issuer, &new_private_key()).unwrap()
    }

    fn trusting(signers: &[&Signer]) -> PublicKeys {
        let mut keys = PublicKeys::default();
        for signer in signers {
            keys.0.entry(signer.issuer).or_default().push(signer.public_key().clone());
        }
        keys
    }

    #[test]
    fn identifies_the_caller_by_its_token() {
        let (operator, gateway) = (signer(Issuer::Operator), signer(Issuer::Gateway));
        let keys = trusting(&[&operator, &gateway]);
        assert_eq!(
            keys.verify(&operator.operator_token("pod", 7, SystemTime::now()), "pod").unwrap(),
            Caller::Operator { epoch: 7 }
        );
        assert_eq!(
            keys.verify(&gateway.hop_token("pod", "s", Scope::View, None), "pod").unwrap(),
            Caller::Gateway { session: "s".into(), scope: Scope::View, single_use_id: None }
        );
        assert_eq!(
            keys.verify(&gateway.hop_token("pod", "s", Scope::Connect, Some("id")), "pod").unwrap(),
            Caller::Gateway { session: "s".into(), scope: Scope::Connect, single_use_id: Some("id".into()) }
        );
    }

    fn session_token(expires: u64) -> SessionToken {
        SessionToken { session: "s".into(), scope: Scope::Control, expires, single_use_id: Some("id".into()) }
    }

    #[test]
    fn accepts_session_tokens_only_at_the_gateway() {
        let (operator, gateway) = (signer(Issuer::Operator), signer(Issuer::Gateway));
        let keys = trusting(&[&operator, &gateway]);
        let token = session_token(unix_seconds(SystemTime::now()) + 60);
        let text = gateway.session_token(token.clone());
        assert_eq!(keys.verify_session_token(&text).unwrap(), token);
        assert!(keys.verify(&text, "pod").is_err(), "a runner accepted a session token");
        let hop = gateway.hop_token("pod", "s", Scope::Control, None);
        assert!(keys.verify_session_token(&hop).is_err(), "the gateway accepted a hop token as a session token");
        let from_operator = operator.session_token(token);
        assert!(matches!(keys.verify_session_token(&from_operator), Err(TokenError::UnknownIssuer)));
    }

    #[test]
    fn rejects_an_expired_session_token() {
        let gateway = signer(Issuer::Gateway);
        let ended = gateway.session_token(session_token(unix_seconds(SystemTime::now()) - 1));
        let rejected = trusting(&[&gateway]).verify_session_token(&ended).unwrap_err();
        assert!(rejected.is_expiry(), "{rejected}");
    }

    #[test]
    fn rejects_the_key_of_another_issuer() {
        let gateway = signer(Issuer::Gateway);
        let keys = trusting(&[&signer(Issuer::Operator), &gateway]);
        let forged = Signer { issuer: Issuer::Operator, ..gateway };
        assert!(keys.verify(&forged.operator_token("pod", 1, SystemTime::now()), "pod").is_err());
    }

    #[test]
    fn rejects_expired_tokens_unknown_keys_and_other_pods() {
        let operator = signer(Issuer::Operator);
        let keys = trusting(&[&operator]);
        assert!(keys.verify(&operator.operator_token("other", 1, SystemTime::now()), "pod").is_err());
        assert!(keys.verify(&signer(Issuer::Operator).operator_token("pod", 1, SystemTime::now()), "pod").is_err());
        let expired =
            operator.sign(Claims { epoch: Some(1), ..operator.claims("pod", unix_seconds(SystemTime::now()) - 60) });
        assert!(keys.verify(&expired, "pod").unwrap_err().to_string().contains("ExpiredSignature"));
        assert!(matches!(PublicKeys::default().verify(&expired, "pod"), Err(TokenError::UnknownIssuer)));
    }

    #[test]
    fn trusts_the_previous_key_while_it_is_listed() {
        let (old, new) = (signer(Issuer::Operator), signer(Issuer::Operator));
        assert!(trusting(&[&new, &old]).verify(&old.operator_token("pod", 1, SystemTime::now()), "pod").is_ok());
        assert!(trusting(&[&new]).verify(&old.operator_token("pod", 1, SystemTime::now()), "pod").is_err());
    }

    #[test]
    fn rejects_tampered_and_unsigned_tokens() {
        let operator = signer(Issuer::Operator);
        let keys = trusting(&[&operator]);
        let token = operator.operator_token("pod", 1, SystemTime::now());
        let (head, tail) = token.split_once('.').unwrap();
        let payload = BASE64_URL_SAFE_NO_PAD.encode(format!(
            r#"{{"iss":"operator","aud":"pod","exp":{},"epoch":99}}"#,
            unix_seconds(SystemTime::now()) + 60
        ));
        let signature = tail.split_once('.').unwrap().1;
        assert!(keys.verify(&format!("{head}.{payload}.{signature}"), "pod").is_err());
        let none = BASE64_URL_SAFE_NO_PAD.encode(r#"{"alg":"none","typ":"JWT"}"#);
        assert!(keys.verify(&format!("{none}.{payload}."), "pod").is_err());
    }

    #[test]
    fn parses_the_documented_key_file() {
        let operator = signer(Issuer::Operator);
        let text = format!(r#"{{"operator":["{}"],"gateway":[]}}"#, operator.public_key().as_str());
        let keys: PublicKeys = serde_json::from_str(&text).unwrap();
        assert!(keys.verify(&operator.operator_token("pod", 1, SystemTime::now()), "pod").is_ok());
        assert!(PublicKey::parse("short").is_err());
    }
}
