// Figures as people read them: three significant digits, a thin space before the unit, a dash for nothing.

const NONE = "–";
const THIN = "\u202f";

const digits = (value) => (value >= 99.95 ? 0 : value >= 9.995 ? 1 : 2);

/** Milliseconds, in the unit that fits. */
export function ms(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return NONE;
  if (value >= 60000) return `${Math.floor(value / 60000)}${THIN}m ${String(Math.floor((value / 1000) % 60)).padStart(2, "0")}${THIN}s`;
  if (value >= 999.5) return `${(value / 1000).toFixed(value >= 9995 ? 1 : 2)}${THIN}s`;
  return `${value.toFixed(value >= 99.95 ? 0 : value >= 9.995 ? 1 : 2)}${THIN}ms`;
}

/** A number; from ten thousand on in thousands. */
export function count(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return NONE;
  if (value >= 999500) return `${(value / 1e6).toFixed(digits(value / 1e6))}M`;
  if (value >= 9999.5) return `${(value / 1000).toFixed(digits(value / 1000))}k`;
  return Math.round(value).toLocaleString("en");
}

/** Something a second. */
export function rate(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return NONE;
  return value >= 9999.5 ? count(value) : value.toFixed(value >= 99.95 ? 0 : value >= 9.995 ? 1 : value > 0 ? 2 : 0);
}

/** A share, 0 to 1, in percent. */
export function percent(share, places = 0) {
  if (share === null || share === undefined || Number.isNaN(share)) return NONE;
  return `${(share * 100).toFixed(places)}${THIN}%`;
}

/** How far `after` is from `before`, signed. */
export function change(before, after) {
  if (!before || after === null) return NONE;
  const share = after / before - 1;
  return `${share < 0 ? "−" : "+"}${Math.abs(share * 100).toFixed(0)}${THIN}%`;
}

/** Seconds, for people. */
export function duration(seconds) {
  const whole = Math.floor(seconds);
  const [days, hours, minutes] = [Math.floor(whole / 86400), Math.floor(whole / 3600) % 24, Math.floor(whole / 60) % 60];
  if (days) return `${days}${THIN}d ${hours}${THIN}h`;
  if (hours) return `${hours}${THIN}h ${minutes}${THIN}min`;
  if (minutes) return `${minutes}${THIN}min ${whole % 60}${THIN}s`;
  return `${whole}${THIN}s`;
}

/** The time of day of a Unix time in seconds. */
export function clock(seconds) {
  const time = new Date(seconds * 1000);
  return [time.getHours(), time.getMinutes(), time.getSeconds()].map((part) => String(part).padStart(2, "0")).join(":");
}

/** A worker's URL without what all of them have. */
export const host = (url) => url.replace(/^https?:\/\//, "");

export const plural = (number, word) => `${count(number)} ${word}${number === 1 ? "" : "s"}`;
