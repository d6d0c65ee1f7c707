//! The end-to-end tests, in one program so that shared code is compiled once. The harness starts tests in the order of
//! their names, so the long ones in `alone`, which exclude all other tests, come first.

mod alone;
mod cleanup;
mod clients;
mod contention;
mod deadlines;
mod endpoints;
mod failures;
mod judges;
mod live_view;
mod operator;
mod rest;
mod rollout;
mod sharing;
mod validation;
