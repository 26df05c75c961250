// The mode: which one is on, which ones this topology can run, and what the last change did.

import { byId, h, say, set } from "./dom.js";
import { change, clock, count, ms, percent } from "./format.js";
import { setMode } from "./api.js";

const NOTABLE = 0.1; // a change worth a colour
const MEANING = {
  aggregated: "Each request on any worker that prefills and decodes.",
  replicated: "A conversation stays with the worker that holds its prefix.",
  pd: "Every turn prefills on P, its KV blocks go to D.",
  ppd: "First turns as in pd; later turns straight to the D that holds the prefix.",
  epd: "Pictures are encoded by E; then as in pd.",
  eppd: "Pictures are encoded by E; then as in ppd.",
};

export class Modes {
  /** `failed(error)` is told when a change was refused; `changed()` when it was made. */
  constructor(failed, changed) {
    this.failed = failed;
    this.changed = changed;
    this.buttons = new Map();
    this.busy = false;
    this.problem = ""; // why the last change was refused; it stays until another mode is looked at
  }

  show(status, effect) {
    for (const [mode, reason] of Object.entries(status.modes)) {
      let button = this.buttons.get(mode);
      if (!button) {
        button = h("button", { type: "button", "data-mode": mode, "aria-describedby": "mode-hint" }, mode);
        button.addEventListener("click", () => this.choose(mode));
        for (const event of ["pointerenter", "focus"]) button.addEventListener(event, () => this.look(mode));
        for (const event of ["pointerleave", "blur"]) button.addEventListener(event, () => this.hint(null));
        this.buttons.set(mode, button);
        byId("modes").append(button);
      }
      set(button, "aria-pressed", String(mode === status.mode));
      set(button, "aria-disabled", reason === null ? null : "true");
      set(button, "title", reason ?? MEANING[mode] ?? null);
    }
    if (this.status && this.status.mode !== status.mode) this.problem = "";
    this.status = status;
    if (!this.busy) this.hint(this.about ?? null);
    this.showEffect(effect);
  }

  look(mode) {
    this.problem = "";
    this.hint(mode);
  }

  hint(mode) {
    this.about = mode;
    if (this.problem) {
      say(byId("mode-hint"), this.problem);
      return;
    }
    const shown = mode ?? this.status.mode;
    const reason = this.status.modes[shown];
    say(byId("mode-hint"), reason ? `Not here: ${reason}.` : MEANING[shown] ?? "");
    set(byId("mode-hint"), "class", reason ? "hint off" : "hint");
  }

  async choose(mode) {
    this.look(mode);
    if (this.busy || this.status.modes[mode] !== null || mode === this.status.mode) return;
    this.busy = true;
    say(byId("mode-hint"), `Switching to ${mode}…`);
    try {
      await setMode(mode);
      await this.changed(mode);
    } catch (error) {
      this.problem = `Not switched: ${error.message}`;
      this.hint(mode);
      this.failed(error, () => this.choose(mode));
    } finally {
      this.busy = false;
    }
  }

  showEffect(effect) {
    const place = byId("effect");
    const key = effect && JSON.stringify(effect);
    if (this.drawn === key) return;
    this.drawn = key;
    if (!effect) {
      place.replaceChildren();
      return;
    }
    const { before, after, was, is, enough } = effect;
    const row = (title, words, one, two, better) => {
      const turned = one && two ? change(one, two) : "–";
      const good = !enough || !one || !two || Math.abs(two / one - 1) < NOTABLE ? "" : two < one === better ? " good" : " bad";
      return h("tr", {}, h("th", { scope: "row" }, title), h("td", { class: "number faint" }, words(one)), h("td", { class: "number" }, words(two)), h("td", { class: `number change${good}` }, enough ? turned : "–"));
    };
    const throughP = (figures) => h("td", { class: "number" }, percent(figures.prefilled));
    const share = h("tr", {}, h("th", { scope: "row" }, "Through P"), throughP(was), throughP(is), h("td"));
    share.children[1].className = "number faint";
    place.replaceChildren(
      h(
        "table",
        { class: "effect" },
        h("caption", {}, `${before} → ${after} at ${clock(effect.at)}`, h("small", {}, enough ? ` medians of ${count(was.requests)} and ${count(is.requests)} requests` : ` ${count(is.requests)} requests since: too few to compare`)),
        h("thead", {}, h("tr", {}, h("th"), h("th", { scope: "col", class: "number" }, before), h("th", { scope: "col", class: "number" }, after), h("th", { scope: "col", class: "number" }, "Change"))),
        h("tbody", {}, row("TTFT", ms, was.ttft, is.ttft, true), row("TPOT", ms, was.tpot, is.tpot, true), row("E2E", ms, was.e2e, is.e2e, true), share),
      ),
    );
  }
}
