// The topology as a living graph: a box a rank, a line a way that requests take, a dot a request on its way.

import { byId, Keyed, s, say, set, style } from "./dom.js";
import { count, host, percent, plural, rate } from "./format.js";
import { path, place, steps } from "./layout.js";
import { state, STATES } from "./health.js";

const SPEED = 70; // pixels a second that a dot moves
const MOST_MOVING = 60; // lines with moving dots: a page that is open all day must not heat the room
const STAGE = { E: "encode", P: "prefill", D: "decode", A: "both" };
const SQUARES = 20;

export class Graph {
  /** `pick(label)` is told which rank's requests to show; null for all. */
  constructor(pick) {
    this.pick = pick;
    this.picked = null;
    this.holder = byId("graph");
    this.lines = s("g", { class: "lines" });
    this.boxes = s("g", { class: "boxes" });
    this.svg = s("svg", { role: "group" }, this.lines, this.boxes);
    this.holder.append(this.svg);
    this.drawn = new Keyed(this.lines, (line) => line.key, makeLine);
    this.shown = new Keyed(this.boxes, (box) => box.key, (box) => (box.rank ? makeBox((label) => this.choose(label)) : makeRouter()));
    new ResizeObserver(() => this.draw()).observe(this.holder);
  }

  choose(label) {
    this.picked = this.picked === label ? null : label;
    this.pick(this.picked);
    this.draw();
  }

  show(status, flows) {
    this.status = status;
    this.flows = flows;
    this.draw();
  }

  draw() {
    const { clientWidth: width, clientHeight: room } = this.holder;
    if (!this.status || !width) return;
    const layout = place(this.status.workers, width, room);
    style(this.holder, "min-height", `${layout.least}px`);
    set(this.svg, "viewBox", `0 0 ${layout.width} ${layout.height}`);
    set(this.svg, "height", layout.height);
    set(this.svg, "width", layout.width);
    set(this.svg, "class", layout.dense ? "dense" : null);
    set(this.svg, "aria-label", described(this.status, this.flows));
    this.drawn.show(this.edges(layout));
    const rates = ratesOf(this.flows);
    const boxes = [...layout.boxes.entries()].map(([label, box]) => ({ ...box, key: label, dense: layout.dense, picked: this.picked === label, often: rates.get(label) ?? 0 }));
    const waiting = this.status.waiting;
    this.shown.show([{ key: "router", ...layout.router, dense: layout.dense, flight: this.status.in_flight, waiting }, ...boxes]);
    const roles = new Set(this.status.workers.map((worker) => worker.role));
    for (const item of document.querySelectorAll("[data-role]")) set(item, "hidden", roles.has(item.dataset.role) ? null : "");
    say(byId("topology-note"), `${count(this.status.workers.length)} workers · ${this.status.dialect} · balancer ${this.status.balancer.replaceAll("_", " ")}`);
  }

  edges(layout) {
    const rates = new Map();
    const add = (from, to, more) => rates.set(`${from}>${to}`, (rates.get(`${from}>${to}`) ?? 0) + more);
    for (const [route, often] of this.flows) for (const [from, to] of steps(route)) add(from, to, often);
    const broken = new Set();
    for (const pair of this.status.pairs) {
      const [p, d] = pair.pair.split(">");
      add(p, d, 0);
      const ends = [layout.boxes.get(p), layout.boxes.get(d)];
      if (!pair.ready && ends.every((box) => box?.rank.ready)) broken.add(pair.pair);
    }
    for (const [label, box] of layout.boxes) {
      if (["E", "A", "P"].includes(box.letter)) add("router", label, 0);
    }
    const moving = [...rates.values()].filter((often) => often > 0).length <= MOST_MOVING;
    return [...rates.entries()]
      .map(([key, often]) => {
        const [from, to] = key.split(">");
        const box = layout.boxes.get(to);
        return { key, d: path(layout, from, to), often, moving, stage: STAGE[box?.letter], broken: broken.has(key), dim: this.picked && ![from, to].includes(this.picked) };
      })
      .filter((line) => line.d)
      .sort((a, b) => a.often - b.often);
  }
}

/** How many requests a second pass each rank. */
function ratesOf(flows) {
  const found = new Map();
  for (const [route, often] of flows) for (const label of route.split(/[>+]/)) found.set(label, (found.get(label) ?? 0) + often);
  return found;
}

function described(status, flows) {
  const ways = [...flows.entries()].sort((a, b) => b[1] - a[1]).slice(0, 6);
  const said = ways.map(([route, often]) => `${route.replaceAll(">", " to ")} ${rate(often)} a second`).join(", ");
  return `Topology: ${status.workers.length} workers. ${said ? `Requests: ${said}.` : "No requests."}`;
}

function makeLine() {
  const way = s("path", { class: "way" });
  const dots = s("path", { class: "dots" });
  const title = s("title");
  const element = s("g", {}, way, dots, title);
  return {
    element,
    update(line) {
      const busy = line.often > 0.001;
      set(element, "class", `edge ${line.stage}${busy ? " busy" : ""}${line.broken ? " broken" : ""}${line.dim ? " dim" : ""}`);
      set(way, "d", line.d);
      set(dots, "d", busy ? line.d : null);
      style(way, "stroke-width", busy ? `${(1.25 + Math.log2(1 + line.often) * 0.9).toFixed(1)}px` : "1px");
      if (busy) {
        // Dots as far apart as requests are, in steps, so that they seldom jump.
        const gap = Math.min(160, Math.max(14, 2 ** (Math.round(Math.log2(SPEED / line.often) * 2) / 2)));
        style(dots, "--gap", `${gap.toFixed(1)}px`);
        style(dots, "--time", `${(gap / SPEED).toFixed(3)}s`);
        style(dots, "stroke-dasharray", `0 ${gap.toFixed(1)}`);
        set(dots, "data-still", !line.moving);
      }
      say(title, `${line.key.replace(">", " → ")}: ${line.broken ? "no request crosses" : busy ? `${rate(line.often)} requests/s` : "idle"}`);
    },
  };
}

function makeRouter() {
  const frame = s("rect", { class: "frame", rx: 8 });
  const name = s("text", { class: "name", "text-anchor": "middle" }, "Router");
  const flight = s("text", { class: "big", "text-anchor": "middle" });
  const word = s("text", { class: "small", "text-anchor": "middle" }, "in flight");
  const waits = s("text", { class: "small", "text-anchor": "middle" });
  const element = s("g", { class: "box router" }, frame, name, flight, word, waits);
  return {
    element,
    update(box) {
      for (const side of ["x", "y"]) set(frame, side, box[side]);
      set(frame, "width", box.w);
      set(frame, "height", box.h);
      const narrow = box.w < 60;
      const [x, y] = [box.x + box.w / 2, box.y + box.h / 2];
      set(name, "x", x);
      set(name, "y", y - 24);
      say(name, narrow ? "R" : "Router");
      set(flight, "x", x);
      set(flight, "y", y + 4);
      say(flight, count(box.flight));
      set(word, "x", x);
      set(word, "y", y + 20);
      say(word, narrow ? "" : "in flight");
      set(waits, "x", x);
      set(waits, "y", y + 38);
      say(waits, box.waiting ? `+${count(box.waiting)}${narrow ? "" : " wait"}` : "");
    },
  };
}

function makeBox(choose) {
  const frame = s("rect", { class: "frame", rx: 7 });
  const strip = s("rect", { class: "strip", width: 4, rx: 2 });
  const strip2 = s("rect", { class: "strip second", width: 4, rx: 2 });
  const name = s("text", { class: "name" });
  const where = s("text", { class: "small where" });
  const number = s("text", { class: "number", "text-anchor": "end" });
  const often = s("text", { class: "small", "text-anchor": "end" });
  const squares = s("path", { class: "squares" });
  const track = s("rect", { class: "track", height: 4, rx: 2 });
  const bar = s("rect", { class: "level", height: 4, rx: 2 });
  const kv = s("text", { class: "small kv" });
  const share = s("text", { class: "small share", "text-anchor": "end" });
  const title = s("title");
  const element = s("g", { role: "button", tabindex: 0 }, frame, strip, strip2, name, where, number, often, squares, kv, track, bar, share, title);
  let label = "";
  element.addEventListener("click", () => choose(label));
  element.addEventListener("keydown", (event) => {
    if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      choose(label);
    }
  });
  return {
    element,
    update(box) {
      label = box.rank.name;
      const { x, y, w, h: tall, rank, worker, dense } = box;
      const mini = tall < 30;
      const now = state(worker, rank);
      set(element, "class", `box ${STAGE[box.letter]} ${now}${box.picked ? " picked" : ""}`);
      set(element, "data-rank", label);
      set(element, "aria-pressed", String(box.picked));
      const cached = worker.role === "E" ? `${plural(rank.pictures, "picture")} kept` : `KV ${percent(rank.kv_use)} in use`;
      const text = `${label}, ${worker.stages.join(" and ")}, ${STATES[now]}, ${count(rank.requests)} requests in flight, ${cached}. ${box.picked ? "Show all requests" : "Show its requests"}`;
      set(element, "aria-label", text);
      say(title, `${label} · ${rank.address}\n${STATES[now]}${worker.problem ? `: ${worker.problem}` : ""}\n${count(rank.requests)} in flight · ${count(rank.tokens)} prompt tokens to compute · ${cached}`);
      place4(frame, x, y, w, tall);
      const inset = x + 14;
      const half = box.letter === "A";
      set(strip, "x", x + 5);
      set(strip, "y", y + 7);
      set(strip, "height", half ? (tall - 14) / 2 - 1 : tall - 14);
      set(strip2, "x", x + 5);
      set(strip2, "y", y + tall / 2 + 1);
      set(strip2, "height", half ? (tall - 14) / 2 - 1 : 0);
      at(name, inset, y + (dense ? 15 : 20));
      say(name, label);
      const roomy = !dense && w > 170;
      at(where, inset + 10 + 9 * label.length, y + 20);
      say(where, now !== "ready" && !roomy ? "" : now === "ready" ? (roomy ? host(worker.url) : "") : STATES[now]);
      if (dense && now !== "ready") {
        at(where, inset + 8 + 9 * label.length, y + 15);
        say(where, w > 110 && !mini ? STATES[now] : "");
      }
      at(number, x + w - 10, y + (dense ? 15 : 20));
      say(number, now === "down" ? "✕" : count(rank.requests));
      const middle = y + tall / 2;
      set(squares, "d", dense ? null : tiles(rank.requests, inset, middle - 2, w - 84));
      at(often, x + w - 10, middle + 5);
      say(often, dense || !box.often ? "" : `${rate(box.often)}/s`);
      const low = mini ? y + tall / 2 : y + tall - (dense ? 9 : 11);
      const isE = worker.role === "E";
      const known = !isE && rank.kv_use !== null && now !== "down";
      const labelled = !mini && (!dense || w > 150);
      at(kv, inset, low + 4);
      say(kv, isE ? (dense ? "" : `${plural(rank.pictures, "picture")} kept`) : labelled ? "KV" : "");
      const begin = inset + (mini ? 9 * label.length + 6 : labelled ? 21 : 0);
      const end = x + w - (mini ? 44 : labelled ? 46 : 10);
      place4(track, begin, low - 2, Math.max(0, isE ? 0 : end - begin), 4);
      place4(bar, begin, low - 2, Math.max(0, known ? (end - begin) * rank.kv_use : 0), 4);
      at(share, x + w - 10, low + 4);
      say(share, !isE && labelled ? percent(known ? rank.kv_use : null) : "");
    },
  };
}

function at(element, x, y) {
  set(element, "x", x.toFixed(1));
  set(element, "y", y.toFixed(1));
}

function place4(element, x, y, w, tall) {
  at(element, x, y);
  set(element, "width", w.toFixed(1));
  set(element, "height", tall);
}

/** A square for each request, and a bar where they do not fit. */
function tiles(requests, x, y, room) {
  const most = Math.min(SQUARES * 2, Math.floor(room / 7));
  const shown = Math.min(requests, most);
  let d = "";
  for (let i = 0; i < shown; i += 1) d += `M${(x + i * 7).toFixed(1)} ${y.toFixed(1)}h5v5h-5z`;
  if (requests > most) d += `M${(x + most * 7 - 2).toFixed(1)} ${y.toFixed(1)}h4v5h-4z`;
  return d || null;
}
