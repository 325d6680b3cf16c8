"""paho-mqtt against a broker: paho_client.py tcp|websockets PORT[,PORT...] 3|4|5. Prints what failed and exits 1, else "ok".

With several ports, of the nodes of a cluster, each connection goes to the next one.
"""

import itertools
import queue
import socket
import sys
import time

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

transport, ports, version = sys.argv[1], itertools.cycle(map(int, sys.argv[2].split(","))), int(sys.argv[3])
protocol = {3: mqtt.MQTTv31, 4: mqtt.MQTTv311, 5: mqtt.MQTTv5}[version]
prefix = f"paho/{transport}/{version}"
GUARD = 20


class Peer:
    """A client whose messages can be waited for."""

    def __init__(self, name, clean=True, will=None):
        self.messages, self.subscribed, self.connected = queue.Queue(), queue.Queue(), queue.Queue()
        identity = f"{transport[:2]}{version}-{name}"
        session = {} if version == 5 else {"clean_session": clean}
        self.client = mqtt.Client(
            mqtt.CallbackAPIVersion.VERSION2, client_id=identity, protocol=protocol, transport=transport, **session
        )
        self.client.on_message = lambda _c, _u, message: self.messages.put(message)
        self.client.on_subscribe = lambda _c, _u, _m, codes, _p: self.subscribed.put(codes)
        self.client.on_connect = lambda _c, _u, flags, code, _p: self.connected.put((flags, code))
        if will:
            self.client.will_set(*will)
        options = {}
        if version == 5:
            options["clean_start"] = clean
            if not clean:
                options["properties"] = Properties(PacketTypes.CONNECT)
                options["properties"].SessionExpiryInterval = 60
        self.client.connect("127.0.0.1", next(ports), keepalive=30, **options)
        self.client.loop_start()
        self.flags, code = self.connected.get(timeout=GUARD)
        assert not code.is_failure, f"{name}: {code}"

    def subscribe(self, *filters, **options):
        self.client.subscribe(*filters, **options)
        codes = self.subscribed.get(timeout=GUARD)
        assert not any(code.is_failure for code in codes), codes

    def publish(self, topic, payload, **options):
        self.client.publish(topic, payload, **options).wait_for_publish(GUARD)

    def next(self):
        return self.messages.get(timeout=GUARD)

    def leave(self):
        self.client.disconnect()
        self.client.loop_stop()

    def die(self):
        """Ends without a DISCONNECT."""
        self.client.loop_stop()
        raw = self.client.socket()
        (raw if isinstance(raw, socket.socket) else raw._socket).shutdown(socket.SHUT_RDWR)


def every_qos_in_order():
    subscriber, publisher = Peer("sub"), Peer("pub")
    subscriber.subscribe([(f"{prefix}/qos/+/x", 2)])
    for qos in (0, 1, 2):
        for n in range(20):
            publisher.publish(f"{prefix}/qos/{qos}/x", f"{qos}-{n}", qos=qos)
    for qos in (0, 1, 2):
        for n in range(20):
            message = subscriber.next()
            assert (message.payload.decode(), message.qos) == (f"{qos}-{n}", qos), (message.payload, message.qos)
    subscriber.leave()
    publisher.leave()


def retained_message():
    publisher = Peer("pub")
    publisher.publish(f"{prefix}/kept", "now", qos=1, retain=True)
    subscriber = Peer("sub")
    subscriber.subscribe(f"{prefix}/kept", 1)
    message = subscriber.next()
    assert message.payload == b"now" and message.retain
    publisher.publish(f"{prefix}/kept", "", qos=1, retain=True)
    assert subscriber.next().payload == b""
    publisher.leave()
    subscriber.leave()


def session_that_outlives_its_connection():
    away = Peer("away", clean=False)
    away.subscribe(f"{prefix}/away/#", 2)
    away.leave()
    publisher = Peer("pub")
    for n in range(5):
        publisher.publish(f"{prefix}/away/{n}", str(n), qos=1)
    publisher.leave()
    back = Peer("away", clean=False)
    assert version == 3 or back.flags.session_present
    assert [back.next().payload for _ in range(5)] == [b"0", b"1", b"2", b"3", b"4"]
    back.leave()
    Peer("away", clean=True).leave()


def will_of_a_client_that_dies():
    watcher = Peer("watch")
    watcher.subscribe(f"{prefix}/will", 1)
    Peer("mortal", will=(f"{prefix}/will", "gone", 1, False)).die()
    assert watcher.next().payload == b"gone"
    watcher.leave()


def shared_subscription():
    members = [Peer("m1"), Peer("m2")]
    for member in members:
        member.subscribe(f"$share/group/{prefix}/work", 1)
    publisher = Peer("pub")
    for n in range(20):
        publisher.publish(f"{prefix}/work", str(n), qos=1)
    deadline = time.monotonic() + GUARD
    while sum(m.messages.qsize() for m in members) < 20 and time.monotonic() < deadline:
        time.sleep(0.01)
    counts = [m.messages.qsize() for m in members]
    assert sum(counts) == 20 and min(counts) > 0, counts
    for peer in [*members, publisher]:
        peer.leave()


def properties_of_version_5():
    subscriber, publisher = Peer("sub"), Peer("pub")
    identifier = Properties(PacketTypes.SUBSCRIBE)
    identifier.SubscriptionIdentifier = 77
    subscriber.subscribe(f"{prefix}/v5", options=SubscribeOptions(qos=1, noLocal=True), properties=identifier)
    sent = Properties(PacketTypes.PUBLISH)
    sent.UserProperty = [("a", "1"), ("b", "2"), ("a", "3")]
    sent.ContentType = "text/plain"
    sent.ResponseTopic = f"{prefix}/answer"
    sent.CorrelationData = b"\x00\x01"
    sent.MessageExpiryInterval = 100
    sent.TopicAlias = 1
    subscriber.publish(f"{prefix}/v5", "own", qos=1)
    publisher.publish(f"{prefix}/v5", "one", qos=1, properties=sent)
    got = subscriber.next()
    assert got.payload == b"one", "No Local"
    assert got.properties.UserProperty == [("a", "1"), ("b", "2"), ("a", "3")]
    assert got.properties.ContentType == "text/plain" and got.properties.ResponseTopic == f"{prefix}/answer"
    assert got.properties.CorrelationData == b"\x00\x01" and got.properties.SubscriptionIdentifier == [77]
    assert 90 <= got.properties.MessageExpiryInterval <= 100
    subscriber.leave()
    publisher.leave()


cases = [every_qos_in_order, retained_message, session_that_outlives_its_connection, will_of_a_client_that_dies]
cases += [shared_subscription] if version != 3 else []
cases += [properties_of_version_5] if version == 5 else []
for case in cases:
    print(case.__name__, flush=True)
    case()
print("ok")
