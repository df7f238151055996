//! Users of issuers outside the cluster, and what clients are told of discovery.

use super::Cluster;
use crate::authentication::jwt::tests::{issuer, signed};
use serde_json::json;

#[tokio::test]
async fn whom_an_issuer_names_is_let_in_and_bound_to_what_the_cluster_says() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let (url, outside, _) = issuer().await;
    let directory = tempfile::tempdir().unwrap();
    let authority = directory.path().join("ca");
    std::fs::write(&authority, base64::Engine::decode(&base64::prelude::BASE64_STANDARD, &outside.ca_bundle).unwrap()).unwrap();
    let cluster = Cluster::with(|options| {
        options.oidc.oidc_issuer_url = Some(url.clone());
        options.oidc.oidc_client_id = Some("me".into());
        options.oidc.oidc_ca_file = Some(authority);
        options.oidc.oidc_username_prefix = "oidc:".into();
        options.oidc.oidc_groups_claim = "groups".into();
        options.oidc.oidc_signing_algs = vec![jsonwebtoken::Algorithm::ES256];
    })
    .await;
    let token = |audience: &str| {
        let expiry = k8s_openapi::jiff::Timestamp::now().as_second() + 600;
        signed("known", json!({"iss": url, "aud": audience, "sub": "ann", "groups": ["system:masters"], "exp": expiry}))
    };
    let ask = async |token: String| {
        let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"});
        let path = format!("{}/apis/authentication.k8s.io/v1/selfsubjectreviews", cluster.url);
        cluster.send(cluster.client.post(path).bearer_auth(token).json(&review)).await
    };
    let (code, review) = ask(token("me")).await;
    assert_eq!((code, &review["status"]["userInfo"]["username"]), (201, &json!("oidc:ann")), "{review}");
    assert_eq!(review["status"]["userInfo"]["groups"], json!(["system:masters", "system:authenticated"]));
    assert_eq!(ask(token("another")).await.0, 401);
    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token("me")}});
    let (_, answer) = cluster.json("POST", "/apis/authentication.k8s.io/v1/tokenreviews", review).await;
    assert_eq!((&answer["status"]["authenticated"], &answer["status"]["user"]["username"]), (&json!(true), &json!("oidc:ann")));
    cluster.stop().await;
}

#[tokio::test]
async fn who_has_discovery_already_is_told_so_and_bad_timeouts_are_refused() {
    let cluster = Cluster::start().await;
    let accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    let first = cluster.request("GET", "/apis").header("Accept", accept).send().await.unwrap();
    let etag = first.headers()["etag"].clone();
    let again = cluster.request("GET", "/apis").header("Accept", accept).header("If-None-Match", &etag).send().await.unwrap();
    assert_eq!((again.status().as_u16(), &again.headers()["etag"]), (304, &etag));
    let (code, refused) = cluster.get("/api/v1/namespaces/default/configmaps?timeout=soon").await;
    assert_eq!(
        (code, &refused["message"]),
        (400, &json!("invalid timeout specified in the request URL - time: invalid duration \"soon\""))
    );
    cluster.stop().await;
}
