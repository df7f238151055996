//! Services of type LoadBalancer without a cloud.

use skiff_testing::{Cluster, eventually, for_each_kubectl};
use std::io::{Read, Write};
use std::net::TcpStream;

fn answers(address: &str) -> bool {
    let Ok(mut stream) = TcpStream::connect((address, 80)) else { return false };
    let mut text = String::new();
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").is_ok() && stream.read_to_string(&mut text).is_ok() && text.contains("200 OK")
}

/// Proves CMP-09: an address of the Service's own, on which it answers from this machine.
#[test]
fn a_load_balancer_has_an_address_that_answers() {
    for_each_kubectl(Cluster::shared(), "balancer", |k| {
        k.ok(&["run", "web", "--image=nginx:1.14", "--port=80", "--labels=app=web"]);
        k.until_ready("web");
        k.ok(&["expose", "pod", "web", "--type=LoadBalancer", "--port=80"]);
        let path = "{.status.loadBalancer.ingress[0].ip}";
        eventually("an address", 30, || !k.field("service", "web", path).is_empty());
        let address = k.field("service", "web", path);
        eventually("it answers", 30, || answers(&address));
        assert!(k.events("web").iter().any(|(reason, _)| reason == "EnsuredLoadBalancer"));
        k.ok(&["patch", "service", "web", "-p", r#"{"spec": {"type": "ClusterIP"}}"#]);
        eventually("the address is taken back", 30, || k.field("service", "web", path).is_empty());
    });
}
