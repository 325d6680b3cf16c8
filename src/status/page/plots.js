// The rates of the last five minutes, and their plots.

import { count, el, svg } from "./elements.js";

const KEPT = 150; // points of a plot
const KEYS = ["in", "out", "connections", "dropped"];
const series = new Map(); // endpoint -> [{at, in, out, connections, dropped}]
let total = [];

export const MESSAGES = [
  ["in", "in", "in"],
  ["out", "out", "out"],
];
export const CLIENTS = [["connections", "in", "open"]];

export const totals = () => total;
export const pointsOf = (name) => series.get(name) ?? [];

export function forget() {
  series.clear();
  total = [];
}

export function took(points) {
  for (const point of points) {
    const at = Date.parse(point.at);
    const sum = { at, in: 0, out: 0, connections: 0, dropped: 0 };
    for (const [name, rates] of Object.entries(point.endpoints)) {
      const values = { at, in: rates.messagesReceivedPerS, out: rates.messagesSentPerS, connections: rates.connections, dropped: rates.messagesDroppedPerS };
      const kept = series.get(name) ?? [];
      kept.push(values);
      series.set(name, kept.slice(-KEPT));
      for (const key of KEYS) sum[key] += values[key];
    }
    total.push(sum);
  }
  total = total.slice(-KEPT);
  const names = new Set(Object.keys(points.at(-1)?.endpoints ?? {}));
  for (const name of series.keys()) if (!names.has(name)) series.delete(name);
}

function path(points, key, width, height, top) {
  const end = points.at(-1)?.at ?? 0;
  const x = (at) => width - ((end - at) / (KEPT * 2000)) * width;
  const y = (value) => height - 2 - (value / top) * (height - 6);
  return points.map((point, index) => `${index ? "L" : "M"}${x(point.at).toFixed(1)} ${y(point[key]).toFixed(1)}`).join("");
}

// A round number above the highest value, so that the scale does not jump with every point.
function ceiling(points, keys) {
  const most = Math.max(1, ...points.flatMap((point) => keys.map((key) => point[key])));
  const power = 10 ** Math.floor(Math.log10(most));
  return [1, 2, 5, 10].map((step) => step * power).find((round) => round >= most);
}

function plot(label, points, lines, width, height) {
  const top = ceiling(points, lines.map(([key]) => key));
  const drawing = svg("svg", { viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", role: "img", "aria-label": label });
  for (const part of [0, 0.5, 1]) {
    const y = height - 2 - part * (height - 6);
    drawing.append(svg("line", { x1: 0, x2: width, y1: y, y2: y, class: "grid" }));
  }
  for (const [key, style] of lines) {
    if (points.length > 1) drawing.append(svg("path", { d: path(points, key, width, height, top), class: `series ${style}` }));
  }
  return [drawing, top];
}

export function figure(title, points, lines, unit) {
  const last = points.at(-1);
  const texts = lines.map(([key, , name]) => `${name} ${count(last?.[key])}${unit}`);
  const [drawing, top] = plot(`${title}: ${texts.join(", ")}`, points, lines, 600, 100);
  const legend = lines.map(([key, style, name]) =>
    el("span", {}, el("span", { class: `key ${style}`, ariaHidden: "true" }, style === "out" ? "╌ " : "— "), `${name} `, el("b", {}, `${count(last?.[key])}${unit}`)),
  );
  return el("figure", { class: "plot" }, el("figcaption", {}, el("b", {}, title), ...legend, el("span", {}, `scale to ${count(top)}${unit}`)), drawing);
}

export function sparkline(name) {
  const [drawing] = plot(`Messages of ${name}`, pointsOf(name), MESSAGES, 128, 30);
  drawing.setAttribute("class", "spark");
  return drawing;
}
