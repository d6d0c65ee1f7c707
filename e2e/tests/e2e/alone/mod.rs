//! Tests that disrupt shared components, or count their work, and so exclude other tests.

mod chart;
mod disruptions;
mod writes;
