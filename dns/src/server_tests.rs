//! The server on loopback, asked as clients ask, with an upstream of the test's own behind it.

use crate::fixtures::{external, headless, service, slice};
use crate::forward::{Forwarder, Source};
use crate::metrics::Metrics;
use crate::resolver::Resolver;
use crate::server::Serving;
use crate::zone::Zone;
use client::ObjectKey;
use hickory_proto::op::{Edns, Message, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{Name, RData, Record, RecordType};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio_util::sync::{CancellationToken, DropGuard};

fn name(text: &str) -> Name {
    Name::from_ascii(text).unwrap()
}

async fn serve(forward: Source) -> (SocketAddr, Arc<Serving>, DropGuard) {
    let zone = Zone { domain: name("cluster.local."), ttl: 30, pods: true, servers: Vec::new() };
    let metrics = Arc::new(Metrics::default());
    let forwarder = Forwarder::new(forward, Vec::new(), metrics.clone());
    let resolver = Arc::new(Resolver::new(zone, Arc::new(forwarder)));
    {
        let mut index = resolver.index.write();
        index.set_namespace("ns", true);
        let key = |name: &str| ObjectKey::new("ns", name);
        index.set_service(&key("web"), Some(&service("ns", "web", "10.96.0.5", json!([{"port": 80}]))));
        index.set_service(&key("outside"), Some(&external("ns", "outside", "www.example.com")));
        index.set_service(&key("many"), Some(&headless("ns", "many", json!([]))));
        let members: Vec<Value> = (0..200).map(|last| json!({"addresses": [format!("10.0.0.{last}")]})).collect();
        index.set_endpoints(&key("many"), &[slice("ns", "many", members.into(), json!([]))]);
    }
    resolver.ready.store(true, Ordering::Release);
    let serving = Arc::new(Serving { resolver, metrics });
    let stop = CancellationToken::new();
    let address = serving.listen("127.0.0.1:0".parse().unwrap(), &stop).await.unwrap();
    (address, serving, stop.drop_guard())
}

fn asking(text: &str, kind: RecordType, payload: Option<u16>) -> Message {
    let mut message = Message::query();
    message.metadata.id = rand::random();
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(name(text), kind));
    if let Some(payload) = payload {
        let mut edns = Edns::new();
        edns.set_max_payload(payload);
        message.set_edns(edns);
    }
    message
}

async fn over_udp(server: SocketAddr, message: &Message) -> Message {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(server).await.unwrap();
    socket.send(&message.to_vec().unwrap()).await.unwrap();
    let mut buffer = [0; 65535];
    let length = tokio::time::timeout(Duration::from_secs(20), socket.recv(&mut buffer)).await.expect("an answer in time").unwrap();
    let answer = Message::from_vec(&buffer[..length]).unwrap();
    assert_eq!(answer.metadata.id, message.metadata.id);
    answer
}

async fn framed(stream: &mut TcpStream, message: &Message) -> Message {
    let bytes = message.to_vec().unwrap();
    stream.write_all(&[&(bytes.len() as u16).to_be_bytes(), bytes.as_slice()].concat()).await.unwrap();
    let length = stream.read_u16().await.unwrap();
    let mut bytes = vec![0; length.into()];
    stream.read_exact(&mut bytes).await.unwrap();
    Message::from_vec(&bytes).unwrap()
}

fn data(message: &Message) -> Vec<String> {
    message.answers.iter().map(|record| record.data.to_string()).collect()
}

/// What the upstream does.
#[derive(Clone, Copy)]
enum Behaviour {
    Answer,
    /// Answers only over TCP.
    CutOff,
    Silent,
}

/// A server that has one address for every name, and counts queries.
async fn upstream(behaviour: Behaviour) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let socket = UdpSocket::bind(address).await.unwrap();
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = asked.clone();
    let respond = |bytes: &[u8]| {
        let query = Message::from_vec(bytes).unwrap();
        let mut answer = Message::response(query.metadata.id, OpCode::Query);
        answer.add_query(query.queries[0].clone());
        if query.queries[0].name().iter().next() == Some(b"absent") {
            answer.metadata.response_code = ResponseCode::NXDomain;
        } else {
            answer.add_answer(Record::from_rdata(query.queries[0].name().clone(), 300, RData::A(A::new(192, 0, 2, 1))));
        }
        (answer, query.queries[0].query_type() == RecordType::HINFO)
    };
    tokio::spawn(async move {
        let mut buffer = [0; 2048];
        loop {
            let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
            let (mut answer, probe) = respond(&buffer[..length]);
            if !probe {
                counted.fetch_add(1, Ordering::SeqCst);
            }
            match behaviour {
                Behaviour::Silent => continue,
                Behaviour::CutOff => {
                    answer.answers.clear();
                    answer.metadata.truncation = true;
                }
                Behaviour::Answer => {}
            }
            socket.send_to(&answer.to_vec().unwrap(), from).await.unwrap();
        }
    });
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let length = stream.read_u16().await.unwrap();
            let mut bytes = vec![0; length.into()];
            stream.read_exact(&mut bytes).await.unwrap();
            let bytes = respond(&bytes).0.to_vec().unwrap();
            stream.write_all(&[&(bytes.len() as u16).to_be_bytes(), bytes.as_slice()].concat()).await.unwrap();
        }
    });
    (address, asked)
}

#[tokio::test]
async fn the_same_over_udp_and_tcp() {
    let (server, _, _stop) = serve(Source::Given(Vec::new())).await;
    let query = asking("web.ns.svc.cluster.local.", RecordType::A, None);
    let answer = over_udp(server, &query).await;
    assert_eq!((data(&answer), answer.metadata.authoritative), (vec!["10.96.0.5".to_owned()], true));
    let mut stream = TcpStream::connect(server).await.unwrap();
    // Several queries on one connection.
    for _ in 0..2 {
        assert_eq!(data(&framed(&mut stream, &query).await), ["10.96.0.5"]);
    }
}

#[tokio::test]
async fn long_answers_are_cut_off_over_udp_and_whole_over_tcp() {
    let (server, _, _stop) = serve(Source::Given(Vec::new())).await;
    let query = asking("many.ns.svc.cluster.local.", RecordType::A, Some(4096));
    let answer = over_udp(server, &query).await;
    assert!(answer.metadata.truncation && answer.answers.len() > 50 && answer.answers.len() < 200, "{}", answer.answers.len());
    let mut stream = TcpStream::connect(server).await.unwrap();
    let answer = framed(&mut stream, &query).await;
    assert_eq!((answer.answers.len(), answer.metadata.truncation), (200, false));
}

#[tokio::test]
async fn other_names_are_asked_once_of_others() {
    let (first, asked) = upstream(Behaviour::Answer).await;
    let (server, _, _stop) = serve(Source::Given(vec![first])).await;
    for text in ["www.example.com.", "WWW.example.com."] {
        let answer = over_udp(server, &asking(text, RecordType::A, None)).await;
        assert_eq!((data(&answer), answer.metadata.authoritative), (vec!["192.0.2.1".to_owned()], false));
        assert_eq!(answer.answers[0].ttl, if text.starts_with('w') { 300 } else { 30 });
    }
    assert_eq!(asked.load(Ordering::SeqCst), 1);
    // An alias of the cluster that leads out of it.
    let answer = over_udp(server, &asking("outside.ns.svc.cluster.local.", RecordType::A, None)).await;
    assert_eq!(data(&answer), ["www.example.com.", "192.0.2.1"]);
    let answer = over_udp(server, &asking("absent.example.com.", RecordType::A, None)).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::NXDomain);
}

#[tokio::test]
async fn what_is_cut_off_is_asked_again_over_tcp() {
    let (first, _) = upstream(Behaviour::CutOff).await;
    let (server, _, _stop) = serve(Source::Given(vec![first])).await;
    assert_eq!(data(&over_udp(server, &asking("www.example.com.", RecordType::A, None)).await), ["192.0.2.1"]);
}

#[tokio::test]
async fn a_server_that_is_silent_is_passed_over() {
    let (silent, asked) = upstream(Behaviour::Silent).await;
    let (other, _) = upstream(Behaviour::Answer).await;
    let (server, _, _stop) = serve(Source::Given(vec![silent, other])).await;
    for number in 0..4 {
        let answer = over_udp(server, &asking(&format!("n{number}.example.com."), RecordType::A, None)).await;
        assert_eq!(data(&answer), ["192.0.2.1"]);
    }
    // The question whether it leads back here counts as well.
    assert!(asked.load(Ordering::SeqCst) <= 2, "{}", asked.load(Ordering::SeqCst));
}

#[tokio::test]
async fn nothing_is_forwarded_where_it_would_come_back() {
    // A way back by an address that the server does not know as its own.
    let relay = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let relayed = Arc::new(AtomicUsize::new(0));
    let (server, serving, _stop) = serve(Source::Given(vec![relay.local_addr().unwrap()])).await;
    let counted = relayed.clone();
    tokio::spawn(async move {
        let mut buffer = [0; 2048];
        loop {
            let (length, from) = relay.recv_from(&mut buffer).await.unwrap();
            if from == server {
                continue;
            }
            counted.fetch_add(1, Ordering::SeqCst);
            let _ = relay.send_to(&buffer[..length], server).await;
        }
    });
    let first = asking("www.example.com.", RecordType::A, None);
    let answer = over_udp(server, &first).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    let before = relayed.load(Ordering::SeqCst);
    let answer = over_udp(server, &asking("other.example.com.", RecordType::A, None)).await;
    assert_eq!((answer.metadata.response_code, relayed.load(Ordering::SeqCst)), (ResponseCode::ServFail, before));
    assert!(serving.metrics.text("cluster.local.").contains("coredns_forward_responses_total"));
}

#[tokio::test]
async fn the_file_that_names_the_servers_is_read_when_somebody_has_to_be_asked() {
    let (first, asked) = upstream(Behaviour::Answer).await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("resolv.conf");
    let (server, _, _stop) = serve(Source::File(file.clone())).await;
    std::fs::write(&file, format!("nameserver {first}\n")).unwrap();
    assert_eq!(data(&over_udp(server, &asking("www.example.com.", RecordType::A, None)).await), ["192.0.2.1"]);
    assert_eq!(asked.load(Ordering::SeqCst), 1);
}
