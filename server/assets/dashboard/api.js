// Asks this node. Whichever node leads PD, this one passes the question on.

export class Refused extends Error {
  constructor(status, text) {
    super(text);
    this.status = status;
  }
}

async function ask(path, options) {
  const patience = AbortSignal.timeout(8000);
  let answer;
  try {
    answer = await fetch(path, { ...options, signal: patience, cache: "no-store" });
  } catch (error) {
    const late = error.name === "TimeoutError";
    throw new Refused(0, late ? "the node does not answer in time" : "the node does not answer");
  }
  const text = await answer.text();
  let body = null;
  try {
    body = text === "" ? null : JSON.parse(text);
  } catch {
    // The text says it.
  }
  if (!answer.ok) {
    throw new Refused(answer.status, body?.error ?? (text.slice(0, 200) || `status ${answer.status}`));
  }
  return body;
}

export const get = (path) => ask(path, {});

export const send = (method, path, body) =>
  ask(path, {
    method,
    headers: body === undefined ? {} : { "Content-Type": "application/json" },
    body: body === undefined ? undefined : JSON.stringify(body),
  });

// Calls `work` again and again, `every()` ms after its end, while the page is seen. What fails is
// tried again sooner: PD may be on its way to another node.
export function repeat(work, every) {
  let timer = 0;
  let running = null;
  const turn = async () => {
    clearTimeout(timer);
    let pause = every();
    try {
      await work();
    } catch {
      pause = Math.min(pause, 1000);
    }
    running = null;
    timer = setTimeout(start, pause);
  };
  const start = () => {
    if (document.hidden) return undefined;
    running ??= turn();
    return running;
  };
  document.addEventListener("visibilitychange", start);
  start();
  return async () => {
    await running;
    return start();
  };
}
