//! `/logs/`: the machine's own logs, `/var/log`, as files and lists of files (upstream hands the directory to Go's file server, whose pages these are).
//!
//! Left out: parts of files, and the query of the journal, which is off by default.

use super::Shared;
use axum::{
    body::Body,
    extract::{Path, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use std::path::{Component, Path as FilePath, PathBuf};
use tokio_util::io::ReaderStream;

/// Where the machine's logs are.
const LOGS: &str = "/var/log";

/// The list of `/var/log`.
pub async fn top(State(shared): State<Shared>) -> Response {
    serve_at(&shared, FilePath::new(LOGS), "").await
}

/// A file or a list below it.
pub async fn below(State(shared): State<Shared>, Path(path): Path<String>) -> Response {
    serve_at(&shared, FilePath::new(LOGS), &path).await
}

async fn serve_at(shared: &Shared, root: &FilePath, path: &str) -> Response {
    if !shared.system_logs {
        return (StatusCode::METHOD_NOT_ALLOWED, "logs endpoint is disabled.").into_response();
    }
    serve(root, path).await
}

/// The path below `root`, unless it leads out of it.
fn inside(root: &FilePath, path: &str) -> Option<PathBuf> {
    let relative = FilePath::new(path.trim_start_matches('/'));
    relative.components().all(|c| matches!(c, Component::Normal(_) | Component::CurDir)).then(|| root.join(relative))
}

async fn serve(root: &FilePath, path: &str) -> Response {
    let missing = || (StatusCode::NOT_FOUND, "404 page not found\n").into_response();
    let Some(full) = inside(root, path) else { return (StatusCode::BAD_REQUEST, "invalid URL path\n").into_response() };
    let Ok(found) = tokio::fs::metadata(&full).await else { return missing() };
    if !found.is_dir() {
        let Ok(file) = tokio::fs::File::open(&full).await else { return missing() };
        return ([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], Body::from_stream(ReaderStream::new(file))).into_response();
    }
    if !path.is_empty() && !path.ends_with('/') {
        // Links in a list are relative to it.
        let name = full.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        return (StatusCode::MOVED_PERMANENTLY, [(header::LOCATION, format!("{name}/"))]).into_response();
    }
    let Ok(mut entries) = tokio::fs::read_dir(&full).await else { return missing() };
    let mut names = Vec::new();
    while let Ok(Some(entry)) = entries.next_entry().await {
        let directory = entry.file_type().await.is_ok_and(|t| t.is_dir());
        names.push(format!("{}{}", entry.file_name().to_string_lossy(), if directory { "/" } else { "" }));
    }
    ([(header::CONTENT_TYPE, "text/html; charset=utf-8")], page(names)).into_response()
}

/// A list of names as a page of links.
fn page(mut names: Vec<String>) -> String {
    names.sort();
    let escaped =
        |name: &str| name.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&#34;").replace('\'', "&#39;");
    let links: String = names.iter().map(|name| format!("<a href=\"{0}\">{0}</a>\n", escaped(name))).collect();
    format!("<!doctype html>\n<meta name=\"viewport\" content=\"width=device-width\">\n<pre>\n{links}</pre>\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn files_and_lists_are_served_and_nothing_outside() {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::create_dir(dir.path().join("pods")).expect("made");
        std::fs::write(dir.path().join("a<b"), "text").expect("written");
        let get = |path: &'static str| {
            let root = dir.path().to_owned();
            async move {
                let answer = serve(&root, path).await;
                let status = answer.status().as_u16();
                let body = axum::body::to_bytes(answer.into_body(), 1 << 20).await.expect("a body");
                (status, String::from_utf8(body.to_vec()).expect("text"))
            }
        };
        let (status, list) = get("").await;
        assert_eq!(status, 200);
        assert!(list.contains("<a href=\"a&lt;b\">a&lt;b</a>\n<a href=\"pods/\">pods/</a>\n"), "{list}");
        assert_eq!(get("a<b").await, (200, "text".into()));
        assert_eq!(get("pods").await.0, 301);
        assert_eq!(get("pods/").await.0, 200);
        assert_eq!(get("none").await.0, 404);
        assert_eq!(get("../etc/passwd").await.0, 400);
    }
}
