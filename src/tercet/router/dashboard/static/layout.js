// Where the topology's boxes stand, and how the lines between them run. Pure: no element is touched here.

const ROUTER = 74;
const PAD = 6;
const GAP_Y = 12;
const LANE = 9;
const APART = 18;

/** Place the ranks of a fleet in `width` pixels, spread over a height of `room`, or as much as they need: columns E, P
 * and D, workers that do both across the last two.
 *
 * Returns {width, height, least (height needed), dense, router: box, boxes: Map(label -> box)}, a box {x, y, w, h, rank, worker, column}. */
export function place(workers, width, room = 0) {
  const groups = { E: [], P: [], D: [], A: [] };
  for (const worker of workers) for (const rank of worker.ranks) groups[worker.role].push({ rank, worker });
  const split = groups.P.length > 0 || groups.D.length > 0;
  const columns = [...(groups.E.length ? ["E"] : []), ...(split ? ["P", "D"] : groups.A.length ? ["A"] : [])];
  const tallest = Math.max(1, ...["E", "P", "D", "A"].map((letter) => groups[letter].length));
  const narrow = width < 560;
  const dense = narrow || tallest > 8;
  const router = narrow ? 40 : ROUTER;
  const free = width - router - 2 * PAD;
  const gap = Math.max(narrow ? 22 : 44, Math.min(110, free * (columns.length > 2 ? 0.1 : 0.16)));
  const w = Math.min(columns.length === 1 ? 340 : 250, (free - gap * columns.length) / Math.max(1, columns.length));
  const used = columns.length * (w + gap);
  const left = PAD + router + (free - used > 0 ? (free - used) / (columns.length + 1) : 0);
  const step = gap + (free - used > 0 ? (free - used) / (columns.length + 1) : 0);
  const x = Object.fromEntries(columns.map((letter, i) => [letter, left + gap + i * (w + step)]));
  // Lines that pass over a column need a lane above it.
  const lanes = columns.length > 1 ? (columns.length - 1) * 2 : 0;
  const top = PAD + (lanes ? lanes * LANE + 10 : 0);
  const rows = Math.max(groups.E.length, groups.P.length, groups.D.length, split ? 0 : groups.A.length, 1);
  const both = split ? groups.A.length : 0;
  const need = (h, gap) => top + rows * (h + gap) - gap + (both ? APART + both * (h + gap) - gap : 0) + PAD;
  let [h, gapY] = tallest > 16 ? [22, 4] : dense ? [34, 8] : [62, GAP_Y];
  const least = need(h, gapY);
  if (!dense && room > least) {
    h = Math.min(92, h + (room - least) / (rows + both));
    gapY = Math.min(64, gapY + Math.max(0, room - need(h, gapY)) / (rows + both));
  }
  const shift = Math.max(0, room - need(h, gapY)) / 2;
  const tall = rows * (h + gapY) - gapY;
  const boxes = new Map();
  const put = (entry, letter, i, y, wide = w) =>
    boxes.set(entry.rank.name, { ...entry, x: x[letter], y, w: wide, h, letter, column: columns.indexOf(letter), index: i });
  for (const letter of columns) {
    const list = groups[letter];
    const offset = (tall - (list.length * (h + gapY) - gapY)) / 2;
    list.forEach((entry, i) => put(entry, letter, i, top + shift + offset + i * (h + gapY)));
  }
  let height = top + shift + tall;
  if (split && groups.A.length) {
    groups.A.forEach((entry, i) => {
      boxes.set(entry.rank.name, {
        ...entry, x: x.P, y: height + APART + i * (h + gapY), w: x.D + w - x.P, h, letter: "A", column: columns.indexOf("P"), index: i, below: true,
      });
    });
    height += APART + groups.A.length * (h + gapY) - gapY;
  }
  return {
    width,
    height: Math.max(room, height + PAD),
    least,
    dense,
    router: { x: PAD, y: PAD + shift, w: router, h: height - PAD - shift },
    top: top + shift,
    columns: columns.map((letter) => ({ letter, x: x[letter], w })),
    boxes,
  };
}

/** The steps of a route: [["router", "E0"], ["E0", "P0"], ["P0", "D0"]]. */
export function steps(route) {
  const legs = route.split(">").map((leg) => leg.split("+"));
  return [["router"], ...legs].slice(0, -1).flatMap((from, i) => from.flatMap((a) => legs[i].map((b) => [a, b])));
}

/** The line from one box to another; `place`'s result, labels, and "router". Null when an end is not there. */
export function path(layout, from, to) {
  const b = layout.boxes.get(to);
  const a = from === "router" ? layout.router : layout.boxes.get(from);
  if (!a || !b) return null;
  const column = from === "router" ? -1 : a.column;
  const [x2, y2] = [b.x, b.y + b.h / 2];
  const [x1, y1] = [a.x + a.w, from === "router" ? Math.min(Math.max(y2, a.y + 12), a.y + a.h - 12) : a.y + a.h / 2];
  if (b.column - column > 1 && !b.below) {
    // Over the columns between: along a lane of its own, then down to the box.
    const lane = layout.top - 12 - LANE * (b.column - column - 2) - (b.index % 2) * 3;
    const last = layout.columns[b.column - 1];
    const turn = last.x + last.w;
    const bend = (x2 - turn) / 2;
    return `M${r(x1)} ${r(lane)}H${r(turn)}C${r(turn + bend)} ${r(lane)} ${r(x2 - bend)} ${r(y2)} ${r(x2)} ${r(y2)}`;
  }
  const bend = Math.max(16, (x2 - x1) / 2);
  return `M${r(x1)} ${r(y1)}C${r(x1 + bend)} ${r(y1)} ${r(x2 - bend)} ${r(y2)} ${r(x2)} ${r(y2)}`;
}

const r = (number) => number.toFixed(1);
