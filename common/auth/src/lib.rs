//! Tokens and their signing keys. [`token`] signs and verifies tokens for runner calls, sessions and logins. `keystore`
//! stores the issuers' signing keys in Kubernetes Secrets and publishes the public keys.

#[cfg(feature = "keystore")]
pub mod keystore;
pub mod token;
