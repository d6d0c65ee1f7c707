//! Version `v1alpha1`. It follows the Kubernetes API conventions: durations end in `Seconds`, times in `Time`, enum
//! values are CamelCase words, every string and list is bounded, and a field is declared only once it is implemented.

mod browser;
#[expect(
    dead_code,
    reason = "`KubeSchema` copies structs for their schemas, and a copy does not read fields that serde skips"
)]
mod pool;
mod session;

pub use browser::*;
pub use pool::*;
pub use session::*;
