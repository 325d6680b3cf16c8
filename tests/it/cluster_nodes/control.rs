//! The control plane over the nodes of a cluster: what they have applied, `weir wait --cluster`, plans that count the clients of
//! all nodes, and the status of all nodes from any of them.

use std::process::Output;

use super::nodes::{Node, Nodes};
use crate::cluster_engine::nats::{self, Nats};
use crate::support::client::Client;
use crate::support::weir::command;
use crate::wire::Version;

/// Three nodes with the same documents, in which each has an endpoint of its own.
fn nodes_with_the_same_documents(servers: &[Nats]) -> (Vec<Node>, String) {
    let nodes: Vec<Node> = ["n1", "n2", "n3"]
        .into_iter()
        .map(|name| {
            let node = Node::new(name, servers);
            Node { weir: node.weir.with_arguments(&["--node-label", &format!("name={name}")]), ..node }
        })
        .collect();
    let endpoint = |node: &Node| {
        format!(
            "---\nendpoint: {{name: on-{0}, host: 127.0.0.1, port: {1}, enableAuth: false, enableAcl: false, nodes: {{name: {0}}}}}\n",
            node.name,
            node.address.port()
        )
    };
    let documents: String = nodes.iter().map(endpoint).collect();
    declare(&nodes, &documents);
    (nodes, documents)
}

fn declare(nodes: &[Node], documents: &str) {
    nodes.iter().for_each(|node| node.weir.write("endpoints.yaml", documents));
}

fn digest(node: &Node) -> String {
    node.weir.get("/api/cluster/members")["cluster"]["digest"].as_str().unwrap_or_default().to_owned()
}

/// `weir wait --cluster` of a node, and what it prints.
fn wait(node: &Node, digest: &str, timeout_s: &str) -> (bool, String) {
    let status = node.weir.status_url();
    let arguments = ["wait", "--cluster", "--digest", digest, "--status", &status, "--timeout-s", timeout_s];
    let Output { status, stdout, stderr } = command().args(arguments).output().unwrap();
    (status.success(), format!("{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr)))
}

#[test]
fn wait_for_a_cluster_ends_when_all_nodes_have_applied_a_change_and_names_those_that_have_not() {
    if !nats::is_there() {
        return;
    }
    let servers = vec![Nats::start()];
    let (nodes, documents) = nodes_with_the_same_documents(&servers);
    let mut cluster = Nodes::start_nodes(servers, nodes);
    let first = digest(&cluster.nodes[0]);
    for node in &cluster.nodes {
        let (all, text) = wait(node, &first, "30");
        assert!(all && ["n1: applied", "n2: applied", "n3: applied"].iter().all(|line| text.contains(line)), "{text}");
    }
    let changed = format!("{documents}---\nban: {{name: one, entries: [{{clientId: bad}}]}}\n");
    declare(&cluster.nodes[..2], &changed);
    cluster.nodes[0].weir.until("n1 has applied the change", || digest(&cluster.nodes[0]) != first);
    let second = digest(&cluster.nodes[0]);
    let (all, text) = wait(&cluster.nodes[1], &second, "4");
    assert!(!all && text.contains(&format!("n3: its digest is {first}")) && !text.contains("n1: its"), "{text}");
    declare(&cluster.nodes[2..], &changed);
    let (all, text) = wait(&cluster.nodes[1], &second, "30");
    assert!(all, "{text}");
    // Every node tells what every node has applied, at most 2 s later.
    for node in &cluster.nodes {
        node.weir.until("the peers have applied the change", || {
            let members = node.weir.get("/api/cluster/members")["cluster"].clone();
            let peers = members["peers"].as_array().cloned().unwrap_or_default();
            let has_applied = |peer: &serde_json::Value| {
                peer["digest"] == second.as_str() && peer["converged"] == true && peer["revision"].is_string()
            };
            peers.len() == 2 && peers.iter().all(has_applied)
        });
        let listed = node.weir.get("/api/cluster/nodes")["nodes"].as_array().cloned().unwrap_or_default();
        let names: Vec<&str> = listed.iter().filter_map(|node| node["name"].as_str()).collect();
        assert_eq!(names[0], node.name);
        assert_eq!(names.len(), 3, "{names:?}");
    }
    let output =
        command().args(["cluster", "status", "--status", &cluster.nodes[2].weir.status_url()]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("n3 is in, ready, revision ") && text.contains("  REVISION  "), "{text}");
    // One that is gone is not waited for.
    assert!(cluster.nodes[2].weir.stop().success());
    let gone = || cluster.nodes[0].weir.get("/api/cluster/nodes")["nodes"].as_array().is_some_and(|all| all.len() == 2);
    cluster.nodes[0].weir.until("n3 has left", gone);
    assert!(wait(&cluster.nodes[0], &second, "10").0);
}

#[test]
fn a_plan_counts_the_clients_of_an_endpoint_on_all_nodes() {
    if !nats::is_there() {
        return;
    }
    let cluster = Nodes::start(3);
    let mut clients: Vec<Client> = Vec::new();
    for (at, node) in cluster.nodes.iter().enumerate() {
        clients.extend((0..=at).map(|number| node.client(Version::V5, &format!("c{number}"))));
    }
    let asked = &cluster.nodes[0];
    // Without the endpoint of these clients.
    let file = asked.weir.directory().join("planned.yaml");
    std::fs::write(
        &file,
        format!(
            "endpoint: {{name: apart, host: 127.0.0.1, port: {}, enableAuth: false, enableAcl: false, mountpoint: apart/, \
             messageMaxSize: 16777216}}\n",
            asked.apart.port()
        ),
    )
    .unwrap();
    let plan = |more: &[&str]| {
        let (file, url) = (file.display().to_string(), asked.weir.status_url());
        let output = command().args(["plan", &file, "--against", &url]).args(more).output().unwrap();
        let text = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
        (output.status.success(), text)
    };
    asked.weir.until("the plan counts the clients of all nodes", || plan(&["--no-diff"]).1.contains("6 clients"));
    let (_, text) = plan(&["--no-diff"]);
    assert!(text.starts_with("clients of 3 nodes: n1, n2, n3\n"), "{text}");
    let (allowed, text) = plan(&["--max-disconnects", "5"]);
    assert!(!allowed && text.contains("6 clients would be disconnected, --max-disconnects allows 5"), "{text}");
    assert!(plan(&["--max-disconnects", "6"]).0);
    let (_, json) = plan(&["--format", "json"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["broker"]["nodes"], serde_json::json!(["n1", "n2", "n3"]));
}
