//! Answers of proxied pods, services and nodes, changed so that a browser stays behind the proxy: links and redirects to the target's own absolute paths lead
//! through it (upstream: `apimachinery/pkg/util/proxy/transport.go`).
//!
//! Pages are rewritten as they arrive. One that comes gzipped goes on unpacked; one packed in another way is left as it is, as is what styles and scripts name.

use axum::body::{Body, Bytes};
use flate2::write::GzDecoder;
use futures::stream;
use http::{HeaderName, HeaderValue, Response, header};
use http_body_util::BodyExt;
use lol_html::errors::RewritingError;
use lol_html::send::{ElementContentHandlers, HtmlRewriter, Settings};
use lol_html::{MemorySettings, Selector};
use parking_lot::Mutex;
use std::borrow::Cow;
use std::io::{self, Write};
use std::sync::Arc;

/// Which attributes of which elements hold links.
const LINKS: &[(&str, &[&str])] = &[
    ("a", &["href"]),
    ("applet", &["codebase"]),
    ("area", &["href"]),
    ("audio", &["src"]),
    ("base", &["href"]),
    ("blockquote", &["cite"]),
    ("body", &["background"]),
    ("button", &["formaction"]),
    ("command", &["icon"]),
    ("del", &["cite"]),
    ("embed", &["src"]),
    ("form", &["action"]),
    ("frame", &["longdesc", "src"]),
    ("head", &["profile"]),
    ("html", &["manifest"]),
    ("iframe", &["longdesc", "src"]),
    ("img", &["longdesc", "src", "usemap"]),
    ("input", &["src", "usemap", "formaction"]),
    ("ins", &["cite"]),
    ("link", &["href"]),
    ("object", &["classid", "codebase", "data", "usemap"]),
    ("q", &["cite"]),
    ("script", &["src"]),
    ("source", &["src"]),
    ("video", &["poster", "src"]),
];

/// What lets pages of other origins in: not for a target to say, whose pages have this server's origin.
const CORS: [HeaderName; 4] = [
    header::ACCESS_CONTROL_ALLOW_CREDENTIALS,
    header::ACCESS_CONTROL_ALLOW_HEADERS,
    header::ACCESS_CONTROL_ALLOW_METHODS,
    header::ACCESS_CONTROL_ALLOW_ORIGIN,
];

/// The longest piece of a page that is held until its end arrives. It is far above what an element's start takes.
const HELD: usize = 1 << 20;

/// Where a proxied answer comes from.
#[derive(Clone, Debug)]
pub struct Place {
    /// The path up to the proxy, which the target does not know of; no slash at its end.
    pub prefix: String,
    /// `host:port` of the target.
    pub target: String,
    /// The host that the client asked.
    pub asked: String,
}

/// A link's `scheme://host`, its host, and what follows.
fn split(link: &str) -> (&str, &str, &str) {
    let start = match link.find("//") {
        Some(0) => 2,
        Some(at) if link[..at].ends_with(':') && !link[..at].contains(['/', '?', '#']) => at + 2,
        _ => return ("", "", link),
    };
    let end = link[start..].find(['/', '?', '#']).map_or(link.len(), |at| start + at);
    (&link[..end], &link[start..end], &link[end..])
}

impl Place {
    /// The link as it has to be for the client; `None` if it may stay: it leads elsewhere, is relative, or knows of the proxy.
    fn link(&self, link: &str) -> Option<String> {
        let (origin, host, path) = split(link);
        if !(host.is_empty() || host == self.target || host == self.asked) || !path.starts_with('/') {
            return None;
        }
        let origin = if host == self.asked { origin } else { "" };
        let prefix = if path.starts_with(&self.prefix) { "" } else { &self.prefix };
        Some(format!("{origin}{prefix}{path}"))
    }

    /// The answer for the client.
    pub fn answer(&self, mut response: Response<Body>) -> Response<Body> {
        let headers = response.headers_mut();
        for name in CORS {
            headers.remove(name);
        }
        if let Some(location) = headers.get(header::LOCATION).cloned() {
            let link = location.to_str().ok().and_then(|link| self.link(link));
            if let Some(link) = link.and_then(|link| HeaderValue::from_str(&link).ok()) {
                headers.insert(header::LOCATION, link);
            }
            return response;
        }
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let media_type = text(header::CONTENT_TYPE).split(';').next().unwrap_or_default().trim();
        let gzipped = match text(header::CONTENT_ENCODING) {
            "" => false,
            "gzip" => true,
            _ => return response,
        };
        if media_type != "text/html" {
            return response;
        }
        headers.remove(header::CONTENT_LENGTH);
        headers.remove(header::CONTENT_ENCODING);
        let place = self.clone();
        response.map(|body| Body::from_stream(rewritten(body, Page::new(place, gzipped))))
    }
}

/// The body with its links changed.
fn rewritten(body: Body, page: Page) -> impl stream::Stream<Item = io::Result<Bytes>> {
    stream::try_unfold((body, Some(page)), |(mut body, page)| async move {
        let Some(mut page) = page else { return Ok(None) };
        loop {
            match body.frame().await.transpose().map_err(io::Error::other)? {
                None => return Ok(Some((page.finish()?, (body, None)))),
                Some(frame) => {
                    let out = page.write(frame.data_ref().map_or(&[], |data| data))?;
                    if !out.is_empty() {
                        return Ok(Some((out, (body, Some(page)))));
                    }
                }
            }
        }
    })
}

/// A page on its way.
struct Page {
    stages: Stages,
    done: Arc<Mutex<Vec<u8>>>,
}

enum Stages {
    Plain(Links),
    Gzipped(Box<GzDecoder<Links>>),
}

impl Page {
    fn new(place: Place, gzipped: bool) -> Self {
        let done = Arc::<Mutex<Vec<u8>>>::default();
        let links = Links::new(place, done.clone());
        Page { stages: if gzipped { Stages::Gzipped(GzDecoder::new(links).into()) } else { Stages::Plain(links) }, done }
    }

    /// Takes in a piece and gives what is ready.
    fn write(&mut self, piece: &[u8]) -> io::Result<Bytes> {
        match &mut self.stages {
            Stages::Plain(links) => links.write_all(piece)?,
            Stages::Gzipped(packed) => packed.write_all(piece)?,
        }
        Ok(std::mem::take(&mut *self.done.lock()).into())
    }

    /// What is left at the page's end.
    fn finish(self) -> io::Result<Bytes> {
        let links = match self.stages {
            Stages::Plain(links) => links,
            // The answer to a HEAD has no body to unpack.
            Stages::Gzipped(packed) if packed.header().is_none() => return Ok(Bytes::new()),
            Stages::Gzipped(packed) => packed.finish()?,
        };
        links.0.end().map_err(io::Error::other)?;
        Ok(std::mem::take(&mut *self.done.lock()).into())
    }
}

type Output = Box<dyn FnMut(&[u8]) + Send>;

/// Changes links in what is written to it.
struct Links(Box<HtmlRewriter<'static, Output>>);

impl Links {
    fn new(place: Place, done: Arc<Mutex<Vec<u8>>>) -> Self {
        let every: Selector = "*".parse().expect("a selector of everything is one");
        let change = move |element: &mut lol_html::send::Element<'_, '_>| {
            let name = element.tag_name();
            let attributes = LINKS.iter().find(|(tag, _)| *tag == name).map_or(&[][..], |(_, attributes)| attributes);
            for attribute in attributes {
                if let Some(link) = element.get_attribute(attribute).and_then(|link| place.link(&link)) {
                    element.set_attribute(attribute, &link)?;
                }
            }
            Ok(())
        };
        let settings = Settings {
            element_content_handlers: vec![(Cow::Owned(every), ElementContentHandlers::default().element(change))],
            memory_settings: MemorySettings { max_allowed_memory_usage: HELD, ..MemorySettings::new() },
            // Pages that are not as they should be pass, too.
            strict: false,
            ..Settings::new_send()
        };
        let output: Output = Box::new(move |piece: &[u8]| done.lock().extend_from_slice(piece));
        Links(HtmlRewriter::new(settings, output).into())
    }
}

impl Write for Links {
    fn write(&mut self, piece: &[u8]) -> io::Result<usize> {
        self.0.write(piece).map_err(|error: RewritingError| io::Error::other(error))?;
        Ok(piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::{Compression, write::GzEncoder};

    fn place() -> Place {
        Place { prefix: "/api/v1/namespaces/ns/pods/p:80/proxy".into(), target: "10.0.0.5:80".into(), asked: "server:6443".into() }
    }

    #[test]
    fn links_to_paths_of_the_target_lead_through_the_proxy() {
        let prefix = place().prefix;
        for (link, wanted) in [
            ("/a?b=c#d", Some(format!("{prefix}/a?b=c#d"))),
            ("/a/", Some(format!("{prefix}/a/"))),
            ("http://10.0.0.5:80/a", Some(format!("{prefix}/a"))),
            ("https://server:6443/a", Some(format!("https://server:6443{prefix}/a"))),
            ("//10.0.0.5:80/a", Some(format!("{prefix}/a"))),
            ("/api/v1/namespaces/ns/pods/p:80/proxy/a", Some(format!("{prefix}/a"))),
            ("/a?to=http://elsewhere/b", Some(format!("{prefix}/a?to=http://elsewhere/b"))),
            ("http://elsewhere/a", None),
            ("a/b", None),
            ("#top", None),
            ("mailto:a@b", None),
            ("http://10.0.0.5:80", None),
        ] {
            assert_eq!(place().link(link), wanted, "{link}");
        }
    }

    async fn answered(headers: &[(HeaderName, &str)], pieces: Vec<Vec<u8>>) -> (Response<()>, String) {
        let body = Body::from_stream(stream::iter(pieces.into_iter().map(io::Result::Ok)));
        let mut response = Response::new(body);
        for (name, value) in headers {
            response.headers_mut().insert(name, value.parse().unwrap());
        }
        let (head, body) = place().answer(response).into_parts();
        let text = body.collect().await.unwrap().to_bytes();
        (Response::from_parts(head, ()), String::from_utf8_lossy(&text).into_owned())
    }

    #[tokio::test]
    async fn pages_are_changed_wherever_they_are_cut_and_all_else_is_not() {
        let page = r#"<a href="/x">t</a><img alt="/y" src='/z'><p title="/w">/v</p>"#;
        let wanted = page
            .replace("\"/x\"", "\"/api/v1/namespaces/ns/pods/p:80/proxy/x\"")
            .replace("'/z'", "\"/api/v1/namespaces/ns/pods/p:80/proxy/z\"");
        let html = (header::CONTENT_TYPE, "text/html; charset=utf-8");
        for cut in 0..page.len() {
            let pieces = vec![page.as_bytes()[..cut].to_vec(), page.as_bytes()[cut..].to_vec()];
            let (head, text) = answered(&[html.clone(), (header::CONTENT_LENGTH, "61")], pieces).await;
            assert_eq!(text, wanted, "cut at {cut}");
            assert!(!head.headers().contains_key(header::CONTENT_LENGTH));
        }
        let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
        packed.write_all(page.as_bytes()).unwrap();
        let gzip = [html.clone(), (header::CONTENT_ENCODING, "gzip")];
        let (head, text) = answered(&gzip, vec![packed.finish().unwrap()]).await;
        assert_eq!((text.as_str(), head.headers().get(header::CONTENT_ENCODING)), (wanted.as_str(), None));
        assert_eq!(answered(&gzip, vec![]).await.1, "");
        for untouched in [vec![(header::CONTENT_TYPE, "text/plain")], vec![html, (header::CONTENT_ENCODING, "br")]] {
            assert_eq!(answered(&untouched, vec![page.into()]).await.1, page);
        }
    }

    #[tokio::test]
    async fn redirects_stay_behind_the_proxy_and_origins_are_not_for_the_target_to_say() {
        let headers = [(header::LOCATION, "/login"), (header::ACCESS_CONTROL_ALLOW_ORIGIN, "*")];
        let (head, _) = answered(&headers, vec![]).await;
        assert_eq!(head.headers()[header::LOCATION], "/api/v1/namespaces/ns/pods/p:80/proxy/login");
        assert!(!head.headers().contains_key(header::ACCESS_CONTROL_ALLOW_ORIGIN));
    }
}
