//! Images: pulled with credentials, and from a registry that was away.

use skiff_testing::{Cluster, Kubectl, eventually};
use std::process::{Child, Command, Stdio};

/// A registry of the test's own on loopback, with one user; ended with this value.
struct Registry(Child);

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// `user:secret`, as bcrypt has it.
const PASSWORDS: &str = "user:$2b$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n";

fn start(cluster: &Cluster, dir: &std::path::Path, port: u16) -> Registry {
    let (passwords, config) = (dir.join("passwords"), dir.join("config.yml"));
    std::fs::write(&passwords, PASSWORDS).expect("written");
    let text = format!(
        "version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: 127.0.0.1:{port}}}\n\
         auth: {{htpasswd: {{realm: test, path: {}}}}}\n",
        dir.join("blobs").display(),
        passwords.display()
    );
    std::fs::write(&config, text).expect("written");
    let mut command = Command::new(cluster.root().join("target/images/docker-registry"));
    command.arg("serve").arg(&config).env("OTEL_TRACES_EXPORTER", "none").stdout(Stdio::null()).stderr(Stdio::null());
    let registry = Registry(command.spawn().expect("deploy/images left it there"));
    eventually("the registry listens", 20, || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
    registry
}

/// Proves POD-16: `imagePullPolicy`, `imagePullSecrets`, and a registry that comes back.
#[test]
fn images_are_pulled_with_credentials_once_their_registry_is_there() {
    let cluster = Cluster::shared();
    let k = Kubectl::ours(cluster, "images");
    let dir = std::env::temp_dir().join(format!("skiff-registry-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("made");
    let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port").port();
    let image = format!("127.0.0.1:{port}/private:1");
    {
        let _registry = start(cluster, &dir, port);
        let archive = format!("oci-archive:{}", cluster.root().join("target/images/busybox.tar").display());
        let copied = Command::new("skopeo")
            .args([
                "--insecure-policy",
                "copy",
                "--quiet",
                "--dest-tls-verify=false",
                "--dest-creds=user:secret",
                &archive,
                &format!("docker://{image}"),
            ])
            .output()
            .expect("skopeo is installed");
        assert!(copied.status.success(), "{}", String::from_utf8_lossy(&copied.stderr));
    }
    k.ok(&[
        "create",
        "secret",
        "docker-registry",
        "pull",
        &format!("--docker-server=127.0.0.1:{port}"),
        "--docker-username=user",
        "--docker-password=secret",
    ]);
    let pod = |name: &str, rest: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec: {{terminationGracePeriodSeconds: 0{rest}, \
             containers: [{{name: c, image: '{image}', imagePullPolicy: Always, command: [sleep, '1000']}}]}}\n"
        )
    };
    k.apply(&pod("waits", ", imagePullSecrets: [{name: pull}]"));
    let waits = |pod: &str, wanted: &[&str]| {
        let reason = k.field("pod", pod, "{.status.containerStatuses[0].state.waiting.reason}");
        wanted.contains(&reason.as_str())
    };
    eventually("the registry is missed", 30, || waits("waits", &["ErrImagePull", "ImagePullBackOff"]));
    eventually("waiting for it is told", 30, || k.events("waits").iter().any(|(reason, _)| reason == "BackOff"));
    let registry = start(cluster, &dir, port);
    k.until_ready("waits");
    let pulled = format!("Successfully pulled image \"{image}\" in ");
    assert!(
        k.events("waits").iter().any(|(reason, message)| reason == "Pulled" && message.starts_with(&pulled)),
        "{:?}",
        k.events("waits")
    );

    // It is on the node now, for those who could have pulled it.
    k.apply(&pod("borrows", "").replace("imagePullPolicy: Always", "imagePullPolicy: IfNotPresent"));
    k.apply(&pod("shares", ", imagePullSecrets: [{name: pull}]").replace("imagePullPolicy: Always", "imagePullPolicy: Never"));
    k.until_ready("shares");
    eventually("without credentials a private image is not used", 30, || waits("borrows", &["ErrImagePull", "ImagePullBackOff"]));
    k.apply(&pod("nobody", ""));
    eventually("without credentials nothing is pulled", 30, || waits("nobody", &["ErrImagePull", "ImagePullBackOff"]));
    k.apply(&pod("stranger", ", imagePullSecrets: [{name: nosuch}]"));
    eventually("a secret that is not there is told", 30, || {
        let text = "Unable to retrieve some image pull secrets (nosuch); attempting to pull the image may not succeed.";
        k.events("stranger").contains(&("FailedToRetrieveImagePullSecret".to_owned(), text.to_owned()))
    });
    drop(registry);
    cluster.ctr(&["images", "rm", &image]);
    std::fs::remove_dir_all(&dir).expect("it is ours");
}
