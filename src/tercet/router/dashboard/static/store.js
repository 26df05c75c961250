// What the page remembers: the last minutes of answers and of requests, and the figures that follow from them.

export const PHASES = ["queue", "encode", "prefill", "handoff", "decode_first_token", "stream"];
export const WORDS = {
  queue: "Queue",
  encode: "Encode",
  prefill: "Prefill",
  handoff: "Handoff",
  decode_first_token: "First token",
  stream: "Stream",
};

const KEPT_S = 240;
const MOST = 4000;
const FLOW_S = 6; // rates are those of so many seconds
const LEAST_AFTER = 5; // requests before a change of mode is judged

/** The `share` quantile of numbers, null of none. */
export function quantile(values, share) {
  if (!values.length) return null;
  const sorted = Float64Array.from(values).sort();
  const at = (sorted.length - 1) * share;
  const low = Math.floor(at);
  return sorted[low] + (sorted[Math.min(low + 1, sorted.length - 1)] - sorted[low]) * (at - low);
}

/** Counts of all modes, summed: requests, ok, refused, failed. */
function totals(status) {
  const sums = { requests: 0, ok: 0, refused: 0, failed: 0 };
  for (const counts of Object.values(status.counts)) {
    for (const name of Object.keys(sums)) sums[name] += counts[name] ?? 0;
  }
  return sums;
}

/** A record of /requests with what follows from it; times in ms, `ended` in Unix seconds. */
function measured(record) {
  // The last one: a rank that lacked a picture has answered too, before another attempt.
  const stream = record.spans.findLast((span) => span.phase === "stream" && !span.error);
  const phases = {};
  for (const span of record.spans) {
    if (span.phase !== "stream") phases[span.phase] = (phases[span.phase] ?? 0) + span.end_ms - span.start_ms;
  }
  const ok = record.status < 400;
  const streams = ok && record.stream && stream;
  const tokens = record.output_tokens;
  return {
    ...record,
    uid: `${record.id} ${record.started_at}`,
    ended: record.started_at + record.duration_ms / 1000,
    ok,
    failed: record.status >= 500,
    phases,
    ttft: streams ? stream.start_ms : null,
    tpot: streams && tokens > 1 ? (stream.end_ms - stream.start_ms) / (tokens - 1) : null,
    e2e: ok ? record.duration_ms : null,
    labels: record.workers.map((worker) => worker.name),
  };
}

export class Store {
  constructor() {
    this.clear();
  }

  /** Forget everything: another router answers. */
  clear() {
    this.status = null;
    this.snapshots = []; // {at, totals, flight, routes}: of each look no more than is asked of it later
    this.records = new Map();
  }

  /** Take in an answer of /status; times are the router's. */
  saw(status) {
    const now = status.time;
    const sums = totals(status);
    if (this.status && status.uptime_s + 1 < this.status.uptime_s) this.clear();
    this.status = status;
    const routes = new Map();
    for (const [mode, counts] of Object.entries(status.counts)) {
      for (const [route, count] of Object.entries(counts.routes ?? {})) routes.set(`${mode} ${route}`, count);
    }
    if (sums.requests < (this.snapshots.at(-1)?.totals.requests ?? 0)) this.snapshots = []; // counted from zero again
    this.snapshots.push({ at: now, totals: sums, flight: status.in_flight, routes });
    while (this.snapshots.length > 2 && now - this.snapshots[0].at > KEPT_S) this.snapshots.shift();
    for (const old of this.snapshots) {
      if (old.at > now - 2 * FLOW_S) break;
      old.routes = null;
    }
  }

  /** Take in an answer of /requests; return how many of them are new. */
  met(records) {
    let fresh = 0;
    let last = this.latest()[0]?.ended ?? -Infinity;
    let mixed = false;
    for (const record of records.toReversed()) {
      const key = `${record.id} ${record.started_at}`;
      if (!this.records.has(key)) {
        const one = measured(record);
        this.records.set(key, one);
        fresh += 1;
        mixed ||= one.ended < last;
        last = Math.max(last, one.ended);
      }
    }
    // More ended than were asked for, after a pause or in a burst: those missed come later than those after them.
    if (mixed) this.records = new Map([...this.records].sort(([, one], [, other]) => one.ended - other.ended));
    for (const key of this.records.keys()) {
      if (this.records.size <= MOST) break;
      this.records.delete(key);
    }
    return fresh;
  }

  /** The latest records, the latest to end first. */
  latest() {
    return [...this.records.values()].reverse();
  }

  /** Records that ended within the `seconds` before `now`. */
  within(seconds, now) {
    const found = [];
    for (const record of this.latest()) {
      if (record.ended < now - seconds) break;
      found.push(record);
    }
    return found;
  }

  /** How many a second, of the counts of all modes, over the last seconds; null at the start. */
  rate(name, until = this.snapshots.length - 1, seconds = FLOW_S) {
    const last = this.snapshots[until];
    let first = last;
    for (let i = until; i >= 0 && last.at - this.snapshots[i].at <= seconds; i -= 1) first = this.snapshots[i];
    if (!last || last.at - first.at < 0.5) return null;
    return Math.max(0, last.totals[name] - first.totals[name]) / (last.at - first.at);
  }

  /** Routes taken, how many a second: {"P0>D0": 1.5}. */
  flows() {
    const last = this.snapshots.at(-1);
    const first = this.snapshots.find(({ at }) => at >= last.at - FLOW_S);
    const seconds = last.at - first.at;
    const found = new Map();
    if (seconds < 0.5) return found;
    for (const [key, count] of last.routes) {
      const more = count - (first.routes.get(key) ?? 0);
      const route = key.slice(key.indexOf(" ") + 1);
      if (more > 0) found.set(route, (found.get(route) ?? 0) + more / seconds);
    }
    return found;
  }

  /** What the last change of mode did, by the requests before and since; null when none is remembered. */
  effect() {
    const records = this.latest();
    const mode = this.status?.mode;
    const changed = records.findIndex((record) => record.mode !== mode);
    if (changed < 0) return null;
    const before = records[changed].mode;
    const since = records.slice(0, changed);
    const at = since.length ? since.at(-1).started_at : records[changed].ended;
    const earlier = records.slice(changed).filter((record) => record.mode === before && record.ended > at - 300);
    const figures = (list) => ({
      requests: list.length,
      ttft: quantile(list.map((record) => record.ttft).filter((value) => value !== null), 0.5),
      tpot: quantile(list.map((record) => record.tpot).filter((value) => value !== null), 0.5),
      e2e: quantile(list.map((record) => record.e2e).filter((value) => value !== null), 0.5),
      prefilled: list.filter((record) => record.route?.includes("P")).length / Math.max(1, list.length),
    });
    return {
      before,
      after: mode,
      at,
      was: figures(earlier),
      is: figures(since),
      enough: since.length >= LEAST_AFTER && earlier.length >= LEAST_AFTER,
    };
  }
}

/** A series over time: at each of `points` moments up to `now`, `figure` of the `value`s of the `window_s` before. */
export function series(records, now, value, figure, points = 60, step_s = 3, window_s = 12) {
  const rows = records.map((record) => [record.ended, value(record)]).filter(([, number]) => number !== null && number !== undefined);
  return Array.from({ length: points }, (_, i) => {
    const until = now - (points - 1 - i) * step_s;
    const values = rows.filter(([at]) => at <= until && at > until - window_s).map(([, number]) => number);
    return values.length ? figure(values) : null;
  });
}
