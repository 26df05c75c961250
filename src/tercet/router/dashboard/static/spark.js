// Sparklines: a line over the last three minutes, its scale from zero.

import { s, set } from "./dom.js";

/** Make a sparkline; `draw(values, marks)` takes numbers or nulls, and marks as shares of the width. */
export function spark(width, height, label) {
  const area = s("path", { class: "spark-area" });
  const line = s("path", { class: "spark-line" });
  const marks = s("g", { class: "spark-marks" });
  const element = s(
    "svg",
    { class: "spark", viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", role: "img", "aria-label": label },
    marks,
    area,
    line,
  );
  const draw = (values, shares = []) => {
    const known = values.filter((value) => value !== null);
    const top = Math.max(...known, 1e-9) * 1.12;
    const x = (i) => ((i / (values.length - 1)) * width).toFixed(1);
    const y = (value) => (height - 1 - (value / top) * (height - 2)).toFixed(1);
    let path = "";
    let filled = "";
    let begin = null;
    values.forEach((value, i) => {
      if (value === null) {
        if (begin !== null) filled += `L${x(i - 1)} ${height}L${x(begin)} ${height}Z`;
        begin = null;
        return;
      }
      const move = `${begin === null ? "M" : "L"}${x(i)} ${y(value)}`;
      path += move;
      filled += move;
      begin ??= i;
    });
    if (begin !== null) filled += `L${width} ${height}L${x(begin)} ${height}Z`;
    set(line, "d", path || null);
    set(area, "d", filled || null);
    const lines = shares.map((share) => `M${(share * width).toFixed(1)} 0V${height}`).join("");
    if (marks.dataset.d !== lines) {
      marks.dataset.d = lines;
      marks.replaceChildren(...(lines ? [s("path", { d: lines })] : []));
    }
  };
  return { element, draw };
}
