//! What happens to the fleet's own parts, and so to everybody.

mod chart;
mod disruptions;
mod writes;
