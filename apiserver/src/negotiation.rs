//! Which form the client wants an answer in, and which form its body is in
//! (upstream: `apiserver/pkg/endpoints/handlers/negotiation`).
//!
//! Protobuf is read but not written: clients that prefer it for answers also accept JSON.

use api::StatusError;
use http::{HeaderMap, header};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::StatusDetails;

/// How bytes are laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// `application/json`.
    Json,
    /// `application/yaml`.
    Yaml,
}

impl Encoding {
    /// The media type.
    pub fn media_type(self) -> &'static str {
        match self {
            Encoding::Json => "application/json",
            Encoding::Yaml => "application/yaml",
        }
    }
}

/// What of the object is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// All of it.
    Object,
    /// `as=Table`: rows of printer cells.
    Table,
    /// `as=PartialObjectMetadata` or its list: metadata only.
    Metadata,
    /// `g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList`.
    AggregatedDiscovery,
}

/// The form of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Format {
    /// How the bytes are laid out.
    pub encoding: Encoding,
    /// What of the object is sent.
    pub shape: Shape,
    /// Indented for a person's eyes.
    pub pretty: bool,
}

impl Format {
    /// Compact JSON of the whole object.
    pub const JSON: Format = Format { encoding: Encoding::Json, shape: Shape::Object, pretty: false };
}

/// What the path that is asked can answer in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offer {
    /// Objects and lists of a kind: also tables and metadata.
    Resource,
    /// The same, as a stream of watch events: no YAML, which has no framing.
    Watch,
    /// Discovery documents: also aggregated.
    Discovery,
    /// Everything else.
    Plain,
}

/// One range of an `Accept` header.
struct MediaRange<'a> {
    kind: &'a str,
    sub: &'a str,
    quality: f32,
    parameters: Vec<(&'a str, &'a str)>,
}

impl<'a> MediaRange<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let mut pieces = text.split(';').map(str::trim);
        let (kind, sub) = pieces.next()?.split_once('/').or_else(|| (text.trim() == "*").then_some(("*", "*")))?;
        let mut range = MediaRange { kind, sub, quality: 1.0, parameters: Vec::new() };
        for (name, value) in pieces.filter_map(|p| p.split_once('=')) {
            match name.trim() {
                "q" => range.quality = value.trim().parse().unwrap_or(0.0),
                name => range.parameters.push((name, value.trim().trim_matches('"'))),
            }
        }
        Some(range)
    }

    fn encoding(&self) -> Option<Encoding> {
        match (self.kind, self.sub) {
            ("application", "json" | "*") | ("*", "*") => Some(Encoding::Json),
            ("application", "yaml") => Some(Encoding::Yaml),
            _ => None,
        }
    }

    fn parameter(&self, name: &str) -> &'a str {
        self.parameters.iter().find(|(n, _)| *n == name).map_or("", |(_, v)| v)
    }

    fn shape(&self, offer: Offer) -> Option<Shape> {
        let group_version = (self.parameter("g"), self.parameter("v"));
        match (self.parameter("as"), offer) {
            ("", _) => Some(Shape::Object),
            ("Table", Offer::Resource | Offer::Watch) if matches!(group_version, ("meta.k8s.io", "v1" | "v1beta1")) => Some(Shape::Table),
            ("PartialObjectMetadata" | "PartialObjectMetadataList", Offer::Resource | Offer::Watch)
                if matches!(group_version, ("meta.k8s.io", "v1" | "v1beta1")) =>
            {
                Some(Shape::Metadata)
            }
            ("APIGroupDiscoveryList", Offer::Discovery) if group_version == ("apidiscovery.k8s.io", "v2") => {
                Some(Shape::AggregatedDiscovery)
            }
            _ => None,
        }
    }
}

fn accepts<'a>(headers: &'a HeaderMap) -> Vec<MediaRange<'a>> {
    let texts = headers.get_all(header::ACCEPT).iter().filter_map(|v| v.to_str().ok());
    let mut ranges: Vec<_> = texts.flat_map(|t| t.split(',')).filter_map(MediaRange::parse).collect();
    // Stable: of equal quality, what the client wrote first wins.
    ranges.sort_by(|a, b| b.quality.total_cmp(&a.quality));
    ranges
}

/// Whether the client is a person's terminal or browser, for which upstream indents (`pretty` in the query overrides it).
fn wants_pretty(headers: &HeaderMap, pretty: Option<&str>) -> bool {
    if let Some(text) = pretty {
        return text != "false" && text != "0";
    }
    let agent = headers.get(header::USER_AGENT).and_then(|v| v.to_str().ok()).unwrap_or("");
    agent.starts_with("curl") || agent.starts_with("Wget") || agent.starts_with("Mozilla/5.0")
}

/// The form to answer in, or 406. `pretty` is the query parameter of that name.
pub fn negotiate(headers: &HeaderMap, pretty: Option<&str>, offer: Offer) -> Result<Format, StatusError> {
    let format = |encoding, shape| Format { encoding, shape, pretty: encoding == Encoding::Json && wants_pretty(headers, pretty) };
    let ranges = accepts(headers);
    if ranges.is_empty() {
        return Ok(format(Encoding::Json, Shape::Object));
    }
    for range in ranges.iter().filter(|r| r.quality > 0.0) {
        if let (Some(encoding), Some(shape)) = (range.encoding(), range.shape(offer))
            && !(offer == Offer::Watch && encoding == Encoding::Yaml)
        {
            return Ok(format(encoding, shape));
        }
    }
    Err(not_acceptable())
}

/// The first of these media types, by the client's preference and then in the order given; no header takes the first.
pub fn first_of<'t>(headers: &HeaderMap, offered: &[&'t str]) -> Option<&'t str> {
    let ranges = accepts(headers);
    if ranges.is_empty() {
        return offered.first().copied();
    }
    let fits = |range: &MediaRange<'_>, media: &str| {
        let (kind, sub) = media.split_once('/').unwrap_or((media, ""));
        (range.kind == "*" || range.kind == kind) && (range.sub == "*" || range.sub == sub)
    };
    let wanted = ranges.iter().filter(|r| r.quality > 0.0);
    wanted.flat_map(|range| offered.iter().find(|media| fits(range, media))).next().copied()
}

fn not_acceptable() -> StatusError {
    let message = "406: Not Acceptable\n\nAvailable representations: application/json, application/yaml, \
                   application/vnd.kubernetes.protobuf, application/json;stream=watch, application/vnd.kubernetes.protobuf;stream=watch";
    let mut error = StatusError::new(406, "NotAcceptable", message);
    error.0.details = Some(StatusDetails::default());
    error
}

/// The media type of a `Content-Type` header without its parameters; empty if there is none.
pub fn content_type(headers: &HeaderMap) -> &str {
    let text = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or("");
    text.split(';').next().unwrap_or("").trim()
}

/// How a request's body is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyEncoding {
    /// `application/json`.
    Json,
    /// `application/yaml`.
    Yaml,
    /// `application/vnd.kubernetes.protobuf`.
    Protobuf,
}

/// The layout of a request's body, or 415. No content type counts as JSON.
pub fn body_encoding(headers: &HeaderMap) -> Result<BodyEncoding, StatusError> {
    match content_type(headers) {
        "" | "application/json" => Ok(BodyEncoding::Json),
        "application/yaml" => Ok(BodyEncoding::Yaml),
        "application/vnd.kubernetes.protobuf" => Ok(BodyEncoding::Protobuf),
        _ => Err(StatusError::new(
            415,
            "UnsupportedMediaType",
            "the body of the request was in an unknown format - accepted media types include: \
             application/json, application/yaml, application/vnd.kubernetes.protobuf",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(accept: &str, offer: Offer, want: Option<(Encoding, Shape)>) {
        let mut headers = HeaderMap::new();
        if !accept.is_empty() {
            headers.insert(header::ACCEPT, accept.parse().unwrap());
        }
        let got = negotiate(&headers, None, offer).ok().map(|f| (f.encoding, f.shape));
        assert_eq!(got, want, "{accept} {offer:?}");
    }

    #[test]
    fn the_best_range_that_can_be_served_wins() {
        use Encoding::*;
        use Shape::*;
        check("", Offer::Resource, Some((Json, Object)));
        check("*/*", Offer::Resource, Some((Json, Object)));
        check("application/*", Offer::Plain, Some((Json, Object)));
        check("application/yaml", Offer::Resource, Some((Yaml, Object)));
        check("text/html", Offer::Resource, None);
        check("text/html,application/json;q=0.5", Offer::Resource, Some((Json, Object)));
        check("application/json;q=0.1,application/yaml", Offer::Resource, Some((Yaml, Object)));
        check("application/vnd.kubernetes.protobuf,application/json", Offer::Resource, Some((Json, Object)));
        check("application/vnd.kubernetes.protobuf", Offer::Resource, None);
        let table = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
        check(table, Offer::Resource, Some((Json, Table)));
        check(table, Offer::Plain, Some((Json, Object)));
        check("application/json;as=Table;v=v9;g=meta.k8s.io", Offer::Resource, None);
        check("application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io", Offer::Resource, Some((Json, Metadata)));
        check("application/yaml", Offer::Watch, None);
        check("application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList", Offer::Discovery, Some((Json, AggregatedDiscovery)));
    }

    #[test]
    fn bodies_are_json_or_yaml() {
        let of = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, text.parse().unwrap());
            body_encoding(&headers).map_err(|e| e.code())
        };
        assert_eq!(of("application/json; charset=utf-8").unwrap(), BodyEncoding::Json);
        assert_eq!(of("application/yaml").unwrap(), BodyEncoding::Yaml);
        assert_eq!(of("application/vnd.kubernetes.protobuf").unwrap(), BodyEncoding::Protobuf);
        assert_eq!(of("text/plain").unwrap_err(), 415);
    }
}
