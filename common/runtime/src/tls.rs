//! The TLS provider of the process.

/// Another provider was installed before.
#[derive(Debug, thiserror::Error)]
#[error("another TLS provider is installed already")]
pub struct AlreadyInstalled;

/// Makes aws-lc-rs the TLS provider of the process. Call it before the first TLS connection: rustls chooses a provider by itself only
/// when exactly one is compiled in.
///
/// # Errors
/// A provider was installed before.
pub fn install_provider() -> Result<(), AlreadyInstalled> {
    rustls::crypto::aws_lc_rs::default_provider().install_default().map_err(|_| AlreadyInstalled)
}
