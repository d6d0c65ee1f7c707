//! Tokens and the keys that sign them. [`token`] signs and verifies the tokens of runner calls, of sessions and of logins;
//! `keystore` stores the issuers' signing keys in Kubernetes Secrets and keeps the public halves published.

#[cfg(feature = "keystore")]
pub mod keystore;
pub mod token;
