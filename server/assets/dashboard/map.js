// The key space as a field of regions, in key order, line by line.

import { get, repeat, send } from "./api.js";
import {
  byId, bytes, choice, colour, count, el, hideTip, key, keyHex, level, scale, shade, sharp, showTip, steer, storeColour,
  swatch,
} from "./parts.js";

const MODES = [["leader", "leader"], ["mib", "size"], ["written", "writes"], ["read", "reads"], ["ails", "health"]];
const AILS = ["fine", "a replica lags behind", "too few replicas", "a replica is down", "no leader"];
const AIL_COLOURS = ["#3aa675", "#7fb2e5", "#e5b454", "#ef7d3c", "#e5484d"];

const seen = { map: null, stores: [], mode: "leader", at: -1, per: null, region: null };
const canvas = byId("map");

const value = (mode, nth) => seen.map[mode][nth];

const weighed = {
  mib: (mib) => bytes(mib * 1024 * 1024),
  written: bytes,
  read: bytes,
};

// How large a place is, and how many there are in a line.
function field(width) {
  const places = seen.map.id.length;
  const wanted = Math.sqrt((width * 240) / Math.max(1, places));
  const high = Math.max(2, Math.min(34, Math.floor(wanted)));
  // A few get more room, in one line.
  const wide = places * high < width ? Math.min(160, Math.floor(width / Math.max(1, places))) : high;
  const line = Math.max(1, Math.floor(width / wide));
  return { wide, high, line, height: Math.max(1, Math.ceil(places / line)) * high };
}

export function draw() {
  const { map, mode } = seen;
  if (map === null || canvas.clientWidth === 0) return;
  const { wide, high, line, height } = field(canvas.clientWidth);
  const { context, width } = sharp(canvas, height);
  context.clearRect(0, 0, width, height);
  const gap = high >= 8 ? 1 : 0;
  const most = mode in weighed ? map[mode].reduce((a, b) => Math.max(a, b), 0) : 0;
  // One shade for many levels: a fill style for each of 100,000 regions would be slow.
  const shades = Array.from({ length: 65 }, (_, nth) => shade(nth / 64));
  const fill = (nth) => {
    if (mode === "leader") return storeColour(map.leader[nth]);
    if (mode === "ails") return AIL_COLOURS[map.ails[nth]];
    return shades[Math.round(level(map[mode][nth], most) * 64)];
  };
  let last = "";
  for (let nth = 0; nth < map.id.length; nth += 1) {
    const style = fill(nth);
    if (style !== last) context.fillStyle = style;
    last = style;
    context.fillRect((nth % line) * wide, Math.floor(nth / line) * high, wide - gap, high - gap);
  }
  if (seen.at >= 0 && seen.at < map.id.length) {
    context.lineWidth = 2;
    context.strokeStyle = colour("text");
    const [x, y] = [(seen.at % line) * wide, Math.floor(seen.at / line) * high];
    context.strokeRect(x + 1, y + 1, Math.max(wide - 3, 3), Math.max(high - 3, 3));
  }
  legend(most);
  // For tests, and for whoever looks at the page by a program.
  canvas.dataset.regions = map.count;
  canvas.dataset.places = map.id.length;
  canvas.dataset.mode = mode;
}

function legend(most) {
  const { map, mode } = seen;
  const parts = [];
  if (mode === "leader") {
    for (const store of new Set(map.leader.slice().sort((a, b) => a - b))) {
      parts.push(el("span", {}, swatch(storeColour(store)), store === 0 ? "no leader" : `store ${store}`));
    }
  } else if (mode === "ails") {
    for (const ail of [...new Set(map.ails)].sort()) {
      parts.push(el("span", {}, swatch(AIL_COLOURS[ail]), AILS[ail]));
    }
  } else {
    parts.push(scale("0 ", ` ${weighed[mode](most)}`));
  }
  byId("map-legend").replaceChildren(...parts);
}

function about() {
  const { map } = seen;
  const shared = map.per > 1 ? `; each place stands for ${map.per} neighbours` : "";
  const text =
    map.count === 0
      ? "No leader has reported a region to this PD yet: they do so within seconds."
      : `${map.count.toLocaleString()} regions in key order, line by line${shared}. ` +
        "Click, or use the arrow keys and Enter, for one of them.";
  if (byId("map-about").textContent !== text) byId("map-about").textContent = text;
}

function described(nth) {
  const { map } = seen;
  const which = map.per > 1 ? `${map.per} regions from ${map.id[nth]} on` : `region ${map.id[nth]}`;
  const leader = map.leader[nth] === 0 ? "no leader" : `store ${map.leader[nth]} leads`;
  const size = `${weighed.mib(map.mib[nth])}, ${count(map.keys[nth])} keys`;
  const flow = `written ${bytes(map.written[nth])}, read ${bytes(map.read[nth])} lately`;
  const ail = map.ails[nth] === 0 ? "" : `\n${AILS[map.ails[nth]]}`;
  return `${which}\n${leader}\n${size}\n${flow}${ail}`;
}

async function look() {
  const places = canvas.clientWidth < 600 ? 12_000 : 100_000;
  const map = await get(`/flotilla/v1/map?cells=${places}`);
  const chosen = seen.map?.id[seen.at];
  seen.map = map;
  seen.at = chosen === undefined ? -1 : map.id.indexOf(chosen);
  about();
  draw();
  if (seen.region !== null) await showRegion(seen.region, false);
}

function under(event) {
  if (seen.map === null) return -1;
  const { wide, high, line } = field(canvas.clientWidth);
  const column = Math.floor(event.offsetX / wide);
  const nth = Math.floor(event.offsetY / high) * line + column;
  return column < line && nth >= 0 && nth < seen.map.id.length ? nth : -1;
}

function choose(nth) {
  seen.at = nth;
  draw();
  byId("map-said").textContent = described(nth).replaceAll("\n", ", ");
}

function onKey(event) {
  if (seen.map === null || seen.map.id.length === 0) return;
  const { line } = field(canvas.clientWidth);
  const last = seen.map.id.length - 1;
  const to = {
    ArrowRight: seen.at + 1,
    ArrowLeft: seen.at - 1,
    ArrowDown: seen.at + line,
    ArrowUp: seen.at - line,
    Home: 0,
    End: last,
  }[event.key];
  if (to !== undefined) {
    event.preventDefault();
    choose(Math.max(0, Math.min(last, to)));
  } else if ((event.key === "Enter" || event.key === " ") && seen.at >= 0) {
    event.preventDefault();
    showRegion(seen.map.id[seen.at], true);
  }
}

// ---- one region ----

const button = (text, title, onclick) => el("button", { type: "button", class: "small", title, onclick }, text);

function middle(start, end) {
  // Half way between two keys, a digit more than they have in common.
  const wide = Math.max(start.length, end.length) + 4;
  const low = BigInt(`0x0${start.padEnd(wide, "0")}`);
  const high = end === "" ? BigInt(`0x0${"F".repeat(wide)}`) : BigInt(`0x0${end.padEnd(wide, "0")}`);
  const half = ((low + high) / 2n).toString(16).toUpperCase().padStart(wide, "0");
  let same = 0;
  const edge = start.padEnd(wide, "0");
  while (same < wide && half[same] === edge[same]) same += 2;
  return half.slice(0, Math.min(wide, same + 4));
}

const add = (operator) => send("POST", "/pd/api/v1/operators", operator);

function transfer(region, store) {
  return steer(
    {
      title: `Have store ${store} lead region ${region.id}?`,
      text: "The replica there takes over when it has all of the log; reads and writes go on.",
      yes: `Store ${store} leads`,
    },
    () => add({ name: "transfer-leader", region_id: region.id, to_store_id: store }),
    `Region ${region.id} is handed over to store ${store}.`,
  );
}

function split(region) {
  return steer(
    {
      title: `Split region ${region.id}?`,
      text: "At the key below it becomes two: text, other bytes as \\xNN. No data is copied.",
      yes: "Split",
      label: "Key",
      value: key(middle(region.start_key, region.end_key), Infinity),
    },
    async (text) => {
      const hex = keyHex(text);
      if (hex === null) throw new Error("after a backslash comes xNN or another backslash");
      const { "regions-id": made } = await send("POST", "/pd/api/v1/regions/split", { split_keys: [hex] });
      if (made.length === 0) throw new Error("the store did not split it in time; its log says why");
      await look();
    },
    `Region ${region.id} is split.`,
  );
}

function scatter(region) {
  return steer(
    {
      title: `Scatter region ${region.id}?`,
      text: "Its replicas and its leader may move to other stores, so that neighbours are spread.",
      yes: "Scatter",
    },
    () => add({ name: "scatter-region", region_id: region.id }),
    `Region ${region.id} is scattered.`,
  );
}

function merge(region, neighbour) {
  return steer(
    {
      title: `Merge region ${region.id} into ${neighbour}?`,
      text: "First its replicas move to where the neighbour has its own; then the two become one.",
      yes: "Merge",
    },
    () => add({ name: "merge-region", source_region_id: region.id, target_region_id: neighbour }),
    `Region ${region.id} merges into ${neighbour}.`,
  );
}

function peerRow(region, peer) {
  const leads = region.leader?.id === peer.id;
  const down = region.down_peers?.find((one) => one.peer.id === peer.id);
  const behind = region.pending_peers?.some((one) => one.id === peer.id);
  const does = down ? `silent for ${down.down_seconds} s` : leads ? "leads" : behind ? "lags behind" : "follows";
  const can = !leads && !down && peer.role_name === "Voter";
  return el(
    "tr",
    {},
    el("td", {}, swatch(storeColour(peer.store_id)), `store ${peer.store_id}`),
    el("td", {}, `${peer.id}`),
    el("td", {}, peer.role_name),
    el("td", { class: down ? "bad" : behind ? "warn" : "" }, does),
    el("td", {}, can ? button("Make it lead", "Hand the leadership over", () => transfer(region, peer.store_id)) : ""),
  );
}

async function showRegion(id, jump) {
  const panel = byId("region");
  let region;
  let siblings;
  try {
    [region, siblings] = await Promise.all([
      get(`/pd/api/v1/region/id/${id}`),
      get(`/pd/api/v1/regions/sibling/${id}`),
    ]);
  } catch (error) {
    seen.region = error.status === 404 ? null : id;
    const why = error.status === 404 ? `Region ${id} is gone: it was merged.` : `Region ${id}: ${error.message}.`;
    panel.replaceChildren(el("p", { class: "quiet" }, why));
    panel.hidden = false;
    return;
  }
  seen.region = id;
  const [start, end] = [key(region.start_key, 120), key(region.end_key, 120)];
  const range = el(
    "p",
    {},
    "from ", el("code", {}, start || "the first key"), " to ", el("code", {}, end || "the last key"),
    el("span", { class: "quiet" }, ` · ${weighed.mib(region.approximate_size)}, ${count(region.approximate_keys)} keys · `),
    el("span", { class: "quiet" }, `epoch: members ${region.epoch.conf_ver}, range ${region.epoch.version}`),
  );
  const close = button("Close", "", () => {
    seen.region = null;
    panel.hidden = true;
    canvas.focus();
  });
  const merges = siblings.regions.map((one) => {
    const after = region.end_key !== "" && one.start_key === region.end_key;
    return button(`Merge into ${one.id}`, after ? "the region after it" : "the region before it", () => merge(region, one.id));
  });
  const focused = panel.contains(document.activeElement) ? document.activeElement.textContent : null;
  panel.replaceChildren(
    el("h3", { tabindex: "-1" }, `Region ${id}`),
    range,
    el("div", { class: "scroll" }, el("table", {}, el("tbody", {}, ...region.peers.map((peer) => peerRow(region, peer))))),
    el(
      "p",
      { class: "buttons" },
      button("Split", "Make two of it", () => split(region)),
      button("Scatter", "Spread its replicas", () => scatter(region)),
      ...merges,
      close,
    ),
  );
  panel.hidden = false;
  if (focused !== null) [...panel.querySelectorAll("button")].find((one) => one.textContent === focused)?.focus();
  if (jump) panel.firstElementChild.focus();
}

async function find(event) {
  event.preventDefault();
  const text = byId("find-text").value.trim();
  const said = (what) => {
    byId("map-about").textContent = what;
  };
  try {
    let id = /^\d+$/.test(text) ? Number(text) : null;
    if (id === null) {
      const hex = keyHex(text);
      if (hex === null || hex === "") return said("Type a region's id, or a key: text, other bytes as \\xNN.");
      id = (await get(`/pd/api/v1/region/key/${hex}?format=hex`)).id;
    }
    if (seen.map !== null && seen.map.per === 1) {
      seen.at = seen.map.id.indexOf(id);
      draw();
    }
    await showRegion(id, true);
  } catch (error) {
    said(`Not found: ${error.message}.`);
  }
}

export function stores(all) {
  // Colours by the order of ids, whatever leads first.
  all.forEach((store) => storeColour(store.id));
  seen.stores = all;
}

export function start() {
  choice("map-mode", "mode", MODES, seen.mode, (mode) => {
    seen.mode = mode;
    draw();
  });
  canvas.addEventListener("pointermove", (event) => {
    const nth = under(event);
    if (nth < 0) hideTip();
    else showTip(described(nth), event.clientX, event.clientY);
  });
  canvas.addEventListener("pointerleave", hideTip);
  canvas.addEventListener("click", (event) => {
    const nth = under(event);
    if (nth < 0) return;
    choose(nth);
    showRegion(seen.map.id[nth], false);
  });
  canvas.addEventListener("keydown", onKey);
  byId("find").addEventListener("submit", find);
  // The more regions, the seldomer: a map of 100,000 has two megabytes.
  repeat(look, () => (seen.map === null ? 500 : Math.max(2000, seen.map.id.length / 4)));
}
