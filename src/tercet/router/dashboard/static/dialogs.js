// The two questions that the page asks: for the admin's key, and whether to drain a worker.

import { byId, say, set } from "./dom.js";
import { key } from "./api.js";

/** Ask for the key; resolves to true when one was given. */
export function askKey(problem = "") {
  const dialog = byId("key-dialog");
  say(byId("key-problem"), problem);
  set(byId("key-forget"), "hidden", key.get() ? null : "");
  return asked(dialog, byId("key-form"), byId("key-cancel"), () => {
    const given = byId("key-input").value.trim();
    if (!/^[\x21-\x7e]+$/.test(given)) {
      say(byId("key-problem"), "A key is one line of letters, digits and signs.");
      return false;
    }
    key.keep(given);
    byId("key-input").value = "";
    return true;
  });
}

/** Ask whether to drain; resolves to true when so. */
export function askDrain(title, text, warning) {
  say(byId("drain-title"), title);
  say(byId("drain-text"), text);
  say(byId("drain-warning"), warning);
  return asked(byId("drain-dialog"), byId("drain-form"), byId("drain-cancel"), () => true);
}

function asked(dialog, form, cancel, accept) {
  return new Promise((resolve) => {
    let said = false;
    form.onsubmit = (event) => {
      event.preventDefault();
      said = accept();
      if (said) dialog.close();
    };
    cancel.onclick = () => dialog.close();
    dialog.onclose = () => resolve(said);
    if (!dialog.open) dialog.showModal();
  });
}
