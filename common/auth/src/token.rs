//! The tokens that every call to a runner carries: JWTs signed with Ed25519 (RFC 7519, RFC 8037), whose audience is the
//! pod's UID. A runner pod lives once (`restartPolicy: Never`), so a token for one run is no good for another.
//!
//! There are two issuers. The operator's token carries its epoch, with which the runner fences off former leaders. The
//! gateway's *hop token* is minted for one connection of one session with one scope.
//!
//! The gateway signs *session tokens* for users as well ([`SessionToken`]), and *logins* for browsers ([`Login`]). They have
//! audiences of their own, so they are good at the gateway only, and no runner takes one: nobody goes round the gateway.

use aws_lc_rs::signature::{ED25519_PUBLIC_KEY_LEN, Ed25519KeyPair, KeyPair};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// How long an operator's token is good for.
pub const OPERATOR_TOKEN_TTL: Duration = Duration::from_secs(60);
/// How long a hop token is good for. It is checked when the connection is made, not after.
pub const HOP_TOKEN_TTL: Duration = Duration::from_secs(30);
/// How far the clocks of two nodes may be apart.
const LEEWAY: Duration = Duration::from_secs(10);

/// Who signs tokens for runners.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Issuer {
    /// The operator.
    Operator,
    /// The gateway.
    Gateway,
}

impl Issuer {
    /// The name in tokens and key files.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Operator => "operator",
            Self::Gateway => "gateway",
        }
    }
}

/// The audience of session tokens.
const SESSION_AUDIENCE: &str = "camofleet-session";
/// The audience of logins.
const LOGIN_AUDIENCE: &str = "camofleet-login";

/// What a connection may do with its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Drive the browser by Playwright.
    Connect,
    /// Look at the display and type into it.
    Control,
    /// Look at the display.
    View,
}

impl Scope {
    /// The name in tokens.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Control => "control",
            Self::View => "view",
        }
    }
}

/// Who calls a runner, as proved by the token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Caller {
    /// The operator, in the term with this number. A runner refuses an epoch lower than the highest that it has seen.
    Operator {
        /// The Lease's resourceVersion when it was acquired.
        epoch: u64,
    },
    /// The gateway, on behalf of somebody that it knows.
    Gateway {
        /// UID of the one session that the token is for.
        session: String,
        /// What the connection may do.
        scope: Scope,
        /// Id of the user's token, when that is good for one connection only.
        once: Option<String>,
    },
}

/// What the gateway gave to a user: the right to one session, for a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionToken {
    /// UID of the session.
    pub session: String,
    /// What its holder may do with it.
    pub scope: Scope,
    /// When it ends, in seconds since 1970-01-01 UTC.
    pub expires: u64,
    /// Its id, when it is good for one connection only. The session's runner remembers the ids that were used.
    pub once: Option<String>,
}

/// What the gateway gave to a browser, in place of the token that its user typed in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login {
    /// Names that token without telling it. The login is good for as long as the token is.
    pub of: String,
    /// When it ends, in seconds since 1970-01-01 UTC.
    pub expires: u64,
}

/// Why a token was refused. The words are fit for the caller: they tell nothing about keys.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// Malformed, signed by nobody known here, expired, or for another pod.
    #[error("the token is not valid here: {0}")]
    Invalid(#[from] jsonwebtoken::errors::Error),
    /// Signed well, but lacking what its issuer's tokens must have.
    #[error("the token lacks `{0}`")]
    Missing(&'static str),
    /// No key of that issuer is known.
    #[error("the token's issuer is not known here")]
    UnknownIssuer,
}

impl TokenError {
    /// Whether the token was good once, and its time is over.
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
    /// The claim keeps the name `role`, because the programs of an earlier version read it during an upgrade.
    #[serde(rename = "role", skip_serializing_if = "Option::is_none")]
    scope: Option<Scope>,
    /// Of a token that is good once.
    #[serde(skip_serializing_if = "Option::is_none")]
    jti: Option<String>,
}

/// A private key that signs tokens for runners.
pub struct Signer {
    issuer: Issuer,
    key: EncodingKey,
    public: PublicKey,
}

impl Signer {
    /// A signer from a PKCS#8 document (DER), as [`new_private_key`] makes it.
    ///
    /// # Errors
    /// When the document is not an Ed25519 key.
    pub fn from_pkcs8(issuer: Issuer, der: &[u8]) -> Result<Self, InvalidKey> {
        let pair = Ed25519KeyPair::from_pkcs8(der).map_err(|_| InvalidKey)?;
        let public = PublicKey(BASE64_URL_SAFE_NO_PAD.encode(pair.public_key().as_ref()));
        Ok(Self { issuer, key: EncodingKey::from_ed_der(der), public })
    }

    /// The public half, to be published.
    pub fn public_key(&self) -> &PublicKey {
        &self.public
    }

    /// A token with which the operator of this epoch may call the runner in that pod. `at`: what time it is, which the operator
    /// knows better than its machine's clock.
    pub fn operator_token(&self, pod_uid: &str, epoch: u64, at: SystemTime) -> String {
        self.sign(Claims { epoch: Some(epoch), ..self.claims(pod_uid, unix_seconds(at + OPERATOR_TOKEN_TTL)) })
    }

    /// A token for one connection to one session on the runner in that pod. `once`: id of the user's token, when that is good
    /// for one connection only.
    pub fn hop_token(&self, pod_uid: &str, session_uid: &str, scope: Scope, once: Option<&str>) -> String {
        self.sign(Claims {
            sub: Some(session_uid.to_owned()),
            scope: Some(scope),
            jti: once.map(str::to_owned),
            ..self.claims(pod_uid, unix_seconds(SystemTime::now() + HOP_TOKEN_TTL))
        })
    }

    /// A user's token as text.
    pub fn session_token(&self, token: SessionToken) -> String {
        let SessionToken { session, scope, expires, once } = token;
        self.sign(Claims {
            sub: Some(session),
            scope: Some(scope),
            jti: once,
            ..self.claims(SESSION_AUDIENCE, expires)
        })
    }

    /// A login as text.
    pub fn login(&self, login: Login) -> String {
        self.sign(Claims { sub: Some(login.of), ..self.claims(LOGIN_AUDIENCE, login.expires) })
    }

    fn claims(&self, aud: &str, exp: u64) -> Claims {
        Claims { iss: self.issuer, aud: aud.to_owned(), exp, epoch: None, sub: None, scope: None, jti: None }
    }

    fn sign(&self, claims: Claims) -> String {
        jsonwebtoken::encode(&Header::new(Algorithm::EdDSA), &claims, &self.key)
            .expect("plain claims serialize, and the key was checked when it was read")
    }
}

/// A document is no Ed25519 private key in PKCS#8.
#[derive(Debug, thiserror::Error)]
#[error("not an Ed25519 private key in PKCS#8")]
pub struct InvalidKey;

/// A new private key as a PKCS#8 document (DER).
pub fn new_private_key() -> Vec<u8> {
    let document = Ed25519KeyPair::generate_pkcs8(&aws_lc_rs::rand::SystemRandom::new())
        .expect("the system's random source works, or nothing does");
    document.as_ref().to_vec()
}

/// A raw Ed25519 public key in base64url, as in the `x` of a JWK (RFC 8037 section 2).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PublicKey(String);

impl PublicKey {
    /// The key from its text.
    ///
    /// # Errors
    /// When it is not the base64url of 32 bytes.
    pub fn parse(text: &str) -> Result<Self, InvalidPublicKey> {
        match BASE64_URL_SAFE_NO_PAD.decode(text.trim()) {
            Ok(bytes) if bytes.len() == ED25519_PUBLIC_KEY_LEN => Ok(Self(text.trim().to_owned())),
            _ => Err(InvalidPublicKey(text.to_owned())),
        }
    }

    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A text is no Ed25519 public key.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is not an Ed25519 public key in base64url")]
pub struct InvalidPublicKey(String);

/// The public keys that a runner trusts, by issuer, current first: the content of its key file. Older ones stay while a
/// key is rotated.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PublicKeys(pub BTreeMap<Issuer, Vec<PublicKey>>);

impl PublicKeys {
    /// These keys, and of an issuer that has none here those of `former`.
    pub fn with_fallback(mut self, fallback: Self) -> Self {
        for (issuer, keys) in fallback.0 {
            let own = self.0.entry(issuer).or_default();
            if own.is_empty() {
                *own = keys;
            }
        }
        self
    }

    /// Who calls, when the token was signed by one of these keys for the pod with this UID and is still good.
    ///
    /// # Errors
    /// When it was not: see [`TokenError`].
    pub fn verify(&self, token: &str, pod_uid: &str) -> Result<Caller, TokenError> {
        self.claims(token, pod_uid, LEEWAY)?.try_into()
    }

    /// What a user's token gives, when the gateway signed it and it is still good. No leeway: it was made by the same kind of
    /// process that checks it, and its user was told when it ends.
    ///
    /// # Errors
    /// When it is not: see [`TokenError`].
    pub fn verify_session_token(&self, token: &str) -> Result<SessionToken, TokenError> {
        let claims = self.gateway_claims(token, SESSION_AUDIENCE)?;
        Ok(SessionToken {
            session: claims.sub.ok_or(TokenError::Missing("sub"))?,
            scope: claims.scope.ok_or(TokenError::Missing("role"))?,
            expires: claims.exp,
            once: claims.jti,
        })
    }

    /// Whose login it is, when the gateway signed it and it is still good.
    ///
    /// # Errors
    /// When it is not: see [`TokenError`].
    pub fn verify_login(&self, text: &str) -> Result<Login, TokenError> {
        let claims = self.gateway_claims(text, LOGIN_AUDIENCE)?;
        Ok(Login { of: claims.sub.ok_or(TokenError::Missing("sub"))?, expires: claims.exp })
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
                // A wrong signature says least: another key may say that the token is its own but expired.
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
            Issuer::Operator => Ok(Self::Operator { epoch: claims.epoch.ok_or(TokenError::Missing("epoch"))? }),
            Issuer::Gateway => Ok(Self::Gateway {
                session: claims.sub.ok_or(TokenError::Missing("sub"))?,
                scope: claims.scope.ok_or(TokenError::Missing("role"))?,
                once: claims.jti,
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
            Caller::Gateway { session: "s".into(), scope: Scope::View, once: None }
        );
        assert_eq!(
            keys.verify(&gateway.hop_token("pod", "s", Scope::Connect, Some("id")), "pod").unwrap(),
            Caller::Gateway { session: "s".into(), scope: Scope::Connect, once: Some("id".into()) }
        );
    }

    fn session_token(expires: u64) -> SessionToken {
        SessionToken { session: "s".into(), scope: Scope::Control, expires, once: Some("id".into()) }
    }

    #[test]
    fn accepts_session_tokens_only_at_the_gateway() {
        let (operator, gateway) = (signer(Issuer::Operator), signer(Issuer::Gateway));
        let keys = trusting(&[&operator, &gateway]);
        let token = session_token(unix_seconds(SystemTime::now()) + 60);
        let text = gateway.session_token(token.clone());
        assert_eq!(keys.verify_session_token(&text).unwrap(), token);
        assert!(keys.verify(&text, "pod").is_err(), "a runner took a user's token");
        let hop = gateway.hop_token("pod", "s", Scope::Control, None);
        assert!(keys.verify_session_token(&hop).is_err(), "a hop token was taken for a user's");
        let from_operator = operator.session_token(token);
        assert!(matches!(keys.verify_session_token(&from_operator), Err(TokenError::UnknownIssuer)));
    }

    #[test]
    fn rejects_an_expired_session_token() {
        let gateway = signer(Issuer::Gateway);
        let ended = gateway.session_token(session_token(unix_seconds(SystemTime::now()) - 1));
        let refused = trusting(&[&gateway]).verify_session_token(&ended).unwrap_err();
        assert!(refused.is_expiry(), "{refused}");
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
