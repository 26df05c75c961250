// The figures at the top: what an operator looks at first.

import { byId, h, say, set } from "./dom.js";
import { count, ms, percent, rate } from "./format.js";
import { spark } from "./spark.js";
import { quantile, series } from "./store.js";

const NOW_S = 60;
const median = (values) => quantile(values, 0.5);
const tail = (values) => quantile(values, 0.95);
const kept = (records, value) => records.map(value).filter((number) => number !== null && number !== undefined);

const TILES = [
  ["rate", "Requests/s"],
  ["tokens", "Output tokens/s"],
  ["flight", "In flight"],
  ["ttft", "TTFT, median"],
  ["tpot", "TPOT, median"],
  ["failed", "Failed"],
];

export class Tiles {
  constructor() {
    this.tiles = new Map();
    for (const [name, title] of TILES) {
      const value = h("p", { class: "value" });
      const more = h("p", { class: "more" });
      const line = spark(120, 28, `${title}, the last three minutes`);
      const element = h("div", { class: "tile" }, h("h2", {}, title), value, more, line.element);
      byId("tiles").append(element);
      this.tiles.set(name, { element, value, more, line });
    }
  }

  put(name, value, more, values, marks, kind = "") {
    const tile = this.tiles.get(name);
    say(tile.value, value);
    say(tile.more, more);
    set(tile.element, "class", `tile ${kind}`.trim());
    tile.line.draw(values, marks);
  }

  show(store, now, marks) {
    const records = store.within(200, now);
    const latest = records.filter((record) => record.ended > now - NOW_S);
    const last = store.snapshots.at(-1);
    const overTime = (figure) =>
      Array.from({ length: 60 }, (_, i) => {
        const until = last.at - (59 - i) * 3;
        const found = store.snapshots.findLastIndex(({ at }) => at <= until);
        return found < 0 || until - store.snapshots[found].at > 6 ? null : figure(found);
      });
    const { waiting } = store.status;
    const often = store.rate("requests");
    const perRequest = kept(latest, (record) => (record.ok ? record.output_tokens : null));
    const mean = perRequest.length ? perRequest.reduce((sum, more) => sum + more, 0) / perRequest.length : 0;
    const ok = store.rate("ok");
    const { totals } = last;
    this.put("rate", rate(often), `${count(totals.requests)} so far`, overTime((i) => store.rate("requests", i)), marks);
    this.put("tokens", ok === null ? "–" : count(ok * mean), `${count(mean)} a request`, overTime((i) => ok === null ? null : (store.rate("ok", i) ?? 0) * mean), marks);
    this.put(
      "flight",
      count(last.flight),
      waiting ? `${count(waiting)} wait for room` : "none waits",
      overTime((i) => store.snapshots[i].flight),
      marks,
      waiting ? "warn" : "",
    );
    for (const name of ["ttft", "tpot"]) {
      const values = kept(latest, (record) => record[name]);
      this.put(name, ms(median(values)), `p95 ${ms(tail(values))}`, series(records, now, (record) => record[name], median), marks);
    }
    const failed = store.rate("failed", undefined, NOW_S);
    const all = store.rate("requests", undefined, NOW_S);
    const share = all ? failed / all : null;
    const fails = overTime((i) => {
      const ones = store.rate("requests", i, 12);
      return ones ? store.rate("failed", i, 12) / ones : null;
    });
    this.put("failed", percent(share, share ? 1 : 0), `${count(totals.failed)} failed, ${count(totals.refused)} refused`, fails, marks, share ? "bad" : "");
  }
}
