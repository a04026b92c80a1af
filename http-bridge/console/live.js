// Throughput, latency and outcomes, from the counters of this replica of the bridge.

import { get } from "./api.js";
import { announce, by, draw, make } from "./dom.js";

const EVERY = 2000;
const KEPT = 61;
/** Number of samples that rates and quantiles cover. */
const WINDOW = 5;
const OUTCOMES = {
  PAID: "Paid",
  OUT_OF_STOCK: "Refused: not enough stock",
  OUT_OF_CREDIT: "Refused: not enough credit",
  EMPTY_ORDER: "Refused: the order was empty",
  UNKNOWN_USER: "Refused: no such customer",
  UNKNOWN_ITEM: "Refused: no such item",
  ORDER_TOO_LARGE: "Refused: too many different items",
  ORDER_NOT_FOUND: "No such order",
  OVERLOADED: "Turned away: overload",
  UNAVAILABLE: "Not served: a part did not answer",
  OUTCOME_UNKNOWN: "Not known in time",
  INTERNAL: "Failed inside",
};

let samples = [];
let timer;
let paused = false;

export function begin() {
  by("pause").addEventListener("click", () => {
    paused = !paused;
    by("pause").setAttribute("aria-pressed", String(paused));
    announce(paused ? "Paused" : "Going on");
  });
}

export function enter() {
  look();
  timer = setInterval(() => document.hidden || paused || look(), EVERY);
}

export function leave() {
  clearInterval(timer);
}

async function look() {
  const said = by("live-said");
  try {
    const stats = await get("/console/api/stats");
    // Another or a restarted replica counts from 0, so earlier samples cannot be compared with it.
    if (samples.at(-1) && samples.at(-1).replica !== stats.replica) samples = [];
    samples.push({ at: performance.now(), ...stats });
    samples = samples.slice(-KEPT - WINDOW);
    said.hidden = true;
    show();
  } catch (refusal) {
    said.hidden = false;
    said.dataset.kind = "bad";
    said.textContent = refusal.words ?? refusal.message;
  }
}

/** What happened between two samples. */
function between(before, after) {
  const seconds = Math.max(0.001, (after.at - before.at) / 1000);
  const buckets = after.buckets.map((count, index) => count - (before.buckets[index] ?? 0));
  return { seconds, rate: (after.requests - before.requests) / seconds, failed: (after.failed - before.failed) / seconds, buckets };
}

/** The duration that this share of the calls does not exceed, in milliseconds; undefined without calls. */
export function quantile(share, buckets, bounds) {
  const all = buckets.reduce((sum, count) => sum + count, 0);
  if (all <= 0) return undefined;
  let rank = share * all;
  for (const [index, count] of buckets.entries()) {
    if (rank <= count && count > 0) {
      const from = index === 0 ? 0 : bounds[index - 1];
      const to = bounds[index] ?? from;
      return (from + (to - from) * (rank / count)) * 1000;
    }
    rank -= count;
  }
  return bounds.at(-1) * 1000;
}

const number = (value) => (value >= 100 || value === 0 ? Math.round(value).toLocaleString("en") : value.toFixed(value < 10 ? 2 : 1));
const milliseconds = (value) => (value === undefined ? "–" : `${number(value)} ms`);

function show() {
  const last = samples.at(-1);
  const before = samples.at(-1 - WINDOW) ?? samples[0];
  by("active").textContent = number(last.in_flight);
  if (last === before) {
    showOutcomes(last, last, 1);
    return;
  }
  const now = between(before, last);
  const [median, p99] = [0.5, 0.99].map((share) => quantile(share, now.buckets, last.bounds));
  by("rate").textContent = number(now.rate);
  by("median").textContent = milliseconds(median);
  by("p99").textContent = milliseconds(p99);
  by("failing").textContent = now.rate > 0 ? `${number((100 * now.failed) / now.rate)} %` : "0 %";
  const points = samples.slice(1).map((sample, index) => {
    const span = between(samples[Math.max(0, index + 1 - 2)], sample);
    return {
      rate: span.rate,
      median: quantile(0.5, span.buckets, sample.bounds),
      p99: quantile(0.99, span.buckets, sample.bounds),
    };
  });
  plot("rate-plot", points, [["rate", "line one"]], number);
  plot("latency-plot", points, [["p99", "line two"], ["median", "line one"]], milliseconds);
  const peak = Math.max(...points.map((point) => point.rate));
  by("rate-words").textContent = `Now ${number(now.rate)} requests a second; ${number(peak)} at most within two minutes.`;
  by("latency-words").replaceChildren(
    make("span", { class: "entry" }, make("span", { class: "swatch one", "aria-hidden": "true" }), `half ${milliseconds(median)}`),
    make("span", { class: "entry" }, make("span", { class: "swatch two", "aria-hidden": "true" }), `99 % ${milliseconds(p99)}`),
  );
  showOutcomes(before, last, now.seconds);
}

/** A drawing of lines over time, the newest at the right; the words beside it say the same. */
function plot(id, points, lines, words) {
  const [width, height, foot] = [600, 160, 4];
  const most = Math.max(1e-9, ...lines.flatMap(([name]) => points.map((point) => point[name] ?? 0)));
  const top = nice(most);
  const x = (index) => width - ((points.length - 1 - index) * width) / (KEPT - 1);
  const y = (value) => height - foot - (value / top) * (height - foot - 14);
  const picture = draw("svg", { viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", "aria-hidden": "true", focusable: "false" });
  for (const share of [0, 0.5, 1]) {
    picture.append(draw("line", { x1: 0, x2: width, y1: y(top * share), y2: y(top * share), class: "grid" }));
  }
  for (const [name, kind] of lines) {
    const runs = [[]];
    points.forEach((point, index) => {
      if (point[name] === undefined) runs.push([]);
      else runs.at(-1).push(`${x(index).toFixed(1)},${y(point[name]).toFixed(1)}`);
    });
    for (const run of runs.filter((each) => each.length > 0)) {
      picture.append(draw("polyline", { points: run.length === 1 ? `${run[0]} ${run[0]}` : run.join(" "), class: kind }));
    }
  }
  by(id).replaceChildren(picture, make("span", { class: "most", "aria-hidden": "true" }, words(top)));
}

/** The next round number that is not smaller. */
function nice(value) {
  const base = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((step) => step * base).find((step) => step >= value) ?? value;
}

function showOutcomes(before, last, seconds) {
  const all = last.checkouts.reduce((sum, { count }) => sum + count, 0);
  const rows = last.checkouts.toSorted((one, other) => other.count - one.count).map(({ outcome, count }) => {
    const earlier = before.checkouts.find((each) => each.outcome === outcome)?.count ?? 0;
    const share = all > 0 ? count / all : 0;
    const bar = draw("svg", { viewBox: "0 0 100 8", preserveAspectRatio: "none", class: "share", "aria-hidden": "true", focusable: "false" }, draw("rect", { x: 0, y: 0, width: 100 * share, height: 8, rx: 2, class: outcome === "PAID" ? "paid" : "refused" }));
    return make(
      "tr", {},
      make("th", { scope: "row" }, OUTCOMES[outcome] ?? outcome.toLowerCase().replaceAll("_", " ")),
      make("td", { class: "right" }, number((count - earlier) / seconds)),
      make("td", { class: "right" }, count.toLocaleString("en")),
      make("td", { class: "bar" }, bar, make("span", { class: "unseen" }, `${Math.round(100 * share)} %`)),
    );
  });
  if (rows.length === 0) rows.push(make("tr", {}, make("td", { colspan: 4, class: "none" }, "No checkout so far")));
  by("outcomes").replaceChildren(...rows);
}
