//! The end-to-end tests: one program, so that what they share is compiled once. They are begun in the order of their names:
//! first the long ones of those that bear no other beside them.

mod alone;
mod clients;
mod crowds;
mod deadlines;
mod doors;
mod failures;
mod live_view;
mod nothing_left;
mod operator;
mod refusals;
mod rest;
mod rollout;
mod sharing;
