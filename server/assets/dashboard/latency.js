// How long calls take, node by node: drawn from what was counted between two looks.

import { get, repeat } from "./api.js";
import { byId, colour, count, el, millis, sharp } from "./parts.js";

const EVERY = 3000;
const POINTS = 200;
const HEIGHT = 70;

// By node and call: the counts of the last look, and points of {at, p50, p99, rate}.
const seen = { last: new Map(), series: new Map(), nodes: [], charts: new Map() };

// The time below which `share` of the calls are: in its bucket by straight line.
function quantile(counts, bounds, share) {
  const total = counts.reduce((a, b) => a + b, 0);
  let below = share * total;
  for (let nth = 0; nth < counts.length; nth += 1) {
    if (below <= counts[nth] && counts[nth] > 0) {
      const low = nth === 0 ? 0 : bounds[nth - 1];
      const high = bounds[nth] ?? bounds[bounds.length - 1];
      return low + (high - low) * (below / counts[nth]);
    }
    below -= counts[nth];
  }
  return bounds[bounds.length - 1];
}

function take(who, call, counts, bounds, at) {
  const name = `${who} ${call}`;
  const before = seen.last.get(name);
  seen.last.set(name, { counts, at });
  // A node that was started again counts from nothing.
  if (before === undefined || counts.some((now, nth) => now < before.counts[nth])) return;
  const made = counts.map((now, nth) => now - before.counts[nth]);
  const calls = made.reduce((a, b) => a + b, 0);
  const points = seen.series.get(name) ?? [];
  const rate = (calls * 1000) / (at - before.at);
  points.push(
    calls === 0
      ? { at, p50: null, p99: null, rate: 0 }
      : { at, p50: quantile(made, bounds, 0.5), p99: quantile(made, bounds, 0.99), rate },
  );
  if (points.length > POINTS) points.shift();
  seen.series.set(name, points);
}

function all(nodes, at) {
  const sums = new Map();
  let bounds = [];
  for (const node of nodes) {
    if (node.error !== undefined) continue;
    bounds = node.bounds;
    for (const [call, counts] of Object.entries(node.calls)) {
      take(`${node.store}`, call, counts, node.bounds, at);
      const sum = sums.get(call) ?? counts.map(() => 0);
      sums.set(call, sum.map((value, nth) => value + counts[nth]));
    }
  }
  // With a node away the sums would jump.
  const whole = nodes.every((node) => node.error === undefined);
  for (const [call, counts] of sums) {
    if (whole) take("all", call, counts, bounds, at);
    else seen.last.delete(`all ${call}`);
  }
}

function line(context, points, of, place, style, dash) {
  context.beginPath();
  context.setLineDash(dash);
  context.strokeStyle = style;
  context.lineWidth = 1.5;
  let pen = false;
  points.forEach((point, nth) => {
    if (point[of] === null) {
      pen = false;
      return;
    }
    const [x, y] = place(nth, point[of]);
    if (pen) context.lineTo(x, y);
    else context.moveTo(x, y);
    // A point alone is seen too.
    if (!pen) context.lineTo(x + 0.5, y);
    pen = true;
  });
  context.stroke();
}

function drawChart(canvas, points) {
  const { context, width } = sharp(canvas, HEIGHT);
  context.clearRect(0, 0, width, HEIGHT);
  const most = points.reduce((a, point) => Math.max(a, point.p99 ?? 0), 0) || 1;
  // The newest is at the right.
  const room = Math.max(40, points.length);
  const place = (nth, value) => [
    width - 2 - ((points.length - 1 - nth) * (width - 4)) / (room - 1),
    HEIGHT - 3 - (value / most) * (HEIGHT - 8),
  ];
  context.strokeStyle = colour("line");
  context.setLineDash([]);
  context.lineWidth = 1;
  context.strokeRect(0.5, 0.5, width - 1, HEIGHT - 1);
  line(context, points, "p99", place, colour("warn"), []);
  line(context, points, "p50", place, colour("accent"), []);
}

function chart(call) {
  const canvas = el("canvas", { role: "img" });
  const made = { canvas, rate: el("span", { class: "quiet" }), about: el("p", { class: "quiet" }) };
  made.box = el("div", { class: "chart", "data-call": call }, el("h3", {}, call, made.rate), canvas, made.about);
  return made;
}

export function draw() {
  const body = byId("latency-body");
  const who = byId("latency-node").value || "all";
  const shown = [...seen.series].filter(([name, points]) => name.startsWith(`${who} `) && points.some((point) => point.p50 !== null));
  const silent = seen.nodes.filter((node) => node.error !== undefined);
  const parts = silent.map((node) => el("p", { class: "warn" }, `store ${node.store} (${node.address}): ${node.error}`));
  if (shown.length === 0) {
    const none = seen.nodes.length === 0 ? "Measuring…" : "No calls since this page was opened: latencies show as soon as some come.";
    body.replaceChildren(...parts, el("p", { class: "empty" }, none));
    return;
  }
  const calls = shown.map(([name, points]) => ({
    call: name.slice(who.length + 1),
    points,
    weight: points.reduce((a, point) => a + point.rate, 0),
  }));
  calls.sort((a, b) => (a.call < b.call ? -1 : 1));
  const boxes = calls.map(({ call, points }) => {
    const made = seen.charts.get(call) ?? chart(call);
    seen.charts.set(call, made);
    const last = points.findLast((point) => point.p50 !== null);
    made.rate.textContent = `${count(points.at(-1).rate)}/s`;
    made.about.textContent = `p50 ${millis(last.p50)} · p99 ${millis(last.p99)}`;
    made.canvas.setAttribute("aria-label", `${call}: ${made.about.textContent}`);
    return { ...made, points };
  });
  const grid = body.querySelector(".charts") ?? el("div", { class: "charts" });
  grid.replaceChildren(...boxes.map((made) => made.box));
  const swatches = el(
    "p",
    { class: "legend" },
    el("span", { class: "key-p50" }, "blue: half of the calls are faster (p50)"),
    el("span", { class: "key-p99" }, "amber: 99 of 100 are faster (p99)"),
  );
  body.replaceChildren(...parts, grid, swatches);
  boxes.forEach((made) => drawChart(made.canvas, made.points));
}

function nodes(found) {
  const select = byId("latency-node");
  const options = ["all", ...found.map((node) => `${node.store}`)];
  if ([...select.options].map((one) => one.value).join() === options.join()) return;
  const chosen = select.value;
  select.replaceChildren(
    ...options.map((value) => el("option", { value }, value === "all" ? "all nodes" : `store ${value}`)),
  );
  select.value = options.includes(chosen) ? chosen : "all";
}

async function look() {
  const { nodes: found } = await get("/flotilla/v1/latencies");
  found.sort((a, b) => a.store - b.store);
  seen.nodes = found;
  nodes(found);
  all(found, Date.now());
  draw();
}

export function start() {
  byId("latency-node").addEventListener("change", draw);
  repeat(look, () => EVERY);
}
