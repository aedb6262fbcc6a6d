// Starts the sections, and says how fresh what they show is.

import { get, repeat } from "./api.js";
import { byId, bytes, count, el, span } from "./parts.js";
import * as heat from "./heat.js";
import * as latency from "./latency.js";
import * as map from "./map.js";
import * as operators from "./operators.js";
import * as stores from "./stores.js";

const state = { overview: null, since: 0 };

function figure(name, value, kind = "", title = "") {
  return el("div", { class: `figure ${kind}`, title }, el("span", { class: "quiet" }, name), el("b", {}, value));
}

function summary({ stores: all, regions, operators: ran, replicas }) {
  const up = all.filter((store) => store.state === "Up").length;
  const ailing = regions.no_leader + regions.down + regions.few_peers;
  const sum = (of) => all.reduce((total, store) => total + of(store), 0);
  const written = sum((store) => store.bytes_written);
  byId("summary").replaceChildren(
    figure("stores up", `${up} of ${all.length}`, up < all.length ? "bad" : ""),
    figure("regions", count(regions.count)),
    figure(
      "unhealthy regions",
      count(ailing),
      regions.no_leader > 0 ? "bad" : ailing > 0 ? "warn" : "",
      `without a leader: ${regions.no_leader}; with a replica that is down: ${regions.down}; ` +
        `with fewer than ${replicas} replicas: ${regions.few_peers}; with one that lags behind: ${regions.pending}`,
    ),
    figure("data", bytes(regions.mib * 1024 * 1024), "", "one replica of each region"),
    figure("keys", count(regions.keys)),
    figure("written lately", bytes(written), "", "by all regions, since each reported before"),
    figure("operators under way", count(ran.running)),
  );
}

function header({ cluster_id: id, pd }) {
  byId("cluster").textContent =
    `cluster ${id} · PD on store ${pd.store} (${pd.address}), for ${span(pd.leads_for_seconds)}`;
  document.title = `Flotilla · ${pd.address}`;
}

function fresh(kind, text) {
  byId("fresh").firstElementChild.className = `dot ${kind}`;
  byId("fresh-text").textContent = text;
}

async function look() {
  try {
    const overview = await get("/flotilla/v1/overview");
    state.overview = overview;
    state.since = Date.now();
    header(overview);
    summary(overview);
    stores.show(overview);
    map.stores(overview.stores);
    byId("trouble").hidden = true;
    const whole = overview.regions.all_reported;
    fresh(whole ? "good" : "warn", whole ? "live" : "some regions have not reported to this PD yet");
  } catch (error) {
    const since = state.since === 0 ? "" : ` What you see is ${span((Date.now() - state.since) / 1000)} old.`;
    const moving = error.status === 503;
    fresh(moving ? "warn" : "bad", moving ? "PD is on its way to another node" : "no answer");
    // A move of PD takes a second or two, and is no trouble.
    if (Date.now() - state.since > 5000) {
      byId("trouble").textContent = `${error.message}.${since} Trying again every second.`;
      byId("trouble").hidden = false;
    }
    throw error;
  }
}

const THEMES = ["system", "light", "dark"];

function theme(name) {
  if (name === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = name;
  byId("theme").textContent = `Theme: ${name}`;
  localStorage.setItem("theme", name);
  for (const section of [map, heat, latency]) section.draw();
}

function start() {
  const stored = localStorage.getItem("theme");
  theme(THEMES.includes(stored) ? stored : "system");
  byId("theme").addEventListener("click", () => {
    const now = THEMES.indexOf(localStorage.getItem("theme"));
    theme(THEMES[(now + 1) % THEMES.length]);
  });
  const redraw = () => [map, heat, latency].forEach((section) => section.draw());
  addEventListener("resize", redraw);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  repeat(look, () => 2000);
  map.start();
  heat.start();
  operators.start();
  latency.start();
}

start();
