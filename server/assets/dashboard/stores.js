// Stores with what they hold and do.

import { send } from "./api.js";
import { bar, byId, bytes, count, el, span, steer, storeColour, swatch } from "./parts.js";

const KINDS = { Up: "good", Disconnected: "warn", Down: "bad", Offline: "warn" };

function evict(store) {
  const name = `evict-leader-scheduler-${store.id}`;
  if (store.evicted) {
    return steer(
      {
        title: `Let leaders come to store ${store.id} again?`,
        text: "It leads regions again as the balance asks for it.",
        yes: "Let them come",
      },
      () => send("DELETE", `/pd/api/v1/schedulers/${name}`),
      `Store ${store.id} may have leaders again.`,
    );
  }
  return steer(
    {
      title: `Move all leaders away from store ${store.id}?`,
      text:
        `It leads ${store.leaders} regions now; other replicas take over one by one, and no data is copied. ` +
        "Leaders stay away until you let them come again, the node restarts, or PD moves.",
      yes: "Move them away",
    },
    () => send("POST", "/pd/api/v1/schedulers", { name: "evict-leader-scheduler", store_id: store.id }),
    `Leaders leave store ${store.id}.`,
  );
}

function state(store) {
  const kind = KINDS[store.state] ?? "";
  const parts = [el("span", { class: `dot ${kind}`, "aria-hidden": "true" }), store.state];
  const quiet = store.heard_ms_ago === null ? "not heard of yet" : `heard of ${span(store.heard_ms_ago / 1000)} ago`;
  if (store.state !== "Up") parts.push(el("span", { class: "quiet" }, ` · ${quiet}`));
  if (store.evicted) parts.push(" ", el("span", { class: "tag" }, "no leaders"));
  if (store.busy) parts.push(" ", el("span", { class: "tag warn" }, "busy"));
  return parts;
}

function slow(score) {
  if (score === 0) return "–";
  return el("span", { class: score >= 80 ? "bad" : score >= 10 ? "warn" : "", title: "1: fine, 100: hardly answers" }, `${score}`);
}

function row(store, most) {
  const used = store.capacity > 0 ? 1 - store.available / store.capacity : 0;
  const space = used > 0.9 ? "bad" : used > 0.8 ? "warn" : "";
  const labels = store.labels.map(([name, value]) => el("span", { class: "tag" }, `${name}=${value}`));
  return el(
    "tr",
    { "data-store": store.id },
    el("td", {}, swatch(storeColour(store.id)), `${store.id}`),
    el("td", {}, store.address, " ", ...labels),
    el("td", {}, ...state(store)),
    el("td", {}, bar(store.leaders / most.leaders), count(store.leaders)),
    el("td", {}, bar(store.regions / most.regions), count(store.regions)),
    el("td", { class: "num" }, bytes(store.region_mib * 1024 * 1024)),
    el("td", { class: "num" }, bytes(store.bytes_written)),
    el("td", { class: "num" }, bytes(store.bytes_read)),
    el("td", {}, bar(used, space), store.capacity > 0 ? `${bytes(store.available)} free` : "–"),
    el("td", { class: "num" }, slow(store.slow_score)),
    el("td", { class: "num" }, store.uptime_seconds === null ? "–" : span(store.uptime_seconds)),
    el(
      "td",
      {},
      el(
        "button",
        {
          type: "button",
          class: "small",
          "data-key": `evict-${store.id}`,
          title: store.evicted ? "Let leaders come here again" : "Move all leaders away",
          onclick: () => evict(store),
        },
        store.evicted ? "Uncordon" : "Evict leaders",
      ),
    ),
  );
}

const NAMES = ["store", "address", "state", "leaders", "regions", "size", "written", "read", "disk", "slow", "up for", ""];
const NUMBERS = ["size", "written", "read", "slow", "up for"];

export function show({ stores }) {
  const body = byId("stores-body");
  if (stores.length === 0) {
    body.replaceChildren(el("p", { class: "empty" }, "No store has registered yet."));
    return;
  }
  const most = {
    leaders: Math.max(1, ...stores.map((store) => store.leaders)),
    regions: Math.max(1, ...stores.map((store) => store.regions)),
  };
  // What has the focus keeps it.
  const focus = document.activeElement?.dataset?.key;
  const head = NAMES.map((name) => el("th", { scope: "col", class: NUMBERS.includes(name) ? "num" : "" }, name));
  const table = el(
    "table",
    {},
    el("thead", {}, el("tr", {}, ...head)),
    el("tbody", {}, ...stores.map((store) => row(store, most))),
  );
  body.replaceChildren(el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Stores" }, table));
  if (focus) body.querySelector(`[data-key="${focus}"]`)?.focus();
}
