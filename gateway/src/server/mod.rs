//! The HTTP servers: the public listener with the dashboard's static files and answers to other protocols, and the admin
//! listener.

pub mod admin;
pub mod clients;
pub mod listener;
pub mod other_protocols;
pub mod static_files;
