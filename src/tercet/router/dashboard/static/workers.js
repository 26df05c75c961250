// The workers: how each of them and its ranks are, and the button that drains one.

import { byId, h, Keyed, say, set, style } from "./dom.js";
import { count, host, percent, plural } from "./format.js";
import { state, STATES, worst } from "./health.js";

const COLUMNS = [
  ["Worker", ""],
  ["State", ""],
  ["In flight", "number"],
  ["To prefill", "number"],
  ["KV use", "wide"],
  ["Prefix blocks", "number"],
  ["Pictures", "number"],
  ["Open handoffs", "number"],
  ["Routed", "number"],
  ["", "action"],
];
const LETTERS = { encode: "encode", prefill: "prefill", decode: "decode" };
const sum = (ranks, field) => ranks.reduce((total, rank) => total + (rank[field] ?? 0), 0);
const mean = (ranks) => {
  const known = ranks.map((rank) => rank.kv_use).filter((share) => share !== null);
  return known.length ? known.reduce((total, share) => total + share, 0) / known.length : null;
};

export class Workers {
  /** `ask(worker)` is told whom to drain. */
  constructor(ask) {
    const head = h("tr", { role: "row" }, ...COLUMNS.map(([title, kind]) => h("th", { role: "columnheader", scope: "col", class: kind }, title || h("span", { class: "hidden" }, "Actions"))));
    this.body = h("tbody", { role: "rowgroup" });
    byId("worker-table").replaceChildren(h("thead", { role: "rowgroup" }, head), this.body);
    this.rows = new Keyed(this.body, (row) => row.key, (row) => makeRow(row, ask));
  }

  show(status) {
    const rows = [];
    for (const worker of status.workers) {
      rows.push({ key: worker.url, worker, ranks: worker.ranks, head: true });
      if (worker.ranks.length > 1) rows.push(...worker.ranks.map((rank) => ({ key: rank.address, worker, ranks: [rank], head: false })));
    }
    set(byId("worker-table"), "class", rows.some((row) => row.worker.role === "E" || row.ranks.some((rank) => rank.pictures)) ? "list" : "list plain");
    this.rows.show(rows);
    const ready = status.workers.filter((worker) => worker.ready).length;
    say(byId("workers-note"), `${ready} of ${count(status.workers.length)} ready`);
  }
}

function makeRow(first, ask) {
  const cells = COLUMNS.map(([title, kind]) => h("td", { role: "cell", class: kind, "data-label": title }));
  const [who, how, flight, tokens, kv, prefix, pictures, handoffs, routed, action] = cells;
  const names = h("b");
  const address = h("span", { class: "address" });
  const chips = h("span", { class: "chips" });
  who.append(names, chips, address);
  const word = h("span", { class: "word" });
  const why = h("span", { class: "why" });
  how.append(word, why);
  const bar = h("i");
  const share = h("span");
  kv.append(h("span", { class: "meter" }, bar), share);
  let worker = first.worker;
  let button = null;
  if (first.head) {
    button = h("button", { type: "button", class: "drain" }, "Drain");
    button.addEventListener("click", () => ask(worker));
    action.append(button);
  }
  const element = h("tr", { role: "row" }, ...cells);
  return {
    element,
    update(row) {
      worker = row.worker;
      const { ranks, head } = row;
      const now = head ? worst(worker) : state(worker, ranks[0]);
      set(element, "class", head ? "worker" : "rank");
      set(element, "data-worker", head ? worker.url : null);
      say(names, head && ranks.length > 2 ? `${ranks[0].name}–${ranks.at(-1).name}` : ranks.map((rank) => rank.name).join(", "));
      if (head && chips.dataset.stages !== worker.stages.join()) {
        chips.dataset.stages = worker.stages.join();
        chips.replaceChildren(...worker.stages.map((stage) => h("span", { class: `chip ${LETTERS[stage]}` }, stage)));
      }
      say(address, head ? host(worker.url) : "");
      say(word, now === "draining" ? `draining, ${Math.ceil(worker.drain_left_s ?? 0)} s left` : STATES[now]);
      set(word, "class", `word ${now}`);
      say(why, head && worker.problem && !worker.draining ? worker.problem : "");
      say(flight, count(sum(ranks, "requests")));
      say(tokens, count(sum(ranks, "tokens")));
      const use = mean(ranks);
      style(bar, "width", `${((use ?? 0) * 100).toFixed(1)}%`);
      set(kv.firstChild, "class", use === null ? "meter none" : use > 0.9 ? "meter full" : "meter");
      say(share, percent(use));
      const told = ranks.every((rank) => rank.told_blocks !== null);
      say(prefix, count(sum(ranks, told ? "told_blocks" : "prefix_blocks")));
      say(pictures, count(sum(ranks, "pictures")));
      say(handoffs, count(sum(ranks, "unaccepted_handoffs")));
      say(routed, count(sum(ranks, "routed")));
      if (button) {
        say(button, worker.draining ? "Draining" : "Drain");
        set(button, "disabled", worker.draining ? "" : null);
        set(button, "aria-label", `Drain ${names.textContent} (${host(worker.url)})`);
      }
    },
  };
}

/** What draining a worker means, for the question before it. */
export function consequences(worker, status) {
  const names = worker.ranks.map((rank) => rank.name).join(", ");
  const flight = sum(worker.ranks, "requests");
  const text = `${names} (${host(worker.url)}) gets no more requests. ${flight ? `${plural(flight, "request")} under way may finish; then it is` : "It is then"} removed from this router. Its process is not stopped.`;
  const others = status.workers.filter((other) => other !== worker && !other.draining && other.ready);
  const left = worker.stages.filter((stage) => !others.some((other) => other.stages.includes(stage)));
  const warning = left.length ? `No other ready worker can ${left.join(" or ")}: requests that need it will be refused.` : "";
  return { text, warning };
}
