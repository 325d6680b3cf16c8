// MQTT.js against a broker: mqttjs_client.mjs URL[,URL...] 3|4|5. Prints what failed and exits 1, else "ok".
// With several URLs, of the nodes of a cluster, each connection goes to the next one.
// MQTTJS_ROOT is where the package is installed; MQTTJS_CA, a certificate authority to trust for wss and mqtts.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

const require = createRequire(process.env.MQTTJS_ROOT + "/");
const mqtt = require("mqtt");
const [urls, level] = [process.argv[2].split(","), Number(process.argv[3])];
const url = urls[0];
let connections = 0;
const protocol = level === 3 ? { protocolId: "MQIsdp", protocolVersion: 3 } : { protocolVersion: level };
const trust = process.env.MQTTJS_CA ? { ca: readFileSync(process.env.MQTTJS_CA) } : {};
const prefix = `js/${url.slice(0, 2)}/${level}`;

setTimeout(() => { console.error("no answer in 60 s"); process.exit(1); }, 60_000).unref();

async function peer(name, options = {}) {
  const client = mqtt.connect(urls[connections++ % urls.length], {
    clientId: `js${url.slice(0, 2)}${level}-${name}`, reconnectPeriod: 0, ...trust, ...protocol, ...options,
  });
  // Before the connection stands: what waits for a session comes right behind CONNACK.
  const received = [], waiting = [];
  client.on("message", (topic, payload, packet) => {
    const message = { topic, payload: payload.toString(), packet };
    waiting.length ? waiting.shift()(message) : received.push(message);
  });
  client.next = () => received.length
    ? Promise.resolve(received.shift()) : new Promise((resolve) => waiting.push(resolve));
  await new Promise((resolve, reject) => { client.once("connect", resolve); client.once("error", reject); });
  return client;
}

async function everyQosInOrder() {
  const subscriber = await peer("sub"), publisher = await peer("pub");
  await subscriber.subscribeAsync(`${prefix}/qos/+/x`, { qos: 2 });
  for (const qos of [0, 1, 2]) {
    for (let n = 0; n < 20; n += 1) await publisher.publishAsync(`${prefix}/qos/${qos}/x`, `${qos}-${n}`, { qos });
  }
  for (const qos of [0, 1, 2]) {
    for (let n = 0; n < 20; n += 1) {
      const { payload, packet } = await subscriber.next();
      assert.deepEqual([payload, packet.qos], [`${qos}-${n}`, qos]);
    }
  }
  await subscriber.endAsync();
  await publisher.endAsync();
}

async function retainedMessage() {
  const publisher = await peer("pub");
  await publisher.publishAsync(`${prefix}/kept`, "now", { qos: 1, retain: true });
  const subscriber = await peer("sub");
  await subscriber.subscribeAsync(`${prefix}/kept`, { qos: 1 });
  const { payload, packet } = await subscriber.next();
  assert.deepEqual([payload, packet.retain], ["now", true]);
  await publisher.publishAsync(`${prefix}/kept`, "", { qos: 1, retain: true });
  await publisher.endAsync();
  await subscriber.endAsync();
}

async function sessionThatOutlivesItsConnection() {
  const kept = level === 5 ? { clean: false, properties: { sessionExpiryInterval: 60 } } : { clean: false };
  const away = await peer("away", kept);
  await away.subscribeAsync(`${prefix}/away/#`, { qos: 1 });
  await away.endAsync();
  const publisher = await peer("pub");
  for (let n = 0; n < 5; n += 1) await publisher.publishAsync(`${prefix}/away/${n}`, String(n), { qos: 1 });
  await publisher.endAsync();
  const back = await peer("away", kept);
  for (let n = 0; n < 5; n += 1) assert.equal((await back.next()).payload, String(n));
  await back.endAsync();
  await (await peer("away", { clean: true })).endAsync();
}

async function willOfAClientThatDies() {
  const watcher = await peer("watch");
  await watcher.subscribeAsync(`${prefix}/will`, { qos: 1 });
  const mortal = await peer("mortal", { will: { topic: `${prefix}/will`, payload: "gone", qos: 1 } });
  mortal.on("error", () => {});
  mortal.stream.destroy();
  assert.equal((await watcher.next()).payload, "gone");
  await watcher.endAsync();
}

async function propertiesOfVersion5() {
  const subscriber = await peer("sub"), publisher = await peer("pub");
  await subscriber.subscribeAsync(`${prefix}/v5`, { qos: 1, properties: { subscriptionIdentifier: 9 } });
  await publisher.publishAsync(`${prefix}/v5`, "one", {
    qos: 1, properties: { contentType: "text/plain", responseTopic: "answer", userProperties: { a: ["1", "2"] } },
  });
  const { packet } = await subscriber.next();
  assert.equal(packet.properties.contentType, "text/plain");
  assert.equal(packet.properties.responseTopic, "answer");
  assert.deepEqual(packet.properties.userProperties.a, ["1", "2"]);
  assert.equal(packet.properties.subscriptionIdentifier, 9);
  await subscriber.endAsync();
  await publisher.endAsync();
}

const cases = [everyQosInOrder, retainedMessage, sessionThatOutlivesItsConnection, willOfAClientThatDies];
if (level === 5) cases.push(propertiesOfVersion5);
for (const each of cases) {
  console.log(each.name);
  await each();
}
console.log("ok");
process.exit(0);
