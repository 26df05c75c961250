(function () {
  "use strict";
  var root = document.documentElement, button = document.getElementById("theme"), tip = document.getElementById("tip");
  function kept() { try { return localStorage.getItem("tercet-theme"); } catch (error) { return null; } }
  function keep(theme) { try { localStorage.setItem("tercet-theme", theme); } catch (error) { /* a private window */ } }
  function dark() {
    return root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  }
  function label() { button.textContent = dark() ? "Light theme" : "Dark theme"; }
  if (kept()) { root.dataset.theme = kept(); }
  label();
  button.addEventListener("click", function () {
    root.dataset.theme = dark() ? "light" : "dark";
    keep(root.dataset.theme);
    label();
  });
  function show(event) {
    var mark = event.target.closest ? event.target.closest("figure svg [aria-label]") : null;
    if (!mark || mark.tagName === "svg" || !mark.getAttribute("aria-label")) { tip.hidden = true; return; }
    tip.textContent = mark.getAttribute("aria-label");
    tip.hidden = false;
    var box = tip.getBoundingClientRect();
    tip.style.left = Math.max(6, Math.min(event.clientX + 12, innerWidth - box.width - 6)) + "px";
    tip.style.top = (event.clientY > innerHeight - 70 ? event.clientY - box.height - 12 : event.clientY + 14) + "px";
  }
  document.addEventListener("pointermove", show);
  document.addEventListener("pointerdown", show);
  document.addEventListener("scroll", function () { tip.hidden = true; }, { passive: true });
}());
