// The latest requests, each with its way through the topology as a bar.

import { byId, choice, h, Keyed, say, set, style } from "./dom.js";
import { clock, count, ms, percent } from "./format.js";
import { PHASES, WORDS } from "./store.js";

const SHOWN = innerWidth < 600 ? 12 : 20;
const COLUMNS = [
  ["Time", "time"],
  ["Route", "route"],
  ["Mode", "mode"],
  ["Prompt", "number"],
  ["Cached", "number"],
  ["Output", "number"],
  ["TTFT", "number"],
  ["TPOT", "number"],
  ["E2E", "number"],
  ["Status", "status"],
  ["Timeline", "timeline"],
];

/** How a request ended, in a word. */
export function ending(record) {
  if (record.status === 499) return "left";
  if (record.error) return record.error.replaceAll("_", " ");
  return record.status === 200 ? record.finish_reason ?? "ok" : String(record.status);
}

export class Requests {
  /** `cleared()` is told that requests through all ranks are wanted again. */
  constructor(cleared) {
    this.which = "all";
    this.scale = "first";
    this.rank = null;
    this.most = SHOWN;
    this.open = new Set();
    this.held = false;
    choice(byId("which"), [["all", "All"], ["failed", "Failed"]], "all", (value) => this.change({ which: value }));
    choice(byId("scale"), [["first", "To first token"], ["whole", "Whole"]], "first", (value) => this.change({ scale: value }));
    byId("phase-legend").replaceChildren(...PHASES.map((phase) => h("li", {}, h("i", { class: `dot ${phase}` }), WORDS[phase])));
    this.more = byId("more-requests");
    this.more.addEventListener("click", () => this.change({ most: this.most + SHOWN }));
    this.clear = byId("clear-rank");
    this.clear.addEventListener("click", () => cleared());
    const head = h("tr", { role: "row" }, ...COLUMNS.map(([title, kind]) => h("th", { role: "columnheader", scope: "col", class: kind }, title)));
    this.axis = h("span", { class: "axis" });
    head.lastChild.append(this.axis);
    this.table = byId("request-table");
    this.body = h("tbody", { role: "rowgroup" });
    this.table.replaceChildren(h("thead", { role: "rowgroup" }, head), this.body);
    this.rows = new Keyed(this.body, (row) => row.key, (row) => (row.detail ? makeDetail() : makeRow((key) => this.toggle(key))));
    // Rows that move away under the pointer can't be read.
    this.table.addEventListener("pointerenter", () => (this.held = true));
    this.table.addEventListener("pointerleave", () => this.release());
    this.body.addEventListener("focusin", () => (this.held = true));
    this.body.addEventListener("focusout", (event) => this.body.contains(event.relatedTarget) || this.release());
  }

  release() {
    if (this.table.matches(":hover") || this.body.contains(document.activeElement)) return;
    this.held = false;
    if (this.store) this.show(this.store);
  }

  change(what) {
    Object.assign(this, what);
    this.frozen = null;
    if (this.store) this.show(this.store);
  }

  toggle(key) {
    if (!this.open.delete(key)) this.open.add(key);
    this.draw();
  }

  show(store) {
    this.store = store;
    const all = store.latest();
    const found = all.filter((record) => (this.which === "all" || record.status >= 400) && (!this.rank || record.spans.some((span) => span.worker === this.rank) || record.labels.includes(this.rank)));
    if (this.held && this.frozen) {
      const seen = new Set(this.frozen.map((record) => record.uid));
      const at = found.findIndex((record) => seen.has(record.uid));
      this.fresh = at < 0 ? found.length : at;
    } else {
      this.frozen = found.slice(0, this.most);
      this.fresh = 0;
    }
    set(this.more, "hidden", found.length > this.most ? null : "");
    set(this.clear, "hidden", this.rank ? null : "");
    say(this.clear, `Only through ${this.rank} ✕`);
    set(this.clear, "aria-label", `Show all requests, not only those through ${this.rank}`);
    const words = [this.fresh ? `${count(this.fresh)} more wait while you read` : ""];
    say(byId("requests-note"), words.filter(Boolean).join(" · ") || (all.length ? "the latest to end first" : "none yet"));
    this.draw();
  }

  draw() {
    const records = this.frozen ?? [];
    const reach = (record) => (this.scale === "whole" ? record.duration_ms : record.ttft ?? record.spans.findLast((span) => span.phase === "stream")?.start_ms ?? record.duration_ms);
    const longest = records.map(reach).sort((a, b) => a - b);
    // One request in twenty may run off the scale: else it would squeeze all the others.
    const most = longest[Math.floor((longest.length - 1) * 0.95)] ?? 1;
    say(this.axis, records.length ? `0 – ${ms(most)}` : "");
    const rows = records.flatMap((record) => {
      const row = { key: record.uid, record, most, open: this.open.has(record.uid), whole: this.scale === "whole" };
      return row.open ? [row, { key: `${record.uid} detail`, record, detail: true }] : [row];
    });
    this.rows.show(rows);
  }
}

function makeRow(toggle) {
  const cells = COLUMNS.map(([title, kind]) => h("td", { role: "cell", class: kind, "data-label": title }));
  const [time, route, mode, prompt, cached, output, ttft, tpot, e2e, status, timeline] = cells;
  const button = h("button", { type: "button", class: "more", "aria-expanded": "false" });
  time.append(button);
  const bar = h("div", { class: "hops", role: "img" });
  timeline.append(bar);
  const element = h("tr", { role: "row" }, ...cells);
  let key = "";
  button.addEventListener("click", () => toggle(key));
  return {
    element,
    update({ record, most, open, whole, key: row }) {
      key = row;
      const bad = record.status >= 400;
      set(element, "class", bad ? (record.status >= 500 ? "failed" : "refused") : null);
      say(button, clock(record.started_at));
      set(button, "aria-expanded", String(open));
      set(button, "aria-label", `Request of ${clock(record.started_at)}, ${record.id}: details`);
      say(route, record.route?.replaceAll(">", " → ") ?? "–");
      say(mode, `${record.mode} · ${record.turn}`);
      say(prompt, count(record.prompt_tokens));
      say(cached, record.cached_tokens === null || !record.prompt_tokens ? "–" : percent(record.cached_tokens / record.prompt_tokens));
      say(output, record.output_tokens === null ? "–" : `${record.output_tokens_estimated ? "~" : ""}${count(record.output_tokens)}`);
      say(ttft, ms(record.ttft));
      say(tpot, ms(record.tpot));
      say(e2e, ms(record.duration_ms));
      set(status, "title", bad ? `${record.status} ${ending(record)}` : null);
      say(status, `${bad ? `${record.status} ` : ""}${ending(record)}${record.retries ? ` · ${record.retries} retried` : ""}`);
      const shape = `${most} ${whole}`;
      if (bar.dataset.shape !== shape) {
        bar.dataset.shape = shape;
        bar.replaceChildren(...record.spans.filter((span) => whole || span.phase !== "stream" || span.error).map((span) => hop(span, most)));
        set(bar, "aria-label", `Timeline: ${record.spans.map((span) => `${WORDS[span.phase]}${span.worker ? ` on ${span.worker}` : ""} ${ms(span.end_ms - span.start_ms)}`).join(", ")}`);
      }
    },
  };
}

function hop(span, most) {
  const part = h("i", { class: `${span.phase}${span.error ? " broke" : ""}`, title: `${WORDS[span.phase]}${span.worker ? ` on ${span.worker}` : ""}: ${ms(span.end_ms - span.start_ms)}, from ${ms(span.start_ms)}${span.error ? ` (${span.error})` : ""}` });
  style(part, "left", `${Math.min(100, (span.start_ms / most) * 100).toFixed(2)}%`);
  style(part, "width", `${Math.max(0, Math.min(100, (span.end_ms / most) * 100) - (span.start_ms / most) * 100).toFixed(2)}%`);
  return part;
}

function makeDetail() {
  const list = h("ol", { class: "spans" });
  const facts = h("p", { class: "facts" });
  const element = h("tr", { role: "row", class: "detail" }, h("td", { role: "cell", colspan: COLUMNS.length }, facts, list));
  let shown = "";
  return {
    element,
    update({ record }) {
      if (shown === record.uid) return;
      shown = record.uid;
      const words = [record.id, record.key && `key ${record.key}`, record.model, record.stream ? "streamed" : "whole answer", record.error, ...record.workers.map((worker) => `${worker.name} ${worker.url}${worker.rank === null ? "" : `@${worker.rank}`}`)];
      say(facts, words.filter(Boolean).join(" · "));
      list.replaceChildren(
        ...record.spans.map((span) => {
          const bar = h("span", { class: "hops" });
          bar.append(hop(span, record.duration_ms));
          return h("li", {}, h("b", {}, WORDS[span.phase]), h("span", {}, span.worker ?? "router"), h("span", { class: "number" }, ms(span.end_ms - span.start_ms)), bar, span.error ? h("em", {}, span.error.replaceAll("_", " ")) : null);
        }),
      );
    },
  };
}
