//! Installs the TLS provider of the process.

/// A TLS provider was installed before.
#[derive(Debug, thiserror::Error)]
#[error("a TLS provider is already installed")]
pub struct AlreadyInstalled;

/// Makes aws-lc-rs the TLS provider of the process. Call this before the first TLS connection, because rustls selects a
/// provider by itself only if exactly one is compiled in.
///
/// # Errors
/// A TLS provider was installed before.
pub fn install_provider() -> Result<(), AlreadyInstalled> {
    rustls::crypto::aws_lc_rs::default_provider().install_default().map_err(|_| AlreadyInstalled)
}
