// How a worker is, in one word.

export const STATES = {
  ready: "ready",
  draining: "draining",
  open: "breaker open",
  half: "breaker half open",
  probing: "probing",
  down: "down",
};

/** The state of a rank of a worker. */
export function state(worker, rank) {
  if (worker.draining) return "draining";
  if (rank.ready) return rank.breaker === "half-open" ? "half" : "ready";
  if (worker.problem) return "down";
  if (rank.breaker === "open") return "open";
  if (rank.breaker === "half-open") return "half";
  return "probing";
}

/** The state of a worker: the worst of its ranks. */
export function worst(worker) {
  const order = ["draining", "down", "open", "half", "probing", "ready"];
  const found = worker.ranks.map((rank) => state(worker, rank));
  return order.find((name) => found.includes(name)) ?? "probing";
}
