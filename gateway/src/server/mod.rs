//! The HTTP servers: the public listener, the admin listener, and the dashboard's static files.

pub mod admin;
pub mod clients;
pub mod listener;
pub mod static_files;
