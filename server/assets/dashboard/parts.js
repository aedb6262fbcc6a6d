// Small parts that all sections use: elements, numbers, keys, colours, tips, questions.

export const byId = (id) => document.getElementById(id);

export function el(tag, props = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name === "class") made.className = value;
    else made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

export function bar(share, kind = "") {
  const full = el("i");
  full.style.width = `${Math.max(0, Math.min(1, share)) * 100}%`;
  return el("span", { class: `bar ${kind}`, "aria-hidden": "true" }, full);
}

export function swatch(colour) {
  const made = el("span", { class: "swatch", "aria-hidden": "true" });
  made.style.background = colour;
  return made;
}

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];

export function bytes(value) {
  let unit = 0;
  while (value >= 1024 && unit + 1 < UNITS.length) {
    value /= 1024;
    unit += 1;
  }
  return `${value >= 100 || unit === 0 ? Math.round(value) : value.toFixed(1)} ${UNITS[unit]}`;
}

export function count(value) {
  if (value < 10_000) return `${Math.round(value)}`;
  if (value < 1e6) return `${(value / 1e3).toFixed(1)} k`;
  if (value < 1e9) return `${(value / 1e6).toFixed(1)} M`;
  return `${(value / 1e9).toFixed(1)} G`;
}

export function span(seconds) {
  const [d, h, m] = [Math.floor(seconds / 86400), Math.floor(seconds / 3600) % 24, Math.floor(seconds / 60) % 60];
  if (d > 0) return `${d} d ${h} h`;
  if (h > 0) return `${h} h ${m} min`;
  if (m > 0) return `${m} min`;
  return `${Math.round(seconds)} s`;
}

export function millis(seconds) {
  const ms = seconds * 1000;
  if (ms < 1) return `${Math.round(ms * 1000)} µs`;
  if (ms < 10) return `${ms.toFixed(1)} ms`;
  if (ms < 1000) return `${Math.round(ms)} ms`;
  return `${(ms / 1000).toFixed(1)} s`;
}

export const clock = (unixSeconds) =>
  new Date(unixSeconds * 1000).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", hourCycle: "h23" });

// A key of hexadecimal digits as `flotilla ctl` shows it: text, other bytes as \xNN.
export function key(hex, longest = 40) {
  let text = "";
  for (let at = 0; at < hex.length; at += 2) {
    const code = parseInt(hex.slice(at, at + 2), 16);
    if (code === 0x5c) text += "\\\\";
    else if (code >= 0x20 && code < 0x7f) text += String.fromCharCode(code);
    else text += `\\x${hex.slice(at, at + 2).toLowerCase()}`;
  }
  return text.length > longest ? `${text.slice(0, longest)}…` : text;
}

// The other way; null: a backslash that begins nothing.
export function keyHex(text) {
  const hex = (code) => code.toString(16).toUpperCase().padStart(2, "0");
  let digits = "";
  for (let at = 0; at < text.length; at += 1) {
    if (text[at] !== "\\") {
      const utf8 = new TextEncoder().encode(String.fromCodePoint(text.codePointAt(at)));
      digits += [...utf8].map(hex).join("");
      if (text.codePointAt(at) > 0xffff) at += 1;
    } else if (text[at + 1] === "\\") {
      digits += "5C";
      at += 1;
    } else if (/^x[0-9a-f]{2}/i.test(text.slice(at + 1))) {
      digits += text.slice(at + 2, at + 4).toUpperCase();
      at += 3;
    } else {
      return null;
    }
  }
  return digits;
}

const STORES = ["#3b82f6", "#f59e0b", "#10b981", "#e5484d", "#8b5cf6", "#06b6d4", "#ec4899", "#84cc16", "#f97316", "#94a3b8"];
const known = [];

// Colours of stores stay while the page is open: by the order in which they were seen.
export function storeColour(store) {
  if (store === 0) return "#8a93a0";
  if (!known.includes(store)) known.push(store);
  return STORES[known.indexOf(store) % STORES.length];
}

export const isDark = () => {
  const theme = document.documentElement.dataset.theme;
  return theme ? theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
};

const DARK = [[22, 30, 41], [52, 36, 97], [118, 37, 118], [194, 58, 88], [244, 121, 50], [250, 190, 70], [252, 250, 190]];
const LIGHT = [[238, 242, 247], [252, 232, 170], [250, 190, 90], [243, 125, 60], [214, 62, 76], [140, 35, 110], [64, 22, 84]];

// 0 is nothing, 1 the most.
export function shade(share) {
  const stops = isDark() ? DARK : LIGHT;
  const at = Math.max(0, Math.min(1, share)) * (stops.length - 1);
  const low = Math.min(Math.floor(at), stops.length - 2);
  const mix = stops[low].map((from, i) => Math.round(from + (stops[low + 1][i] - from) * (at - low)));
  return `rgb(${mix[0]} ${mix[1]} ${mix[2]})`;
}

// Over three powers of ten, so that differences among the small show too.
export const level = (value, most) =>
  value <= 0 || most <= 0 ? 0 : Math.max(0.12, 1 + Math.log10(value / most) * 0.29);

export function scale(low, high) {
  const shown = el("span", { class: "scale", "aria-hidden": "true" });
  const stops = [0.12, 0.3, 0.5, 0.7, 0.85, 1].map(shade);
  shown.style.background = `linear-gradient(90deg, ${stops.join(", ")})`;
  return el("span", {}, low, shown, high);
}

// A canvas that is as sharp as the screen: its context, its width and height in CSS pixels.
export function sharp(canvas, height) {
  const width = canvas.clientWidth;
  const ratio = window.devicePixelRatio || 1;
  canvas.style.height = `${height}px`;
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  return { context, width, height };
}

export const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

const tip = byId("tip");

export function showTip(text, x, y) {
  tip.textContent = text;
  tip.hidden = false;
  const { width, height } = tip.getBoundingClientRect();
  tip.style.left = `${Math.max(4, Math.min(x + 14, innerWidth - width - 8))}px`;
  tip.style.top = `${y + height + 24 > innerHeight ? y - height - 12 : y + 16}px`;
}

export const hideTip = () => {
  tip.hidden = true;
};

let toasting = 0;

export function toast(text) {
  const shown = byId("toast");
  shown.textContent = text;
  shown.hidden = false;
  clearTimeout(toasting);
  toasting = setTimeout(() => {
    shown.hidden = true;
  }, 7000);
}

// Asks before something is done; gives what was typed, "" if nothing was to be, null for no.
export function confirm({ title, text, yes, label, value = "" }) {
  const dialog = byId("confirm");
  byId("confirm-title").textContent = title;
  byId("confirm-text").textContent = text;
  byId("confirm-yes").textContent = yes;
  byId("confirm-field").hidden = label === undefined;
  byId("confirm-label").textContent = label ?? "";
  byId("confirm-input").value = value;
  dialog.returnValue = "no";
  dialog.showModal();
  (label === undefined ? byId("confirm-yes") : byId("confirm-input")).focus();
  return new Promise((done) => {
    const end = () => done(dialog.returnValue === "yes" ? byId("confirm-input").value : null);
    dialog.addEventListener("close", end, { once: true });
  });
}

// Enter in the field means yes, not the first button.
byId("confirm-input").addEventListener("keydown", (event) => {
  if (event.key !== "Enter") return;
  event.preventDefault();
  byId("confirm").close("yes");
});

// Asks, does, says how it went.
export async function steer(question, work, done) {
  const given = await confirm(question);
  if (given === null) return;
  try {
    await work(given);
    toast(done);
  } catch (error) {
    toast(`Refused: ${error.message}`);
  }
}

export function choice(id, name, options, chosen, changed) {
  const set = byId(id);
  for (const [value, text] of options) {
    const input = el("input", { type: "radio", name, value, checked: value === chosen });
    input.addEventListener("change", () => changed(value));
    set.append(el("label", {}, input, text));
  }
}
