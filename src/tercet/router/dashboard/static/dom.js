// Elements, made and changed with as little as possible: what did not change is not touched.

const SVG = "http://www.w3.org/2000/svg";

/** Return the element with this id. */
export const byId = (id) => document.getElementById(id);

/** Make an HTML element; `null` and `false` attributes are left out. */
export function h(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** Make an SVG element. */
export function s(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) set(element, name, value);
  element.append(...children.filter((child) => child !== null));
  return element;
}

/** Set an attribute, or take it away with `null` or `false`, if it is another than now. */
export function set(element, name, value) {
  if (value === null || value === false || value === undefined) {
    if (element.hasAttribute(name)) element.removeAttribute(name);
  } else if (element.getAttribute(name) !== String(value)) {
    element.setAttribute(name, value);
  }
}

/** Set a text if it is another than now. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Set a CSS property, allowed where a style attribute is not. */
export function style(element, name, value) {
  if (element.style.getPropertyValue(name) !== value) element.style.setProperty(name, value);
}

/** Keep the children of `parent` in step with `items`: one element a key, in the items' order, each made once.
 * `make(item)` returns an object with `element` and `update(item)`. */
export class Keyed {
  constructor(parent, key, make) {
    this.parent = parent;
    this.key = key;
    this.make = make;
    this.known = new Map();
  }

  show(items) {
    const wanted = new Set(items.map(this.key));
    for (const [key, { element }] of this.known) {
      if (!wanted.has(key)) {
        element.remove();
        this.known.delete(key);
      }
    }
    let place = this.parent.firstChild;
    for (const item of items) {
      const key = this.key(item);
      let entry = this.known.get(key);
      if (!entry) this.known.set(key, (entry = this.make(item)));
      entry.update(item);
      if (entry.element === place) place = place.nextSibling;
      else this.parent.insertBefore(entry.element, place);
    }
  }
}

/** Fill `parent` with buttons of which one is pressed; `choose(value)` is told of another one. */
export function choice(parent, options, chosen, choose) {
  const buttons = options.map(([value, text]) => {
    const button = h("button", { type: "button", "aria-pressed": value === chosen }, text);
    button.addEventListener("click", () => {
      buttons.forEach((other) => set(other, "aria-pressed", String(other === button)));
      choose(value);
    });
    return button;
  });
  parent.replaceChildren(...buttons);
}
