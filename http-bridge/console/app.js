// The page as a whole: which view is shown, and whether the services are ready.

import { get } from "./api.js";
import { announce, by } from "./dom.js";
import * as live from "./live.js";
import * as operate from "./operate.js";
import * as shop from "./shop.js";

const HEALTH_EVERY = 5000;
const views = { shop, live, operate };
let shown;

function wanted(situation) {
  const name = location.hash.slice(1);
  const first = situation.shop ? "shop" : "operate";
  if (!(name in views)) return shown ?? first;
  return name === "shop" && !situation.shop ? first : name;
}

function show(situation, byPerson) {
  const name = wanted(situation);
  if (name === shown) return;
  if (shown) views[shown].leave?.();
  shown = name;
  for (const each of Object.keys(views)) {
    by(`view-${each}`).hidden = each !== name;
    const link = by(`to-${each}`);
    if (each === name) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  const title = document.querySelector(`#view-${name} h1`).textContent;
  document.title = `${title} · Till console`;
  if (byPerson) {
    by("main").focus({ preventScroll: true });
    scrollTo(0, 0);
    announce(title);
  }
  views[name].enter?.(situation);
}

async function lookAtHealth() {
  let state = "gone";
  let text = "The bridge does not answer";
  try {
    const response = await fetch("/readyz", { cache: "no-store" });
    state = response.ok ? "good" : "bad";
    text = response.ok ? "All services answer" : "A service is away";
    if (!response.ok && (response.headers.get("content-type") ?? "").includes("problem")) {
      text = (await response.json()).detail ?? text;
    }
  } catch {
    // Said below.
  }
  const health = by("health");
  if (health.dataset.state !== state) {
    if (health.dataset.state !== "asking") announce(text);
    health.dataset.state = state;
  }
  by("health-text").textContent = text;
}

async function begin() {
  document.querySelector(".skip").addEventListener("click", (event) => {
    event.preventDefault();
    by("main").focus();
  });
  let situation = { version: "", shop: true, operator: false };
  try {
    situation = await get("/console/api/state");
  } catch {
    // The bridge is away: its health says so.
  }
  by("version").textContent = situation.version;
  for (const id of ["to-shop", "to-docs"]) by(id).hidden = !situation.shop;
  for (const view of Object.values(views)) view.begin(situation);
  addEventListener("hashchange", () => show(situation, true));
  show(situation, false);
  lookAtHealth();
  setInterval(() => document.hidden || lookAtHealth(), HEALTH_EVERY);
}

begin();
