// What is asked of the router, with the admin's key once there is one. Addresses are relative: a proxy may add a prefix.

const KEPT = "tercet-admin-key";
const TIMEOUT_MS = 4000;

/** An answer that is no success; `status` 0: none came. */
export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }

  /** True when another key would help. */
  get wantsKey() {
    return this.status === 401 || (this.status === 403 && this.message.includes("key"));
  }
}

export const key = {
  get: () => sessionStorage.getItem(KEPT),
  keep: (value) => sessionStorage.setItem(KEPT, value),
  forget: () => sessionStorage.removeItem(KEPT),
};

async function ask(method, path) {
  const headers = key.get() ? { Authorization: `Bearer ${key.get()}` } : {};
  let answer;
  let text;
  try {
    answer = await fetch(path, { method, headers, cache: "no-store", signal: AbortSignal.timeout(TIMEOUT_MS) });
    text = await answer.text();
  } catch (error) {
    throw new Refused(0, error.name === "TimeoutError" ? "no answer within 4 s" : "no connection");
  }
  let data = null;
  try {
    data = JSON.parse(text);
  } catch {
    throw new Refused(answer.status, `the answer is no JSON (${answer.status})`);
  }
  if (!answer.ok) throw new Refused(answer.status, data?.error?.message ?? `it answered ${answer.status}`);
  return data;
}

export const status = () => ask("GET", "status");
export const requests = (limit) => ask("GET", `requests?limit=${limit}`);
export const setMode = (mode) => ask("POST", `mode/${encodeURIComponent(mode)}`);
export const drain = (url) => ask("DELETE", `workers/${encodeURIComponent(url)}`);
