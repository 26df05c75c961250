// Light or dark: as the system is, until the button says otherwise.

import { byId, say, set } from "./dom.js";

const KEPT = "tercet-theme";
const system = matchMedia("(prefers-color-scheme: dark)");

function kept() {
  try {
    return localStorage.getItem(KEPT);
  } catch {
    return null; // a browser that keeps nothing
  }
}

function show(theme) {
  set(document.documentElement, "data-theme", theme);
  const dark = theme ? theme === "dark" : system.matches;
  say(byId("theme"), dark ? "Light" : "Dark");
  set(byId("theme"), "aria-label", `Switch to the ${dark ? "light" : "dark"} theme`);
  return dark;
}

export function startTheme() {
  let dark = show(kept());
  system.addEventListener("change", () => (dark = show(kept())));
  byId("theme").addEventListener("click", () => {
    const theme = dark ? "light" : "dark";
    try {
      localStorage.setItem(KEPT, theme);
    } catch {
      // it holds for this page
    }
    dark = show(theme);
  });
}
