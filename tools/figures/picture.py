#!/usr/bin/env python3
"""docs/images/weir.svg: plan, commit, page; drawn from the output of `weir plan`, git and `weir status`.

  tools/figures/picture.py [--weir PATH]            writes the picture
  tools/figures/picture.py [--weir PATH] --check    exits with 1 if the committed one differs

It starts a broker on loopback, on ports that are free, and shows the ports of EXAMPLE in their place.
"""

import argparse
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import svg

ROOT = Path(__file__).resolve().parents[2]
PICTURE = ROOT / "docs/images/weir.svg"
EXAMPLE = {"plant": 1883, "office": 1884, "moved": 1893}
CLIENTS = {"plant": 3, "office": 2}
KINDS = {"+": "good", "-": "bad", "-/+": "bad", "~": "warn"}
CHARACTER = 7.3  # width of a monospace character of 12 px
MESSAGE = "Move the office, raise the limit of the plant"
GIT = {"GIT_AUTHOR_NAME": "Ann", "GIT_AUTHOR_EMAIL": "ann@example.com", "GIT_AUTHOR_DATE": "2026-01-01T09:00:00Z"}
GIT.update({key.replace("AUTHOR", "COMMITTER"): value for key, value in GIT.items()})


def free_ports(count):
    """Ports of four digits, so that the output is as wide as with those of EXAMPLE."""
    found, port = [], 2000 + os.getpid() % 5000
    while len(found) < count:
        port = port + 1 if port < 9999 else 2000
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
                found.append(port)
            except OSError:
                continue
    return found


def run(command, **options):
    done = subprocess.run(command, text=True, capture_output=True, env={**os.environ, **GIT, "LC_ALL": "C"}, **options)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))}: {done.stdout}{done.stderr}")
    return done.stdout


def write(directory, limit, plant, office):
    directory.mkdir(exist_ok=True)
    fields = "enableAuth: false, enableAcl: false"
    (directory / "plant.yaml").write_text(f"endpoint: {{port: {plant}, maxConnectionSize: {limit}, {fields}}}\n")
    (directory / "office.yaml").write_text(f"endpoint: {{port: {office}, {fields}}}\n")


def commit(directory, message):
    run(["git", "add", "-A"], cwd=directory)
    return run(["git", "commit", "-m", message], cwd=directory)


def repository(directory, plant, office):
    write(directory, 1000, plant, office)
    run(["git", "init", "-q", "-b", "main"], cwd=directory)
    commit(directory, "Two endpoints")


def connect(port, number):
    """A client that stays: CONNECT of MQTT 3.1.1 and its CONNACK."""
    name = f"client-{number}".encode()
    body = b"\0\4MQTT\4\2\0\0" + len(name).to_bytes(2, "big") + name
    client = socket.create_connection(("127.0.0.1", port), timeout=20)
    client.sendall(bytes([0x10, len(body)]) + body)
    answer = client.recv(4)
    if answer != b"\x20\x02\0\0":
        sys.exit(f"CONNACK on port {port} is {answer!r}")
    return client


def until(what, condition):
    deadline = time.monotonic() + 60
    while not (found := condition()):
        if time.monotonic() > deadline:
            sys.exit(f"{what}: not within 60 s")
        time.sleep(0.05)
    return found


class Broker:
    def __init__(self, weir, directory, status, log):
        self.weir, self.url = weir, f"http://127.0.0.1:{status}"
        self.process = subprocess.Popen(
            [weir, "run", "--endpoints", directory, "--git-ref", "main", "--host", "127.0.0.1", "--status-addr", f"127.0.0.1:{status}"],
            stderr=log)

    def status(self):
        """What `weir status` answers, or nothing before the broker does."""
        asked = subprocess.run([self.weir, "status", "--status", self.url, "--format", "json"], text=True, capture_output=True)
        return json.loads(asked.stdout) if asked.stdout else None

    def endpoints(self):
        status = self.status()
        return {endpoint["name"]: endpoint for endpoint in status["endpoints"].values()} if status else {}

    def stop(self):
        self.process.terminate()
        self.process.wait()


def outputs(weir, work):
    """The output of plan, of the commit, and the status after it, with the ports of EXAMPLE."""
    plant, office, moved, status = free_ports(4)
    live, wanted, shown = work / "endpoints.d", work / "wanted", work / "shown"
    repository(live, plant, office)
    write(wanted, 2000, plant, moved)
    repository(shown, EXAMPLE["plant"], EXAMPLE["office"])
    write(shown, 2000, EXAMPLE["plant"], EXAMPLE["moved"])
    committed = commit(shown, MESSAGE)
    with open(work / "log", "w") as log:
        broker = Broker(weir, live, status, log)
        try:
            until("two listeners", lambda: len(broker.endpoints()) == 2)
            clients = [connect(plant, number) for number in range(3)] + [connect(office, number) for number in range(3, 5)]
            until("clients counted", lambda: counts(broker) == CLIENTS)
            quiet = ["--no-diff"] if "--no-diff" in run([weir, "plan", "--help"]) else []
            plan = run([weir, "plan", wanted, "--against", broker.url, *quiet])
            write(live, 2000, plant, moved)
            commit(live, MESSAGE)
            until("the moved listener", lambda: address(broker, "office").endswith(f":{moved}"))
            clients += [connect(moved, number) for number in range(3, 5)]
            until("clients counted again", lambda: counts(broker) == CLIENTS)
            endpoints = broker.endpoints()
        finally:
            broker.stop()
    for real, example in ((plant, EXAMPLE["plant"]), (office, EXAMPLE["office"]), (moved, EXAMPLE["moved"])):
        plan = plan.replace(str(real), str(example))
        endpoints = {name: json.loads(json.dumps(value).replace(str(real), str(example))) for name, value in endpoints.items()}
    return plan.split("\n--- a/")[0].rstrip(), committed.strip(), endpoints


def counts(broker):
    return {name: clients_of(endpoint) for name, endpoint in broker.endpoints().items()}


def clients_of(endpoint):
    return endpoint["connections"]["current"]


def clients_text(endpoint):
    limit = endpoint["connections"]["max"]
    return f"{clients_of(endpoint)} of {limit:,} clients" if limit else f"{clients_of(endpoint)} clients"


def address(broker, name):
    return broker.endpoints().get(name, {}).get("address") or ""


def terminal(x, y, width, title, command, output):
    lines = output.split("\n")
    height = 62 + 18 * len(lines)
    parts = [svg.rect(x, y, width, height, "panel", 8, framed=True), svg.text(x + 14, y + 23, title, kind="main", bold=True),
             svg.text(x + 14, y + 46, f"$ {command}", mono=True, size=12)]
    for at, words in enumerate(lines):
        kind = KINDS.get(words.strip().split(" ")[0], "muted")
        parts.append(svg.text(x + 14, y + 66 + 18 * at, words, kind=kind, mono=True, size=12))
    return parts, height


def page(x, y, width, height, commit_id, endpoints):
    parts = [svg.rect(x, y, width, height, "panel", 8, framed=True), svg.text(x + 14, y + 23, "3  see it live", kind="main", bold=True),
             svg.text(x + 14, y + 46, f"revision {commit_id}", mono=True, size=12, kind="muted")]
    for at, (name, endpoint) in enumerate(sorted(endpoints.items())):
        top = y + 62 + at * 78
        health = endpoint["health"]
        kind = "good" if health == "healthy" else "warn"
        parts += [svg.rect(x + 14, top, width - 28, 66, "bg", 6, framed=True), svg.text(x + 28, top + 26, name, bold=True, size=15),
                  svg.text(x + width - 28, top + 26, health, kind=kind, bold=True, anchor="end"),
                  svg.text(x + 28, top + 50, endpoint["address"], kind="muted", mono=True, size=12),
                  svg.text(x + width - 28, top + 50, clients_text(endpoint), kind="muted", size=12, anchor="end")]
    return parts


def arrow(x1, y1, x2, y2):
    head = f"M{x2 - 5},{y2 - 9} L{x2},{y2} L{x2 + 5},{y2 - 9}" if x1 == x2 else f"M{x2 - 9},{y2 - 5} L{x2},{y2} L{x2 - 9},{y2 + 5}"
    return f'<path d="M{x1},{y1} L{x2},{y2} {head}" fill="none" class="frame" stroke-width="2"/>'


def draw(plan, committed, endpoints):
    longest = max(len(line) for line in [*plan.split("\n"), *committed.split("\n")])
    gap, left, right = 24, max(560, round(longest * CHARACTER) + 28), 336
    width = 20 + left + gap + right + 20
    first, tall = terminal(20, 20, left, "1  plan the change", "weir plan wanted --against http://127.0.0.1:8080", plan)
    below = 20 + tall + gap
    second, short = terminal(20, below, left, "2  commit it", f'git commit -am "{MESSAGE}"', committed)
    height = below + short + 20
    third = page(20 + left + gap, 20, right, height - 40, re.search(r"\b[0-9a-f]{7,}\b", committed)[0], endpoints)
    arrows = [arrow(300, below - gap + 3, 300, below - 3), arrow(20 + left + 3, below + short / 2, 20 + left + gap - 3, below + short / 2)]
    described = "A plan that names the affected clients, the commit that applies it, and the status page after it"
    return svg.document(width, height, "Weir: plan, commit, page", described, first + second + third + arrows)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weir", default=str(ROOT / "target/debug/weir"))
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        picture = draw(*outputs(args.weir, Path(work)))
    if args.check:
        if not PICTURE.exists() or PICTURE.read_text() != picture:
            print("docs/images/weir.svg is out of date: run tools/figures/picture.py", file=sys.stderr)
            return 1
        return 0
    PICTURE.write_text(picture)
    return 0


if __name__ == "__main__":
    sys.exit(main())
