// Latency by phase: where the time to the first token goes, and what comes after it.

import { byId, choice, h, say, set, style } from "./dom.js";
import { ms } from "./format.js";
import { spark } from "./spark.js";
import { PHASES, quantile, series, WORDS } from "./store.js";

const NOW_S = 60;
const ROWS = [
  ...PHASES.filter((phase) => phase !== "stream").map((phase) => [phase, WORDS[phase], (record) => (record.ok ? record.phases[phase] ?? null : null)]),
  ["ttft", "TTFT", (record) => record.ttft],
  ["tpot", "TPOT", (record) => record.tpot],
  ["e2e", "E2E", (record) => record.e2e],
];
const median = (values) => quantile(values, 0.5);

export class Phases {
  constructor() {
    this.turn = "all";
    choice(byId("turns"), [["all", "All turns"], ["first", "First"], ["later", "Later"]], "all", (value) => {
      this.turn = value;
      if (this.last) this.show(...this.last);
    });
    const body = h("tbody");
    this.rows = ROWS.map(([name, title, value]) => {
      const p50 = h("td", { class: "number" });
      const p95 = h("td", { class: "number faint" });
      const line = spark(140, 22, `${title}, median over the last three minutes`);
      const chip = PHASES.includes(name) ? h("i", { class: `dot ${name}` }) : null;
      body.append(h("tr", { class: PHASES.includes(name) ? null : `sum ${name}` }, h("th", { scope: "row" }, chip, title), p50, p95, h("td", { class: `line ${name}` }, line.element)));
      return { name, value, p50, p95, line };
    });
    const head = h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Phase"), h("th", { scope: "col", class: "number" }, "p50"), h("th", { scope: "col", class: "number" }, "p95"), h("th", { scope: "col" }, "Last 3 min")));
    this.share = h("div", { class: "share-bar", role: "img" });
    byId("phases").replaceChildren(head, body);
    byId("phases").after(this.share);
    this.parts = PHASES.filter((phase) => phase !== "stream").map((phase) => {
      const part = h("i", { class: phase });
      this.share.append(part);
      return [phase, part];
    });
  }

  show(store, now, marks) {
    this.last = [store, now, marks];
    const records = store.within(200, now).filter((record) => this.turn === "all" || record.turn === this.turn);
    const latest = records.filter((record) => record.ended > now - NOW_S);
    for (const row of this.rows) {
      const values = latest.map(row.value).filter((value) => value !== null);
      say(row.p50, ms(quantile(values, 0.5)));
      say(row.p95, ms(quantile(values, 0.95)));
      row.line.draw(series(records, now, row.value, median), marks);
    }
    const streams = latest.filter((record) => record.ttft !== null);
    const sums = this.parts.map(([phase]) => streams.reduce((sum, record) => sum + (record.phases[phase] ?? 0), 0));
    const all = sums.reduce((sum, more) => sum + more, 0);
    const said = [];
    this.parts.forEach(([phase, part], i) => {
      style(part, "flex-grow", all ? (sums[i] / all).toFixed(4) : "0");
      if (all && sums[i] / all >= 0.005) said.push(`${WORDS[phase].toLowerCase()} ${Math.round((sums[i] / all) * 100)}%`);
    });
    const text = said.length ? `Shares of the time to the first token: ${said.join(", ")}` : "No streams in the last minute";
    set(this.share, "aria-label", text);
    set(this.share, "title", text);
  }
}
