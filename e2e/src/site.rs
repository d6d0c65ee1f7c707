//! A small web site on this machine that browsers in pods visit.

use crate::Fleet;
use anyhow::Result;
use axum::{
    Router,
    body::Bytes,
    extract::DefaultBodyLimit,
    http::header::{CONTENT_DISPOSITION, CONTENT_TYPE},
    response::Html,
    routing::{get, post},
};
use tokio::{net::TcpListener, task::JoinHandle};

const FORM: &str = include_str!("form.html");

/// The web site. It stops when this value is dropped.
pub struct Site {
    /// URL at which pods reach the site, without a trailing slash.
    pub url: String,
    serving: JoinHandle<()>,
}

impl Site {
    /// Starts the site on a free port.
    pub async fn start(fleet: &Fleet) -> Result<Self> {
        let listener = TcpListener::bind((fleet.host_address()?, 0)).await?;
        let url = format!("http://{}", listener.local_addr()?);
        let download = || async {
            ([(CONTENT_TYPE, "text/plain"), (CONTENT_DISPOSITION, "attachment; filename=\"saved.txt\"")], "downloaded")
        };
        let site = Router::new()
            .route("/form", get(|| async { Html(FORM) }))
            .route("/greeting", get(|| async { "from the site" }))
            .route("/download", get(download))
            .route("/upload", post(|body: Bytes| async move { body.len().to_string() }))
            .layer(DefaultBodyLimit::disable());
        let serving = tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, site).await {
                eprintln!("the site stopped: {error}");
            }
        });
        Ok(Self { url, serving })
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.serving.abort();
    }
}
