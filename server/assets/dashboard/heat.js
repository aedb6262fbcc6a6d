// Traffic by key and time.

import { get, repeat } from "./api.js";
import { byId, bytes, clock, colour, count, hideTip, key, level, scale, shade, sharp, showTip } from "./parts.js";

const canvas = byId("heat-map");
const seen = { heat: null, at: null };
const HEIGHT = 300;
const AXIS = 18;

const rate = (value) => {
  const { what, column_seconds: seconds } = seen.heat;
  const each = value / seconds;
  return what.endsWith("bytes") ? `${bytes(each)}/s` : `${count(each)} keys/s`;
};

export function draw() {
  const { heat } = seen;
  if (heat === null || canvas.clientWidth === 0) return;
  const { context, width } = sharp(canvas, HEIGHT + AXIS);
  context.clearRect(0, 0, width, HEIGHT + AXIS);
  const { columns, starts } = heat;
  const most = columns.reduce((a, column) => column.reduce((b, value) => Math.max(b, value), a), 0);
  const [wide, high] = [width / columns.length, HEIGHT / Math.max(1, starts.length)];
  const shades = Array.from({ length: 65 }, (_, nth) => shade(nth / 64));
  context.fillStyle = shades[0];
  context.fillRect(0, 0, width, HEIGHT);
  columns.forEach((column, x) => {
    column.forEach((value, y) => {
      if (value === 0) return;
      context.fillStyle = shades[Math.round(level(value, most) * 64)];
      // Whole pixels, so that no lines show between them.
      const [left, top] = [Math.floor(x * wide), Math.floor(y * high)];
      context.fillRect(left, top, Math.ceil((x + 1) * wide) - left, Math.ceil((y + 1) * high) - top);
    });
  });
  hours(context, width);
  if (seen.at !== null) {
    context.strokeStyle = colour("text");
    context.strokeRect(seen.at.x * wide + 0.5, seen.at.y * high + 0.5, Math.max(wide - 1, 2), Math.max(high - 1, 2));
  }
  const none = most === 0 ? "Nothing has flowed in this time. " : "";
  byId("heat-about").textContent =
    `${none}From left to right ${clock(heat.from)} to now, a column for ` +
    `${heat.column_seconds / 60} min; from top to bottom ${starts.length} ranges of keys. ` +
    "PD keeps a day of it in memory, and begins anew where it moves.";
  byId("heat-legend").replaceChildren(scale("0 ", ` ${rate(most)}`));
  canvas.dataset.rows = starts.length;
  canvas.dataset.most = most;
}

function hours(context, width) {
  const { from, columns, column_seconds: step } = seen.heat;
  const marks = Math.max(2, Math.floor(width / 160));
  context.fillStyle = colour("quiet");
  context.font = "11px system-ui, sans-serif";
  for (let nth = 0; nth <= marks; nth += 1) {
    const share = nth / marks;
    context.textAlign = nth === 0 ? "left" : nth === marks ? "right" : "center";
    context.fillText(clock(from + share * columns.length * step), share * width, HEIGHT + 13);
  }
}

function under(event) {
  const { heat } = seen;
  if (heat === null || event.offsetY >= HEIGHT || heat.starts.length === 0) return null;
  const x = Math.floor((event.offsetX / canvas.clientWidth) * heat.columns.length);
  const y = Math.floor((event.offsetY / HEIGHT) * heat.starts.length);
  return x >= 0 && x < heat.columns.length && y >= 0 ? { x, y } : null;
}

function described({ x, y }) {
  const { starts, columns, from, column_seconds: step } = seen.heat;
  const start = key(starts[y]) || "the first key";
  const end = y + 1 < starts.length ? key(starts[y + 1]) : "the last key";
  return `${clock(from + x * step)}\nfrom ${start}\nto ${end}\n${rate(columns[x][y] ?? 0)}`;
}

async function look() {
  const columns = canvas.clientWidth < 600 ? 120 : 240;
  const path = `/flotilla/v1/heat?what=${byId("heat-what").value}&minutes=${byId("heat-minutes").value}&columns=${columns}`;
  seen.heat = await get(path);
  const { columns: all, starts } = seen.heat;
  if (seen.at !== null && (seen.at.x >= all.length || seen.at.y >= starts.length)) seen.at = null;
  draw();
}

function onKey(event) {
  if (seen.heat === null) return;
  const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
  if (step === undefined) return;
  event.preventDefault();
  const within = (value, end) => Math.max(0, Math.min(end - 1, value));
  const from = seen.at ?? { x: seen.heat.columns.length - 1 - step[0], y: -step[1] };
  seen.at = {
    x: within(from.x + step[0], seen.heat.columns.length),
    y: within(from.y + step[1], seen.heat.starts.length),
  };
  draw();
  byId("heat-said").textContent = described(seen.at).replaceAll("\n", ", ");
}

export function start() {
  const again = repeat(look, () => (seen.heat === null ? 500 : 10_000));
  byId("heat-what").addEventListener("change", again);
  byId("heat-minutes").addEventListener("change", again);
  canvas.addEventListener("pointermove", (event) => {
    const at = under(event);
    if (at === null) hideTip();
    else showTip(described(at), event.clientX, event.clientY);
  });
  canvas.addEventListener("pointerleave", hideTip);
  canvas.addEventListener("keydown", onKey);
}
