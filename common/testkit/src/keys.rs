//! Generates keys that sign tokens.

use camofleet_auth::token::{Issuer, PublicKeys, Signer, new_private_key};

/// A signer with a new key.
pub fn signer(issuer: Issuer) -> Signer {
    Signer::from_pkcs8(issuer, &new_private_key()).expect("a new private key is a valid one")
}

/// Public keys of these signers, in the order given.
pub fn public_keys(signers: &[(Issuer, &Signer)]) -> PublicKeys {
    let mut keys = PublicKeys::default();
    for (issuer, signer) in signers {
        keys.0.entry(*issuer).or_default().push(signer.public_key().clone());
    }
    keys
}
