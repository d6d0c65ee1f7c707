//! The listeners: for clients, and for metrics and probes; and the dashboard's files.

pub mod admin;
pub mod clients;
pub mod listener;
pub mod static_files;
