//! The end-to-end tests: one program, so that what they share is compiled once.

mod chart;
mod clients;
mod deadlines;
mod disruptions;
mod doors;
mod failures;
mod live_view;
mod nothing_left;
mod operator;
mod refusals;
mod rest;
