// What is being changed, what was, and why.

import { get, repeat, send } from "./api.js";
import { byId, el, span, steer } from "./parts.js";

const SHOWN = 30;

function steps(one) {
  const marks = one.steps.map((_, nth) =>
    el("i", { class: nth < one.steps_done ? "done" : nth === one.steps_done && one.status === "RUNNING" ? "now" : "" }),
  );
  const now = one.steps[one.steps_done];
  const text = one.ending ?? (now === undefined ? "done" : now);
  return [el("span", { class: "steps", "aria-hidden": "true" }, ...marks), `${one.steps_done}/${one.steps.length} · ${text}`];
}

function cancel(one) {
  return steer(
    {
      title: `End the operator on region ${one.region_id}?`,
      text: "A step that its leader was told already may still happen. The region is left alone for a while.",
      yes: "End it",
    },
    () => send("DELETE", `/pd/api/v1/operators/${one.region_id}`),
    `The operator on region ${one.region_id} is ended.`,
  );
}

const KINDS = { SUCCESS: "good", TIMEOUT: "bad", CANCEL: "warn", REPLACE: "warn" };

function row(one, now) {
  const ended = one.ended_ms !== undefined;
  const took = span(Math.max(0, (one.ended_ms ?? now) - one.started_ms) / 1000);
  const end = el("button", { type: "button", class: "small", onclick: () => cancel(one) }, "Cancel");
  return el(
    "tr",
    {},
    el("td", {}, `${one.region_id}`),
    el("td", {}, one.desc),
    el("td", { class: "wide" }, one.reason),
    el("td", { class: "wide", title: one.steps.join("\n") }, ...steps(one)),
    el("td", { class: KINDS[one.status] ?? "" }, one.status.toLowerCase()),
    el("td", { class: "num" }, took),
    el("td", {}, ended ? new Date(one.ended_ms).toLocaleTimeString([], { hourCycle: "h23" }) : end),
  );
}

function table(all, label, last, now) {
  const names = ["region", "what", "why", "steps", "status", "took", last];
  const head = names.map((name) => el("th", { scope: "col", class: name === "took" ? "num" : "" }, name));
  const rows = all.map((one) => row(one, now));
  const made = el("table", {}, el("thead", {}, el("tr", {}, ...head)), el("tbody", {}, ...rows));
  return el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": label }, made);
}

let open = false;

async function look() {
  const { running, ended } = await get("/flotilla/v1/operators");
  const body = byId("operators-body");
  if (body.contains(document.activeElement) && document.activeElement.tagName === "BUTTON") return;
  const now = Date.now();
  const parts = [
    running.length === 0
      ? el("p", { class: "empty" }, "Nothing is under way: all regions are where they should be.")
      : table(running.slice(0, SHOWN), "Operators under way", "", now),
  ];
  if (running.length > SHOWN) parts.push(el("p", { class: "quiet" }, `and ${running.length - SHOWN} more`));
  if (ended.length > 0) {
    const history = el(
      "details",
      { open },
      el("summary", {}, `The last ${Math.min(SHOWN, ended.length)} that ended since PD leads here`),
      table(ended.slice(0, SHOWN), "Operators that ended", "at", now),
    );
    history.addEventListener("toggle", () => {
      open = history.open;
    });
    parts.push(history);
  }
  const focused = body.contains(document.activeElement);
  body.replaceChildren(...parts);
  if (focused) body.querySelector("summary, .scroll")?.focus();
}

export function start() {
  repeat(look, () => 2000);
}
