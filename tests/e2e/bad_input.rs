//! What the apiserver says to input that is wrong, each by the step that finds it: upstream's text and code, and nothing is stored.

use reqwest::{Client, Identity, Response};
use serde_json::Value;
use skiff_testing::Cluster;
use std::process::Command;

const NAMESPACE: &str = "bad-input";

fn client(identity: Option<Identity>) -> Client {
    // A second test in this process finds it installed.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let builder = Client::builder().danger_accept_invalid_certs(true);
    identity.into_iter().fold(builder, |b, i| b.identity(i)).build().expect("the options are valid")
}

/// The client certificate of `admin.conf` in a directory of kubeconfigs, as PEM.
fn admin(kubeconfigs: &std::path::Path) -> Identity {
    let text = std::fs::read_to_string(kubeconfigs.join("admin.conf")).expect("`apiserver pki` wrote it");
    let pem: Vec<u8> = ["client-certificate-data: ", "client-key-data: "]
        .iter()
        .flat_map(|key| {
            let data = text.lines().find_map(|l| l.trim().strip_prefix(key)).expect("it holds the certificate");
            let mut child = Command::new("base64")
                .arg("-d")
                .stdin(std::process::Stdio::piped())
                .stdout(std::process::Stdio::piped())
                .spawn()
                .expect("base64");
            std::io::Write::write_all(&mut child.stdin.take().expect("it is piped"), data.as_bytes()).expect("it reads");
            child.wait_with_output().expect("it ends").stdout
        })
        .collect();
    Identity::from_pem(&pem).expect("a certificate and its key")
}

async fn message(answer: Response) -> (u16, String) {
    let code = answer.status().as_u16();
    let body: Value = answer.json().await.expect("a Status");
    assert_eq!((&body["kind"], &body["status"], &body["code"]), (&"Status".into(), &"Failure".into(), &code.into()), "{body:#}");
    (code, body["message"].as_str().unwrap_or_default().to_owned())
}

/// Proves CMP-03 for input that nobody should send.
#[test]
fn bad_input_is_refused_in_upstreams_words() {
    let cluster = Cluster::shared();
    let server = std::fs::read_to_string(cluster.kubeconfig())
        .ok()
        .and_then(|text| text.lines().find_map(|l| Some(l.trim().strip_prefix("server: ")?.to_owned())))
        .expect("the kubeconfig names the server");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let good = client(Some(admin(&cluster.run_dir().join("kubeconfigs"))));
        let path = |rest: &str| format!("{server}/api/v1/namespaces/{NAMESPACE}/{rest}");
        let made = good.post(format!("{server}/api/v1/namespaces")).json(&serde_json::json!({"metadata": {"name": NAMESPACE}})).send().await.expect("an answer");
        assert!(made.status() == 201 || made.status() == 409, "{}", made.status());

        let huge = format!(r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"huge"}},"data":{{"k":"{}"}}}}"#, "x".repeat(5 << 20));
        for (content, body, code, wanted) in [
            ("application/yaml", "a: [b".to_owned(), 400, "the object provided is unrecognized (must be of type ConfigMap): yaml: line 1: did not find expected ',' or ']' (613a205b62)"),
            ("application/json", "{not json".to_owned(), 400, "couldn't get version/kind; json parse error: invalid character 'n' looking for beginning of object key string ({not json)"),
            ("application/json", r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a"}}"#.to_owned(), 400, "Pod in version \"v1\" cannot be handled as a ConfigMap"),
            ("application/json", r#"{"apiVersion":"v9","kind":"ConfigMap","metadata":{"name":"a"}}"#.to_owned(), 400, "v9"),
            ("application/json", r#"{"metadata":{"name":"Bad_Name"}}"#.to_owned(), 422, "ConfigMap \"Bad_Name\" is invalid: metadata.name: Invalid value: \"Bad_Name\""),
            ("application/json", r#"{"metadata":{"name":"a"},"data":{"bad key":"v"}}"#.to_owned(), 422, "data[bad key]: Invalid value: \"bad key\""),
            ("application/json", r#"{"metadata":{"name":"a"},"data":{"k":1}}"#.to_owned(), 400, "json: cannot unmarshal number into Go struct field ConfigMap.data of type string"),
            ("application/json", huge, 413, "Request entity too large: limit is 3145728"),
        ] {
            let answer = good.post(path("configmaps")).header("content-type", content).body(body.clone()).send().await.expect("an answer");
            let (got, text) = message(answer).await;
            let shown = &body[..body.len().min(60)];
            assert!(got == code && text.contains(wanted), "{shown}: wanted {code} {wanted:?}, got {got} {text:?}");
        }
        let missing = good.get(path("nonsense")).send().await.expect("an answer");
        assert_eq!(missing.status(), 404);

        let (code, text) = message(client(None).get(path("configmaps")).bearer_auth("wrong").send().await.expect("an answer")).await;
        assert_eq!((code, text.as_str()), (401, "Unauthorized"));

        let other = std::env::temp_dir().join(format!("skiff-other-ca-{}", std::process::id()));
        let made = Command::new(cluster.binary("apiserver"))
            .args(["pki", "--server", &server, "--node-name", "n1", "--cert-dir"])
            .arg(other.join("pki"))
            .arg("--kubeconfig-dir")
            .arg(other.join("kubeconfigs"))
            .output()
            .expect("the release build is there");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let stranger = client(Some(admin(&other.join("kubeconfigs"))));
        std::fs::remove_dir_all(&other).expect("it is ours");
        let (code, text) = message(stranger.get(path("configmaps")).send().await.expect("an answer")).await;
        assert_eq!((code, text.as_str()), (401, "Unauthorized"));

        let list: Value = good.get(path("configmaps")).send().await.expect("an answer").json().await.expect("a list");
        let names: Vec<&str> = list["items"].as_array().expect("items").iter().filter_map(|i| i["metadata"]["name"].as_str()).collect();
        assert!(names.iter().all(|n| *n == "kube-root-ca.crt"), "nothing was stored: {names:?}");
        good.delete(format!("{server}/api/v1/namespaces/{NAMESPACE}")).send().await.expect("an answer");
    });
}
