// A minimal MQTT client, 5.0 or 3.1.1, over a WebSocket: CONNECT, PUBLISH with QoS 0 and 1, SUBSCRIBE, UNSUBSCRIBE, PINGREQ,
// DISCONNECT. It has a clean session, and subscribes with QoS 1 at most.

const encoder = new TextEncoder();
const decoder = new TextDecoder("utf-8");
const [CONNECT, CONNACK, PUBLISH, PUBACK, SUBSCRIBE, SUBACK, UNSUBSCRIBE, UNSUBACK, PINGREQ, PINGRESP, DISCONNECT] = [1, 2, 3, 4, 8, 9, 10, 11, 12, 13, 14];
const FLAGS = { [SUBSCRIBE]: 2, [UNSUBSCRIBE]: 2 };
const KEEP_ALIVE_S = 30;
const PACKET_MAX = 1 << 20; // bytes of a packet from the broker
const RECEIVE_MAXIMUM = 20;
const CONNECT_MS = 10000;

const REFUSED = {
  1: "unacceptable protocol version", 2: "client identifier not valid", 3: "server unavailable", 4: "bad user name or password", 5: "not authorized",
};
const REASONS = {
  0x80: "unspecified error", 0x81: "malformed packet", 0x82: "protocol error", 0x83: "implementation specific error", 0x84: "unsupported protocol version",
  0x85: "client identifier not valid", 0x86: "bad user name or password", 0x87: "not authorized", 0x88: "server unavailable", 0x89: "server busy",
  0x8a: "banned", 0x8b: "server shutting down", 0x8c: "bad authentication method", 0x8d: "keep alive timeout", 0x8e: "session taken over",
  0x8f: "topic filter invalid", 0x90: "topic name invalid", 0x93: "receive maximum exceeded", 0x94: "topic alias invalid", 0x95: "packet too large",
  0x96: "message rate too high", 0x97: "quota exceeded", 0x98: "administrative action", 0x99: "payload format invalid", 0x9a: "retain not supported",
  0x9b: "QoS not supported", 0x9c: "use another server", 0x9d: "server moved", 0x9e: "shared subscriptions not supported", 0x9f: "connection rate exceeded",
  0xa0: "maximum connect time", 0xa1: "subscription identifiers not supported", 0xa2: "wildcard subscriptions not supported",
};

export const reason = (code) => `${REASONS[code] ?? REFUSED[code] ?? "unknown reason"} (0x${code.toString(16).padStart(2, "0")})`;

// --- encoding ---

const u16 = (number) => [number >> 8, number & 255];

function text(value) {
  const bytes = encoder.encode(value);
  if (bytes.length > 65535) throw new Error("a text has more than 65535 bytes");
  if (value.includes("\0")) throw new Error("a text contains U+0000, which MQTT forbids");
  return [...u16(bytes.length), ...bytes];
}

function variable(number) {
  const bytes = [];
  do {
    const rest = number >> 7;
    bytes.push((number & 127) | (rest > 0 ? 128 : 0));
    number = rest;
  } while (number > 0);
  return bytes;
}

function packet(type, flags, head, payload = new Uint8Array()) {
  const start = [(type << 4) | flags, ...variable(head.length + payload.length), ...head];
  const whole = new Uint8Array(start.length + payload.length);
  whole.set(start);
  whole.set(payload, start.length);
  return whole;
}

// --- decoding ---

class Reader {
  constructor(bytes) {
    this.bytes = bytes;
    this.at = 0;
  }

  take(length) {
    if (this.at + length > this.bytes.length) throw new Error("the broker sent a packet that is too short");
    this.at += length;
    return this.bytes.subarray(this.at - length, this.at);
  }

  u8 = () => this.take(1)[0];
  u16 = () => (this.u8() << 8) | this.u8();
  text = () => decoder.decode(this.take(this.u16()));
  rest = () => this.take(this.bytes.length - this.at);
  left = () => this.bytes.length - this.at;

  variable() {
    let [number, shift] = [0, 0];
    for (;;) {
      const byte = this.u8();
      number |= (byte & 127) << shift;
      if (byte < 128) return number;
      shift += 7;
      if (shift > 21) throw new Error("the broker sent a length of more than four bytes");
    }
  }
}

// Properties of a 5.0 packet by identifier; the user properties are left out.
const FIXED = { 0x01: 1, 0x02: 4, 0x11: 4, 0x13: 2, 0x17: 1, 0x18: 4, 0x19: 1, 0x21: 2, 0x22: 2, 0x23: 2, 0x24: 1, 0x25: 1, 0x27: 4, 0x28: 1, 0x29: 1, 0x2a: 1 };

function properties(reader) {
  const part = new Reader(reader.take(reader.variable()));
  const found = {};
  while (part.left() > 0) {
    const identifier = part.variable();
    if (identifier === 0x26) found.user = [part.text(), part.text()];
    else if (identifier === 0x0b) found[identifier] = part.variable();
    else if (FIXED[identifier]) found[identifier] = part.take(FIXED[identifier]).reduce((sum, byte) => sum * 256 + byte, 0);
    else if (identifier === 0x09 || identifier === 0x16) found[identifier] = part.take(part.u16());
    else found[identifier] = part.text();
  }
  return found;
}

const REASON_STRING = 0x1f;
const ASSIGNED_CLIENT_ID = 0x12;
const SERVER_KEEP_ALIVE = 0x13;

// --- the connection ---

// `handlers`: `message({topic, payload, qos, retain})` and `closed(why)`, which is called once; `why` is null after `end`.
export class Connection {
  constructor(url, { version, clientId, username, password }, handlers) {
    this.version = version;
    this.handlers = handlers;
    this.waiting = new Map(); // packet ID -> {resolve, reject}
    this.lastId = 0;
    this.buffer = new Uint8Array();
    this.ready = new Promise((resolve, reject) => (this.opening = { resolve, reject }));
    this.socket = new WebSocket(url, "mqtt");
    this.socket.binaryType = "arraybuffer";
    this.socket.onopen = () => this.attempt(() => this.send(this.connectPacket(clientId, username, password)));
    this.socket.onmessage = (event) => this.attempt(() => this.received(new Uint8Array(event.data)));
    this.socket.onclose = (event) => this.finish(event.reason || (this.connected ? "the broker closed the connection" : this.opened ? "the broker closed the connection before it answered CONNECT" : "unreachable"));
    this.limit = setTimeout(() => this.finish("the broker did not answer within ten seconds"), CONNECT_MS);
  }

  attempt(step) {
    try {
      step();
    } catch (error) {
      this.finish(error.message);
    }
  }

  send(bytes) {
    this.opened = true;
    this.socket.send(bytes);
  }

  connectPacket(clientId, username, password) {
    const flags = 2 | (username ? 128 : 0) | (password ? 64 : 0);
    const five = this.version === 5 ? [8, 0x21, ...u16(RECEIVE_MAXIMUM), 0x27, 0, PACKET_MAX >> 16, (PACKET_MAX >> 8) & 255, PACKET_MAX & 255] : [];
    const head = [...text("MQTT"), this.version, flags, ...u16(KEEP_ALIVE_S), ...five, ...text(clientId)];
    if (username) head.push(...text(username));
    if (password) head.push(...text(password));
    return packet(CONNECT, 0, head);
  }

  received(bytes) {
    const joined = new Uint8Array(this.buffer.length + bytes.length);
    joined.set(this.buffer);
    joined.set(bytes, this.buffer.length);
    let from = 0;
    for (;;) {
      const length = wholeLength(joined, from);
      if (length === null || from + length > joined.length) break;
      if (this.done) return;
      this.handle(joined[from], new Reader(joined.subarray(from, from + length)));
      from += length;
    }
    this.buffer = joined.slice(from);
  }

  handle(first, reader) {
    reader.u8();
    reader.variable();
    const type = first >> 4;
    if (type === CONNACK) this.onConnack(reader);
    else if (type === PUBLISH) this.onPublish(first & 15, reader);
    else if (type === PUBACK || type === SUBACK || type === UNSUBACK) this.onAnswer(type, reader);
    else if (type === PINGRESP) this.pinged = false;
    else if (type === DISCONNECT) this.onDisconnect(reader);
    else throw new Error(`the broker sent a packet of type ${type}, which this client does not expect`);
  }

  onConnack(reader) {
    reader.u8();
    const code = reader.u8();
    const found = this.version === 5 && reader.left() > 0 ? properties(reader) : {};
    if (code !== 0) {
      const more = found[REASON_STRING] ? `: ${found[REASON_STRING]}` : "";
      return this.finish(`the broker rejected the connection: ${reason(code)}${more}`);
    }
    clearTimeout(this.limit);
    this.connected = true;
    this.alive = setInterval(() => this.ping(), ((found[SERVER_KEEP_ALIVE] || KEEP_ALIVE_S) * 1000 * 2) / 3);
    this.opening.resolve({ clientId: found[ASSIGNED_CLIENT_ID] });
  }

  onPublish(flags, reader) {
    const qos = (flags >> 1) & 3;
    const topic = reader.text();
    const id = qos > 0 ? reader.u16() : 0;
    if (this.version === 5) properties(reader);
    if (qos === 1) this.send(packet(PUBACK, 0, u16(id)));
    this.handlers.message({ topic, payload: reader.rest().slice(), qos, retain: (flags & 1) === 1 });
  }

  // The reason codes of an acknowledgement; none means success.
  onAnswer(type, reader) {
    const id = reader.u16();
    let codes = [];
    let found = {};
    if (type === PUBACK) {
      if (reader.left() > 0) codes = [reader.u8()];
      if (reader.left() > 0) found = properties(reader);
    } else {
      if (this.version === 5) found = properties(reader);
      codes = [...reader.rest()];
    }
    const waiting = this.waiting.get(id);
    this.waiting.delete(id);
    const bad = codes.find((code) => code >= 128);
    if (bad === undefined) waiting?.resolve(codes);
    else waiting?.reject(new Error(`${reason(bad)}${found[REASON_STRING] ? `: ${found[REASON_STRING]}` : ""}`));
  }

  onDisconnect(reader) {
    const code = reader.left() > 0 ? reader.u8() : 0;
    const found = reader.left() > 0 ? properties(reader) : {};
    this.finish(`the broker disconnected: ${code === 0 ? "normal disconnection" : reason(code)}${found[REASON_STRING] ? `: ${found[REASON_STRING]}` : ""}`);
  }

  ping() {
    if (this.pinged) return this.finish("the broker did not answer PINGREQ");
    this.pinged = true;
    this.send(packet(PINGREQ, 0, []));
  }

  // Sends a packet that is acknowledged; resolves with the reason codes.
  ask(type, flags, head, tail) {
    if (this.done) return Promise.reject(new Error("not connected"));
    let id = this.lastId;
    do id = (id % 65535) + 1;
    while (this.waiting.has(id));
    this.lastId = id;
    return new Promise((resolve, reject) => {
      this.waiting.set(id, { resolve, reject });
      this.send(packet(type, flags, [...head, ...u16(id), ...tail.head], tail.payload));
    });
  }

  publish(topic, payload, qos, retain) {
    const flags = (qos << 1) | (retain ? 1 : 0);
    const five = this.version === 5 ? [0] : [];
    if (qos > 0) return this.ask(PUBLISH, flags, text(topic), { head: five, payload });
    this.send(packet(PUBLISH, flags, [...text(topic), ...five], payload));
    return Promise.resolve([]);
  }

  subscribe(filter, qos) {
    return this.ask(SUBSCRIBE, FLAGS[SUBSCRIBE], [], { head: [...(this.version === 5 ? [0] : []), ...text(filter), qos] });
  }

  unsubscribe(filter) {
    return this.ask(UNSUBSCRIBE, FLAGS[UNSUBSCRIBE], [], { head: [...(this.version === 5 ? [0] : []), ...text(filter)] });
  }

  end() {
    if (this.connected && this.socket.readyState === WebSocket.OPEN) this.send(packet(DISCONNECT, 0, []));
    this.finish(null);
  }

  finish(why) {
    if (this.done) return;
    this.done = true;
    clearTimeout(this.limit);
    clearInterval(this.alive);
    this.socket.close();
    const error = new Error(why ?? "disconnected");
    this.opening.reject(error);
    for (const { reject } of this.waiting.values()) reject(error);
    this.waiting.clear();
    this.handlers.closed(why);
  }
}

// The length of the packet that begins at `from`; null: its fixed header is not complete.
function wholeLength(bytes, from) {
  let [length, shift] = [0, 0];
  for (let at = from + 1; at < bytes.length; at += 1) {
    length |= (bytes[at] & 127) << shift;
    if (bytes[at] < 128) {
      if (length > 16 * PACKET_MAX) throw new Error("the broker sent a packet of more than 16 MiB");
      return at + 1 - from + length;
    }
    shift += 7;
    if (shift > 21) throw new Error("the broker sent a length of more than four bytes");
  }
  return null;
}
