//! Version `v1alpha1`. Conventions of the Kubernetes API hold: durations end in `Seconds`, times in `Time`, enums are
//! CamelCase words, every string and list is bounded, and a field is declared only when it is served.

#[expect(
    dead_code,
    reason = "`KubeSchema` copies structs for their schemas, and a copy does not read fields that serde skips"
)]
mod pool;
mod session;

pub use pool::*;
pub use session::*;
