//! The list of nats-servers from a key of etcd.

use super::nodes::Node;
use super::traffic::{Message, collect, number, publish_all};
use crate::cluster_engine::nats::{self, Nats};
use crate::etcd::store::Etcd;
use crate::wire::Version;

/// A node that asks this etcd.
fn node(name: &str, etcd: &Etcd) -> Node {
    let mut node = Node::new(name, &[]);
    let key = etcd.url().replace("http://", "etcd://") + "/weir/nats";
    node.weir.set_arguments(&[
        "--node-name",
        name,
        "--cluster",
        &key,
        "--cluster-name",
        "test",
        "--cluster-replicas",
        "1",
    ]);
    node
}

#[test]
fn nodes_find_the_nats_servers_by_a_key_of_etcd_and_say_what_is_missing() {
    if !nats::is_there() || !crate::etcd::is_there() {
        return;
    }
    let (etcd, servers) = (Etcd::start(), [Nats::start()]);
    let mut n1 = node("n1", &etcd);
    n1.weir.run();
    assert_eq!(n1.weir.wait().code(), Some(1));
    let words = "error: cluster not joined: engine discovery failed: etcd has no key /weir/nats: put a list like \
                 nats://n1:4222,nats://n2:4222 there";
    assert_eq!(n1.weir.log().trim_end(), words);
    // The first one is not there.
    let list = format!("nats://{}\n{}", crate::support::ports::free_address(), servers[0].url());
    assert!(etcd.try_ctl(&["put", "/weir/nats"], Some(&list)).status.success());
    let mut n2 = node("n2", &etcd);
    n1.start();
    n2.start();
    let mut subscriber = n1.client(Version::V5, "subscriber");
    subscriber.subscribe("t/#", 1);
    publish_all(&mut n2.client(Version::V5, "publisher"), &[Message::new("t/1", "1", 1)]);
    assert_eq!(number(&collect(&mut subscriber, 1)[0]), 1);
}
