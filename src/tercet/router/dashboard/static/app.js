// The page: asks the router once a second how it is, and hands the answer to its parts.

import * as api from "./api.js";
import { askDrain, askKey } from "./dialogs.js";
import { byId, h, say, set } from "./dom.js";
import { clock, duration, host } from "./format.js";
import { Graph } from "./graph.js";
import { worst } from "./health.js";
import { Modes } from "./modes.js";
import { Phases } from "./phases.js";
import { Requests } from "./requests.js";
import { Store } from "./store.js";
import { startTheme } from "./theme.js";
import { Tiles } from "./tiles.js";
import { consequences, Workers } from "./workers.js";

const EVERY_MS = 1000;
const HIDDEN_MS = 5000;
const FEW = 16;
const MOST = 256;

const store = new Store();
const parts = {
  tiles: new Tiles(),
  graph: new Graph((rank) => parts.requests.change({ rank })),
  modes: new Modes(refused, async () => poll()),
  phases: new Phases(),
  workers: new Workers(drain),
  requests: new Requests(() => parts.graph.choose(null)),
};
let limit = MOST;
let paused = false;
let lost = null; // since when, and why, no answer came
let asking = false;
let locked = false;
let guarded = false; // a key was asked for

startTheme();
byId("pause").addEventListener("click", () => {
  paused = !paused;
  set(byId("pause"), "class", paused ? "on" : null);
  say(byId("pause"), paused ? "Resume" : "Pause");
  showState();
  if (!paused) poll();
});
byId("key").addEventListener("click", () => unlock());
byId("key-forget").addEventListener("click", () => {
  api.key.forget();
  byId("key-dialog").close();
  poll();
});
document.addEventListener("visibilitychange", () => document.hidden || paused || locked || poll());
tick();

async function tick() {
  if (!paused && !locked) await poll();
  setTimeout(tick, document.hidden ? HIDDEN_MS : EVERY_MS);
}

async function poll() {
  if (asking) return;
  asking = true;
  try {
    const [status, latest] = await Promise.all([api.status(), api.requests(limit)]);
    lost = null;
    locked = false;
    store.saw(status);
    const fresh = store.met(latest.requests);
    limit = Math.min(MOST, Math.max(FEW, fresh * 2));
    show(status.time); // by the router's clock, as are its records
  } catch (error) {
    const said = error instanceof api.Refused;
    if (!said) console.error(error); // an answer of somebody else, a proxy's perhaps: asking goes on
    lost ??= { since: Date.now() / 1000 };
    lost.why = said ? error.message : "the answer is not a router's";
    guarded ||= error.wantsKey;
    if (error.wantsKey) unlock(error);
  } finally {
    asking = false;
    showState();
  }
}

function show(now) {
  const status = store.status;
  const effect = store.effect();
  const since = effect ? 1 - (now - effect.at) / 180 : -1;
  const marks = since > 0 && since < 1 ? [since] : [];
  document.title = `${status.ready ? "" : "⚠ "}Tercet · ${status.mode}`;
  parts.tiles.show(store, now, marks);
  parts.graph.show(status, store.flows());
  parts.modes.show(status, effect);
  parts.phases.show(store, now, marks);
  parts.workers.show(status);
  parts.requests.show(store);
  say(byId("mode-note"), status.mode === "ppd" || status.mode === "eppd" ? `threshold ${status.ppd_threshold} tokens` : "");
  showAlerts(status);
}

function showState() {
  const status = store.status;
  const place = byId("state");
  const [name, text] = lost
    ? ["lost", locked ? "Locked" : "No answer"]
    : paused
      ? ["paused", "Paused"]
      : status === null
        ? ["wait", "Connecting"]
        : status.ready
          ? ["ready", "Ready"]
          : ["bad", "Not ready"];
  set(byId("key"), "hidden", guarded || api.key.get() ? null : "");
  set(place, "data-state", name);
  say(byId("state-text"), text);
  set(document.body, "class", lost && status ? "stale" : null);
  if (status) say(byId("where"), `${host(location.origin)} · ${status.version} · up ${duration(status.uptime_s)}`);
  else say(byId("where"), host(location.origin));
  if (lost && !locked) showAlerts(status);
}

function showAlerts(status) {
  const alerts = [];
  if (lost) alerts.push(["bad", `No answer from the router since ${clock(lost.since)}: ${lost.why}. Asking again every second.`]);
  else if (!status.ready) alerts.push(["bad", `Requests are refused: ${status.reason}`]);
  for (const worker of status?.workers ?? []) {
    const names = worker.ranks.map((rank) => rank.name).join(", ");
    if (worst(worker) === "down") alerts.push(["bad", `${names} is down: ${worker.problem}`]);
  }
  for (const pair of status?.pairs ?? []) {
    if (!pair.ready && pair.problem) alerts.push(["warn", `${pair.pair.replace(">", " → ")}: ${pair.problem}`]);
  }
  if (status?.unmatched) alerts.push(["warn", status.unmatched]);
  const text = JSON.stringify(alerts);
  const place = byId("alerts");
  if (place.dataset.text === text) return;
  place.dataset.text = text;
  place.replaceChildren(...alerts.slice(0, 6).map(([kind, words]) => h("p", { class: kind }, words)));
}

async function unlock(error = null) {
  locked = error !== null;
  if (byId("key-dialog").open) return;
  const known = api.key.get();
  const problem = error && known ? (error.status === 403 ? "This key is no admin's key." : "The router does not know this key.") : "";
  if (await askKey(problem)) {
    locked = false;
    await poll();
  }
}

function refused(error, again) {
  if (error.wantsKey) unlock(error).then(() => locked || again());
}

async function drain(worker) {
  const names = worker.ranks.map((rank) => rank.name).join(", ");
  const { text, warning } = consequences(worker, store.status);
  if (!(await askDrain(`Drain ${names}?`, text, warning))) return;
  const hint = byId("workers-hint");
  try {
    await api.drain(worker.url);
    say(hint, `${names} is draining.`);
    await poll();
  } catch (error) {
    say(hint, `${names} was not drained: ${error.message}`);
    refused(error, () => {});
  }
}
