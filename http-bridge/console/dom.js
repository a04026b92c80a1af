// Small helpers around the document: elements, texts for amounts, and announcements to screen readers.

/** The element with this id; a page without it is a bug. */
export function by(id) {
  const element = document.getElementById(id);
  if (!element) throw new Error(`the page has no #${id}`);
  return element;
}

/** An element with attributes and children; a text is never parsed as markup. */
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === false || value === undefined || value === null) continue;
    if (name === "on") {
      for (const [event, listener] of Object.entries(value)) element.addEventListener(event, listener);
    } else {
      element.setAttribute(name, value === true ? "" : value);
    }
  }
  element.append(...children.filter((child) => child !== null && child !== undefined && child !== ""));
  return element;
}

/** The same for drawings. */
export function draw(tag, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** Cents as people write them. */
export function money(cents) {
  const whole = Math.floor(cents / 100).toLocaleString("en");
  return `${whole}.${String(cents % 100).padStart(2, "0")}`;
}

/** A typed amount, in cents; undefined when it is not an amount. */
export function cents(text) {
  const match = /^(\d{1,13})(?:[.,](\d{1,2}))?$/.exec(text.trim());
  if (!match) return undefined;
  return Number(match[1]) * 100 + Number((match[2] ?? "").padEnd(2, "0"));
}

/** A typed number of units; undefined when it is not one. */
export function units(text) {
  return /^[1-9]\d{0,14}$/.test(text.trim()) ? Number(text.trim()) : undefined;
}

/** An id, shortened; its title has the whole id. */
export function shortId(id) {
  const text = id.length > 13 ? `${id.slice(0, 8)}…` : id;
  return make("code", { title: id }, text);
}

/** Announces something to screen readers. */
export function announce(text, urgent = false) {
  const region = by(urgent ? "alert" : "status");
  region.textContent = "";
  // A region that is emptied and filled in one step is not announced again.
  setTimeout(() => { region.textContent = text; }, 50);
}

/** Shows something in its place, and announces it to screen readers. */
export function say(id, text, kind = "good") {
  const place = by(id);
  place.hidden = !text;
  place.dataset.kind = kind;
  place.textContent = text;
  if (text) announce(text, kind === "bad");
}

/** Runs what a form or a button asks for: one at a time, busy meanwhile, refusals in words at `place`. */
export function handle(element, event, place, action) {
  element.addEventListener(event, async (happened) => {
    happened.preventDefault();
    if (element.getAttribute("aria-busy") === "true") return;
    element.setAttribute("aria-busy", "true");
    const shown = by(place);
    try {
      await action(happened);
      if (shown.dataset.kind === "bad") shown.hidden = true;
    } catch (error) {
      say(place, error.words ?? String(error.message ?? error), "bad");
    } finally {
      element.removeAttribute("aria-busy");
    }
  });
}

/** Marks a field that is wrong, and says why. */
export class Wrong extends Error {
  constructor(field, words) {
    super(words);
    this.words = words;
    field.setAttribute("aria-invalid", "true");
    field.focus();
    field.addEventListener("input", () => field.removeAttribute("aria-invalid"), { once: true });
  }
}
