//! Fixtures that the operator's test programs share.

use camofleet_operator::core::runner::pod_build::Installation;

/// An installation without traces.
pub fn installation() -> Installation {
    Installation {
        runner_image: "image".into(),
        public_url: "http://gateway".into(),
        namespace: "release".into(),
        runner_environment: Vec::new(),
    }
}
