//! TLS: who is who, who may what, and certificates that are replaced while nodes run.

use std::sync::Arc;

use flotilla::config::{Config, HostPort};
use flotilla_proto::admin as a;
use flotilla_proto::admin::placement_client::PlacementClient;
use flotilla_proto::kvrpcpb as k;
use flotilla_proto::pdpb as p;
use flotilla_proto::pdpb::pd_client::PdClient;
use flotilla_proto::raft::MessagesRequest;
use flotilla_proto::raft::peers_client::PeersClient;
use flotilla_proto::tikvpb::tikv_client::TikvClient;
use flotilla_tls::{Dial, Role, Tls};
use tikv_client::RawClient;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{self, ClientConfig, RootCertStore};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use crate::certificates::{Authority, Files};
use crate::support::stock::{key, patient};
use crate::support::{TestNode, eventually};

fn secure(config: &mut Config, files: &Files) {
    config.ca = Some(files.ca.clone());
    config.cert = Some(files.cert.clone());
    config.key = Some(files.key.clone());
}

/// A node with the certificate `node`.
async fn node(files: &Files) -> TestNode {
    node_with(files, |_| ()).await
}

async fn node_with(
    files: &Files,
    change: impl Fn(&mut Config) + Send + Sync + 'static,
) -> TestNode {
    let files = files.clone();
    TestNode::with(move |config| {
        secure(config, &files);
        change(config);
    })
    .await
}

fn address(node: &TestNode) -> HostPort {
    node.addr().parse().expect("an address")
}

/// How the owner of `files` connects.
fn dial(files: &Files) -> Dial {
    let Files { ca, cert, key } = files.clone();
    let tls = Tls::load(flotilla_tls::Files { ca, cert, key }, Role::Client);
    Some(tls.expect("good files")).into()
}

async fn channel(node: &TestNode, files: &Files) -> Channel {
    let dial = dial(files);
    let endpoint = Endpoint::from_shared(dial.url(&node.addr())).expect("an address");
    dial.connect(&endpoint).await.expect("connected")
}

async fn stock(node: &TestNode, files: &Files) -> tikv_client::Result<RawClient> {
    let config = patient().with_security(&files.ca, &files.cert, &files.key);
    RawClient::new_with_config(vec![node.addr()], config).await
}

fn metric(node: &TestNode, name: &str) -> f64 {
    let text = node.node().metrics().render();
    let mut lines = text.lines();
    let line = lines.find_map(|line| line.strip_prefix(&format!("{name} ")));
    line.map_or(0.0, |value| value.parse().expect("a number"))
}

/// Speaks TLS with `node` as somebody who has no certificate; also what the node has shown.
async fn without_certificate(node: &TestNode, ca: &Files, said: &str) -> (String, Vec<u8>) {
    let mut roots = RootCertStore::empty();
    let ca = CertificateDer::from_pem_file(&ca.ca).expect("a certificate");
    roots.add(ca).expect("a CA");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("TLS 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = TcpStream::connect(node.socket()).await.expect("it listens");
    let host = ServerName::try_from("localhost").expect("a name");
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let mut stream = connector.connect(host, stream).await.expect("a handshake");
    let shown = stream.get_ref().1.peer_certificates().expect("a chain")[0].to_vec();
    stream.write_all(said.as_bytes()).await.expect("sent");
    let mut answer = String::new();
    // Some end without a farewell.
    let _ = stream.read_to_string(&mut answer).await;
    (answer, shown)
}

fn page(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: node\r\nconnection: close\r\n\r\n")
}

/// `GET path` as the owner of `files`: the status line and all after it.
async fn page_as(node: &TestNode, files: &Files, path: &str) -> String {
    let mut stream = dial(files).pages(&node.addr()).await.expect("connected");
    stream.write_all(page(path).as_bytes()).await.expect("sent");
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer).await;
    answer
}

fn certificate(files: &Files) -> Vec<u8> {
    let own = CertificateDer::from_pem_file(&files.cert).expect("a certificate");
    own.to_vec()
}

/// The voters of the region that holds all rows.
async fn replicas(node: &TestNode, files: &Files) -> usize {
    let mut pd = PdClient::new(channel(node, files).await);
    let members = pd.get_members(p::GetMembersRequest::default()).await;
    let header = members.expect("an answer").into_inner().header;
    let header = Some(p::RequestHeader {
        cluster_id: header.expect("a header").cluster_id,
        ..Default::default()
    });
    let region_key = "k".into();
    let asked = p::GetRegionRequest {
        header,
        region_key,
        ..Default::default()
    };
    let found = pd.get_region(asked).await;
    let region = found.ok().and_then(|found| found.into_inner().region);
    region.map_or(0, |region| {
        region.peers.iter().filter(|peer| peer.role == 0).count()
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn three_nodes_replicate_by_tls_and_the_stock_client_goes_on_without_one() {
    let authority = Authority::new();
    let (files, app) = (authority.issue("node"), authority.issue("app"));
    let mut first = node(&files).await;
    let join = address(&first);
    let joining = move |config: &mut Config| config.join = Some(join.clone());
    let others = [
        node_with(&files, joining.clone()).await,
        node_with(&files, joining.clone()).await,
    ];
    let client = stock(&others[0], &app).await.expect("the client connects");
    client.put(key("k"), "before").await.expect("put");
    eventually("three replicas", async || {
        (replicas(&others[0], &app).await == 3).then_some(())
    })
    .await;
    first.crash().await;
    eventually("the others to serve", async || {
        client.put(key("l"), "after").await.ok()
    })
    .await;
    let found = client.batch_get([key("k"), key("l")]).await.expect("read");
    assert_eq!(found.len(), 2);
    // Members are told as they are dialled.
    let page = page_as(&others[1], &files, "/pd/api/v1/members").await;
    assert!(page.contains("https://127.0.0.1:"), "{page}");
}

/// What came of a call: it was carried out or refused for what it says, or it is not for the caller.
fn served<T>(answer: Result<T, Status>) -> String {
    match answer {
        Err(status) if status.code() == Code::PermissionDenied => {
            let text = status.message();
            let (_, why) = text.split_once(" may not ").expect("a refusal");
            why.to_owned()
        }
        _ => "served".to_owned(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_may_what_its_name_is_allowed() {
    let authority = Authority::new();
    let node = node_with(&authority.issue("node"), |config| {
        config.client_names = Some("app".parse().expect("names"));
        config.admin_names = Some("ops-*".parse().expect("names"));
    })
    .await;
    let read = "read or write: security.client-names does not name it";
    let admin = "see the pages or change the cluster: security.admin-names does not name it";
    let act = "act as a node: security.node-names does not name it";
    let yes = "served";
    //  whose     reads  PD    puts a store  streams  changes
    for (name, expected) in [
        ("node", [yes, yes, yes, yes, yes]),
        ("ops-1", [yes, yes, act, act, yes]),
        ("app", [yes, yes, act, act, admin]),
        ("stranger", [read, read, act, act, admin]),
    ] {
        let files = authority.issue(name);
        let channel = channel(&node, &files).await;
        let get = TikvClient::new(channel.clone())
            .raw_get(k::RawGetRequest::default())
            .await;
        let mut pd = PdClient::new(channel.clone());
        let members = pd.get_members(p::GetMembersRequest::default()).await;
        let store = pd.put_store(p::PutStoreRequest::default()).await;
        let hello = tokio_stream::once(MessagesRequest::default());
        let stream = PeersClient::new(channel.clone()).messages(hello).await;
        let operators = a::ListOperatorsRequest {};
        let operators = PlacementClient::new(channel)
            .list_operators(operators)
            .await;
        let found = [
            served(get),
            served(members),
            served(store),
            served(stream),
            served(operators),
        ];
        assert_eq!(found, expected, "{name}");
        let metrics = page_as(&node, &files, "/metrics").await;
        let (status, why) = match expected[4] {
            "served" => ("HTTP/1.1 200", "flotilla_connections"),
            refused => ("HTTP/1.1 403", refused),
        };
        assert!(
            metrics.starts_with(status) && metrics.contains(why),
            "{name}: {metrics}"
        );
        let health = page_as(&node, &files, "/health").await;
        assert!(health.starts_with("HTTP/1.1 200"), "{name}: {health}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_certificate_there_is_the_health_check_and_nothing_else() {
    let authority = Authority::new();
    let files = authority.issue("node");
    let node = node(&files).await;
    let call = "POST /tikvpb.Tikv/RawGet HTTP/1.1\r\nhost: node\r\ncontent-type: application/grpc\r\n\
                content-length: 0\r\nconnection: close\r\n\r\n";
    for (said, expected) in [
        (page("/health"), "HTTP/1.1 200"),
        (
            page("/metrics"),
            "connect with a certificate that the CA of this cluster has signed",
        ),
        (page("/pd/api/v1/stores"), "HTTP/1.1 403"),
        // UNAUTHENTICATED
        (call.to_owned(), "grpc-status: 16"),
    ] {
        let (answer, shown) = without_certificate(&node, &files, &said).await;
        assert!(answer.contains(expected), "{said}: {answer}");
        assert_eq!(shown, certificate(&files));
    }
    assert_eq!(metric(&node, "flotilla_requests_forbidden_total"), 3.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_of_another_ca_is_not_let_in_and_does_not_go_in() {
    let (authority, other) = (Authority::new(), Authority::new());
    let files = authority.issue("node");
    let node = node(&files).await;
    let stranger = other.issue("node");
    // It does not believe the node; if it did, the node would not believe it.
    let fooled = Files {
        ca: files.ca.clone(),
        ..stranger.clone()
    };
    assert!(stock(&node, &stranger).await.is_err());
    assert!(stock(&node, &fooled).await.is_err());
    eventually("the handshakes to fail", async || {
        (metric(&node, "flotilla_tls_handshakes_failed_total") >= 2.0).then_some(())
    })
    .await;
    assert!(stock(&node, &files).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_a_client_s_certificate_does_not_join() {
    let authority = Authority::new();
    let first = node(&authority.issue("node")).await;
    let (app, join) = (authority.issue("app"), address(&first));
    let mut second = TestNode::prepared(|_| ());
    let refused = second
        .refused_with(|config| {
            secure(config, &app);
            config.join = Some(join);
        })
        .await;
    let why = refused.to_string();
    let expected = "the certificate of app, 127.0.0.1, localhost may not act as a node: \
                    security.node-names does not name it";
    assert!(why.contains(expected), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replaced_certificate_is_shown_to_new_connections_and_old_ones_go_on() {
    let authority = Authority::new();
    let (files, app) = (authority.issue("node"), authority.issue("app"));
    let node = node(&files).await;
    let client = stock(&node, &app).await.expect("the client connects");
    client.put(key("k"), "v").await.expect("put");
    let old = certificate(&files);

    // A file that is no certificate is not taken, and nothing is lost by it.
    let good = std::fs::read(&files.cert).expect("a file");
    std::fs::write(&files.cert, "half a certif").expect("written");
    eventually("the broken file to be seen", async || {
        (metric(&node, "flotilla_tls_files_refused") == 1.0).then_some(())
    })
    .await;
    let (_, shown) = without_certificate(&node, &app, &page("/health")).await;
    assert_eq!(shown, old);
    std::fs::write(&files.cert, good).expect("written");
    eventually("the good file to be seen", async || {
        (metric(&node, "flotilla_tls_files_refused") == 0.0).then_some(())
    })
    .await;
    assert_eq!(metric(&node, "flotilla_tls_reloads_total"), 0.0);

    let files = authority.issue("node");
    let new = certificate(&files);
    assert_ne!(new, old);
    eventually("the new certificate", async || {
        let (answer, shown) = without_certificate(&node, &app, &page("/health")).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        (shown == new).then_some(())
    })
    .await;
    assert_eq!(metric(&node, "flotilla_tls_reloads_total"), 1.0);
    assert!(metric(&node, "flotilla_tls_certificate_left_seconds") > 3600.0);
    // The same connection as before, and a new one.
    assert_eq!(
        client.get(key("k")).await.expect("read"),
        Some(b"v".to_vec())
    );
    let another = stock(&node, &app).await.expect("the client connects");
    assert_eq!(
        another.get(key("k")).await.expect("read"),
        Some(b"v".to_vec())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn who_speaks_plaintext_to_tls_or_tls_to_plaintext_is_let_go() {
    let authority = Authority::new();
    let files = authority.issue("node");
    let (secure, plain) = (node(&files).await, TestNode::start().await);
    for said in [page("/health").as_str(), "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"] {
        let mut stream = TcpStream::connect(secure.socket())
            .await
            .expect("it listens");
        stream.write_all(said.as_bytes()).await.expect("sent");
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
    }
    assert!(stock(&plain, &files).await.is_err());
    for node in [&secure, &plain] {
        eventually("it to be counted", async || {
            (metric(node, "flotilla_connections_plaintext_total") >= 1.0).then_some(())
        })
        .await;
    }
}
