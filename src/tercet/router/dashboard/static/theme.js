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

function isDark(theme) {
  return theme ? theme === "dark" : system.matches;
}

function show(theme) {
  set(document.documentElement, "data-theme", theme);
  const dark = isDark(theme);
  say(byId("theme"), dark ? "Light" : "Dark");
  set(byId("theme"), "aria-label", `Switch to the ${dark ? "light" : "dark"} theme`);
}

export function startTheme() {
  show(kept());
  system.addEventListener("change", () => show(kept()));
  byId("theme").addEventListener("click", () => {
    const theme = isDark(document.documentElement.dataset.theme) ? "light" : "dark"; // what is seen now
    try {
      localStorage.setItem(KEPT, theme);
    } catch {
      // it holds for this page
    }
    show(theme);
  });
}
