//! Who a front proxy says is asking: headers, believed on a connection whose client certificate is of the front proxies' authority and bears one of the names
//! allowed (upstream: `authentication/request/headerrequest`).

use super::certificate::ClientCertificates;
use super::{Authenticator, Credentials, Recognised, UserInfo};
use futures::future::BoxFuture;
use http::HeaderMap;
use percent_encoding::percent_decode_str;
use std::time::SystemTime;

/// The names of the headers, in order of preference.
#[derive(Clone, Debug, Default)]
pub struct Headers {
    /// Who: the first that is there.
    pub username: Vec<String>,
    /// The user's id: the first that is there.
    pub uid: Vec<String>,
    /// Groups, of all of these together.
    pub group: Vec<String>,
    /// What the names of further facts begin with.
    pub extra_prefix: Vec<String>,
}

/// Believes front proxies.
pub struct RequestHeader {
    /// Whose certificates theirs have to be.
    pub authority: ClientCertificates,
    /// The common names that count; any where empty.
    pub allowed_names: Vec<String>,
    /// The headers.
    pub headers: Headers,
}

impl Headers {
    /// The user whom the headers name, if they do.
    pub fn user(&self, headers: &HeaderMap) -> Option<UserInfo> {
        let text = |name: &String| headers.get(name.as_str()).and_then(|v| v.to_str().ok()).filter(|v| !v.is_empty()).map(str::to_owned);
        let name = self.username.iter().find_map(text)?;
        let mut user = UserInfo { name, uid: self.uid.iter().find_map(text).unwrap_or_default(), ..Default::default() };
        for group in &self.group {
            user.groups.extend(headers.get_all(group.as_str()).iter().filter_map(|v| v.to_str().ok()).map(str::to_owned));
        }
        for (name, value) in headers {
            let prefixes = self.extra_prefix.iter().map(|p| p.to_lowercase());
            let Some(key) = prefixes.into_iter().find_map(|p| name.as_str().strip_prefix(&p).map(str::to_owned)) else { continue };
            let key = percent_decode_str(&key).decode_utf8_lossy().into_owned();
            user.extra.entry(key).or_default().extend(value.to_str().ok().map(str::to_owned));
        }
        Some(user)
    }
}

impl RequestHeader {
    fn recognise(&self, credentials: &Credentials, now: SystemTime) -> Result<Option<UserInfo>, String> {
        let Some(named) = self.headers.user(&credentials.headers) else { return Ok(None) };
        if credentials.certificates.is_empty() {
            return Ok(None);
        }
        let proxy = match self.authority.user(&credentials.certificates, now) {
            Ok(proxy) => proxy,
            // A client of another authority may send such headers; they mean nothing.
            Err(_) => return Ok(None),
        };
        if !self.allowed_names.is_empty() && !self.allowed_names.contains(&proxy.name) {
            return Err(format!("x509: subject with cn={} is not in the allowed list", proxy.name));
        }
        Ok(Some(named))
    }
}

impl Authenticator for RequestHeader {
    fn authenticate<'a>(
        &'a self,
        credentials: &'a Credentials,
        audiences: &'a [String],
        now: SystemTime,
    ) -> BoxFuture<'a, Result<Option<Recognised>, String>> {
        let found = self.recognise(credentials, now);
        Box::pin(async move { Ok(found?.map(|user| Recognised { user, audiences: audiences.to_vec() })) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::{Authority, Leaf};

    fn der(pem: &str) -> Vec<u8> {
        rustls_pemfile::certs(&mut pem.as_bytes()).next().unwrap().unwrap().to_vec()
    }

    #[tokio::test]
    async fn only_front_proxies_are_believed() {
        let now = SystemTime::now();
        let (front, other) = (Authority::new("front-proxy-ca", now).unwrap(), Authority::new("kubernetes", now).unwrap());
        let list = |text: &str| vec![text.to_owned()];
        let authenticator = RequestHeader {
            authority: ClientCertificates::new(front.pem().certificate.as_bytes()).unwrap(),
            allowed_names: list("front-proxy-client"),
            headers: Headers {
                username: list("X-Remote-User"),
                uid: list("X-Remote-Uid"),
                group: list("X-Remote-Group"),
                extra_prefix: list("X-Remote-Extra-"),
            },
        };
        let mut headers = HeaderMap::new();
        for (name, value) in [("x-remote-user", "amy"), ("x-remote-group", "a"), ("x-remote-group", "b"), ("x-remote-extra-x%2fy", "1")] {
            headers.append(name, value.parse().unwrap());
        }
        let ask = async |authority: &Authority, name: &str| {
            let issued = authority.issue(&Leaf::client(name, ""), now).unwrap();
            let credentials = Credentials { certificates: vec![der(&issued.certificate)], headers: headers.clone(), ..Default::default() };
            authenticator.authenticate(&credentials, &[], now).await
        };
        let amy = ask(&front, "front-proxy-client").await.unwrap().unwrap().user;
        assert_eq!((amy.name.as_str(), amy.groups.join(","), amy.extra["x/y"].join(",")), ("amy", "a,b".to_owned(), "1".to_owned()));
        assert!(ask(&front, "mallory").await.is_err());
        assert_eq!(ask(&other, "front-proxy-client").await, Ok(None));
    }
}
