//! Addresses of services as clients see them: each is an IPAddress for as long as its service has it, out of whichever ServiceCIDRs there are.

use super::Cluster;
use serde_json::{Value, json};

const SERVICES: &str = "/api/v1/namespaces/default/services";
const ADDRESSES: &str = "/apis/networking.k8s.io/v1/ipaddresses";
const RANGES: &str = "/apis/networking.k8s.io/v1/servicecidrs";

fn service(name: &str, spec: Value) -> Value {
    let mut object = json!({"metadata": {"name": name}, "spec": {"ports": [{"port": 80}]}});
    object["spec"].as_object_mut().unwrap().extend(spec.as_object().cloned().unwrap());
    object
}

#[tokio::test]
async fn an_address_is_an_object_for_as_long_as_a_service_has_it() {
    let cluster = Cluster::start().await;
    let get = async |path: String| cluster.get(&path).await;
    let own = cluster.until(&format!("{SERVICES}/kubernetes"), |code, _| code == 200).await;
    let own = own["spec"]["clusterIP"].as_str().unwrap().to_owned();
    assert_eq!(get(format!("{ADDRESSES}/{own}")).await.0, 200);

    let (code, made) = cluster.json("POST", SERVICES, service("a", json!({}))).await;
    assert_eq!(code, 201, "{made}");
    let address = made["spec"]["clusterIP"].as_str().unwrap().to_owned();
    let (_, object) = get(format!("{ADDRESSES}/{address}")).await;
    assert_eq!(object["spec"]["parentRef"], json!({"resource": "services", "namespace": "default", "name": "a"}));
    let labels = json!({"ipaddress.kubernetes.io/ip-family": "IPv4", "ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io"});
    assert_eq!(object["metadata"]["labels"], labels);

    // Neither a dry run nor a service that cannot be made takes an address.
    let before = get(ADDRESSES.to_owned()).await.1["items"].as_array().unwrap().len();
    let again = cluster.json("POST", SERVICES, service("a", json!({}))).await;
    let trial = cluster.json("POST", &format!("{SERVICES}?dryRun=All"), service("trial", json!({}))).await;
    let same = cluster.json("POST", SERVICES, service("b", json!({"clusterIP": address}))).await;
    assert_eq!((again.0, trial.0, same.0), (409, 201, 422), "{again:?} {trial:?} {same:?}");
    let why = same.1["message"].as_str().unwrap().to_owned();
    assert!(why.contains(&format!("failed to allocate IP {address}: provided IP is already allocated")), "{why}");
    assert_eq!(get(ADDRESSES.to_owned()).await.1["items"].as_array().unwrap().len(), before);

    let (_, mut external) = get(format!("{SERVICES}/a")).await;
    external["spec"]["type"] = json!("ExternalName");
    external["spec"]["externalName"] = json!("example.com");
    let changed = cluster.json("PUT", &format!("{SERVICES}/a"), external).await;
    assert_eq!(changed.0, 200, "{changed:?}");
    assert_eq!(get(format!("{ADDRESSES}/{address}")).await.0, 404);

    let (_, own_range) = get(format!("{RANGES}/kubernetes")).await;
    let block = own_range["spec"]["cidrs"][0].as_str().unwrap();
    let network = block.split('/').next().unwrap();
    let (code, refused) = cluster.json("POST", SERVICES, service("n", json!({"clusterIP": network}))).await;
    let why = format!(
        "failed to allocate IP {network}: the provided IP ({network}) is not in the valid range. The range of valid IPs is {block}"
    );
    assert_eq!((code, refused["details"]["causes"][0]["message"].as_str().unwrap().contains(&why)), (422, true), "{refused}");
    let elsewhere = service("c", json!({"clusterIP": "203.0.113.10"}));
    assert_eq!(cluster.json("POST", SERVICES, elsewhere.clone()).await.0, 422);
    let range = json!({"metadata": {"name": "more"}, "spec": {"cidrs": ["203.0.113.0/24"]}});
    assert_eq!(cluster.json("POST", RANGES, range).await.0, 201);
    let taken = cluster.json("POST", SERVICES, elsewhere).await;
    assert_eq!(taken.0, 201, "{taken:?}");
    assert_eq!(get(format!("{ADDRESSES}/203.0.113.10")).await.0, 200);
    assert_eq!(cluster.send(cluster.request("DELETE", &format!("{SERVICES}/c"))).await.0, 200);
    assert_eq!(get(format!("{ADDRESSES}/203.0.113.10")).await.0, 404);
}

#[tokio::test]
async fn the_servers_own_service_comes_back_with_its_address() {
    let cluster = Cluster::start().await;
    let path = format!("{SERVICES}/kubernetes");
    let old = cluster.until(&path, |code, _| code == 200).await;
    assert_eq!(cluster.send(cluster.request("DELETE", &path)).await.0, 200);
    let uid = &old["metadata"]["uid"];
    let new = cluster.until(&path, |code, service| code == 200 && service["metadata"]["uid"] != *uid).await;
    assert_eq!(new["spec"]["clusterIP"], old["spec"]["clusterIP"]);
}
