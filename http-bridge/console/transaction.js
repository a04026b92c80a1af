// What became of a transaction: its votes, its outcome, and its steps over time.

import { get, segment } from "./api.js";
import { announce, by, draw, make, shortId } from "./dom.js";

const OUTCOMES = {
  COMMITTED: ["Committed", "good", "All of it happened."],
  ABORTED: ["Aborted", "bad", "Nothing of it happened."],
  UNDECIDED: ["Undecided", "wait", "Somebody may still vote."],
  UNKNOWN: ["Not known any more", "none", "Whatever it was, it holds nothing."],
};
const STATES = {
  PREPARED: "set aside",
  COMMITTED: "committed",
  ABORTED: "given back",
  ABSENT: "over, and forgotten",
  UNKNOWN: "not known",
};
const REASONS = {
  OUT_OF_STOCK: "not enough stock",
  OUT_OF_CREDIT: "not enough credit",
  EMPTY_ORDER: "the order is empty",
  UNKNOWN_USER: "no such customer",
  UNKNOWN_ITEM: "no such item",
  ALREADY_PAID: "paid already",
  OVERFLOW: "too large a sum",
};
const STEPS = {
  "sent Prepare": "is asked to vote",
  "sent Commit": "is told to commit",
  "sent Abort": "is told to abort",
  "sent Query": "is asked what it knows",
  "sent Query with a fence": "is asked, and fenced if it has not voted",
  "sent Forget": "may forget",
  "heard YES": "votes yes: it is durable",
  "heard FENCED": "is fenced, so it cannot vote any more",
  "heard PREPARED": "says it has voted yes",
  "heard COMMITTED": "has committed",
  "heard ABORTED": "has given back what it held",
  "heard ABSENT": "knows nothing of it",
  "heard forgotten": "has forgotten it",
  "answered COMMITTED": "The caller is told: paid",
  "answered REFUSED": "The caller is told: refused",
  "answered CONTENDED": "It will be tried again",
  "answered FENCED": "It will be tried again",
  "answered UNDECIDED": "Nobody may decide yet",
};
const KEPT = {
  ASKED: "you asked for it",
  RETRIED: "it was tried again",
  RESOLVED: "somebody else resolved it",
  SLOW: "it was slow",
  SAMPLED: "it was sampled",
  BROKEN: "it broke the protocol",
};

const reasonWords = (reason) => REASONS[reason] ?? reason.toLowerCase().replaceAll("_", " ");

/** A step in words for people. */
export function stepWords(what) {
  if (STEPS[what]) return STEPS[what];
  if (what.startsWith("heard NO ")) return `votes no: ${reasonWords(what.slice(9))}`;
  if (what.startsWith("heard CONTENDED")) return "somebody older is in the way";
  if (what.startsWith("waits for")) return "waits for another transaction";
  if (what.startsWith("sends again")) return what.replace("sends again", "is asked again");
  return what;
}

export function outcomeChip(outcome) {
  const [word, kind] = OUTCOMES[outcome] ?? OUTCOMES.UNKNOWN;
  return make("span", { class: "chip", "data-kind": kind }, word);
}

function voteCell(branch) {
  if (branch.problem) return make("td", {}, branch.problem);
  const words = { YES: "Yes", NO: `No: ${reasonWords(branch.reason)}`, CONTENDED: "Not now", FENCED: "Too late" };
  const kinds = { YES: "good", NO: "bad", CONTENDED: "wait", FENCED: "wait" };
  if (!branch.vote) return make("td", { class: "none" }, "–");
  return make("td", {}, make("span", { class: "chip", "data-kind": kinds[branch.vote] }, words[branch.vote]));
}

/** Votes that a branch has forgotten by now, from the log. */
function remembered(transaction) {
  const steps = transaction.logs.flatMap((log) => log.steps);
  return transaction.branches.map((branch) => {
    if (branch.vote || branch.problem) return branch;
    const of = (what) => steps.some((step) => step.branch === branch.branch && step.what.startsWith(what));
    if (of("heard YES")) return { ...branch, vote: "YES" };
    const no = steps.find((step) => step.branch === branch.branch && step.what.startsWith("heard NO "));
    return no ? { ...branch, vote: "NO", reason: no.what.slice(9) } : branch;
  });
}

/** One transaction with all its details. */
export function render(transaction, actions = []) {
  const [, , meaning] = OUTCOMES[transaction.outcome] ?? OUTCOMES.UNKNOWN;
  const branches = remembered(transaction);
  const parts = [
    make(
      "p", { class: "head" },
      outcomeChip(transaction.outcome), " ", make("span", {}, meaning), " ", make("span", { class: "hint" }, "Transaction ", shortId(transaction.tx_id)),
    ),
  ];
  if (actions.length > 0) parts.push(make("p", { class: "row" }, ...actions));
  if (branches.length > 0) {
    const rows = branches.map((branch) => make(
      "tr", {},
      make("th", { scope: "row" }, make("span", { class: "dot", "data-service": branch.service, "aria-hidden": "true" }), branch.branch),
      voteCell(branch),
      make("td", {}, branch.blocked_by && branch.state === "ABSENT" ? "waits for another" : STATES[branch.state]),
    ));
    parts.push(make(
      "table", {},
      make("caption", { class: "unseen" }, "Branches and their votes"),
      make("thead", {}, make("tr", {}, ...["Branch", "Vote", "Now"].map((name) => make("th", { scope: "col" }, name)))),
      make("tbody", {}, ...rows),
    ));
  }
  for (const log of transaction.logs) parts.push(logOf(log, branches));
  return make("article", { "aria-label": `Transaction ${transaction.tx_id}` }, ...parts);
}

function logOf(log, branches) {
  const title = log.attempt === 0 ? "Resolved by somebody else" : `Attempt ${log.attempt}`;
  const kept = log.reasons.map((reason) => KEPT[reason] ?? reason).join(", ");
  const took = log.ended_ms ? `over after ${Math.max(0, log.ended_ms - log.began_ms)} ms` : "going on";
  const steps = log.steps.map((step) => {
    const who = step.what.startsWith("answered") ? "" : step.branch;
    return make(
      "li", {},
      make("span", { class: "when" }, `${step.after_ms} ms`),
      make("span", { class: "who" }, make("span", { class: "dot", "data-service": who.split("/")[0], "aria-hidden": "true" }), who || "coordinator"),
      make("span", {}, stepWords(step.what)),
    );
  });
  if (log.steps_left_out > 0) steps.push(make("li", { class: "none" }, `and ${log.steps_left_out} more`));
  const about = [`Began ${new Date(log.began_ms).toLocaleTimeString()}, ${took}.`, kept && `Kept because ${kept}.`, log.trace_id && `Trace ${log.trace_id}.`];
  return make(
    "section", { class: "log" },
    make("h3", {}, title),
    make("p", { class: "hint" }, about.filter(Boolean).join(" ")),
    lanes(log, branches),
    make("ol", { class: "steps", "aria-label": `Steps of ${title.toLowerCase()}` }, ...steps),
  );
}

/** The same steps drawn over time: a bar from question to vote, one from outcome to acknowledgement. */
function lanes(log, branches) {
  const names = branches.map((branch) => branch.branch);
  const end = Math.max(1, ...log.steps.map((step) => step.after_ms));
  const [left, width, row] = [108, 290, 28];
  const x = (after) => left + (after / end) * width;
  const height = names.length * row + 24;
  const picture = draw("svg", { viewBox: `0 0 ${left + width + 16} ${height}`, class: "lanes", "aria-hidden": "true", focusable: "false" });
  const answered = log.steps.find((step) => step.what.startsWith("answered"));
  names.forEach((name, index) => {
    const y = index * row + 16;
    const of = log.steps.filter((step) => step.branch === name);
    const at = (...whats) => of.find((step) => whats.some((what) => step.what.startsWith(what)))?.after_ms;
    picture.append(draw("text", { x: 0, y: y + 4 }, name));
    picture.append(draw("line", { x1: left, x2: left + width, y1: y, y2: y, class: "rail" }));
    const bar = (from, to, kind) => {
      if (from === undefined || to === undefined) return;
      const start = x(from);
      picture.append(draw("rect", { x: start - 3, y: y - 6, width: Math.max(6, x(to) - start + 6), height: 12, rx: 6, class: kind }));
    };
    bar(at("sent Commit", "sent Abort"), at("heard COMMITTED", "heard ABORTED"), "second");
    bar(at("sent Prepare"), at("heard YES", "heard NO", "heard CONTENDED", "heard FENCED"), at("heard NO") === undefined ? "first" : "first no");
  });
  if (answered) {
    const at = x(answered.after_ms);
    picture.append(draw("line", { x1: at, x2: at, y1: 2, y2: height - 20, class: "answer" }));
  }
  picture.append(draw("text", { x: left, y: height - 4, class: "axis" }, "0 ms"));
  picture.append(draw("text", { x: left + width, y: height - 4, class: "axis end" }, `${end} ms`));
  return make("div", { class: "lanes-box" }, picture, legend());
}

function legend() {
  const entry = (kind, text) => make("span", { class: "entry" }, make("span", { class: `swatch ${kind}`, "aria-hidden": "true" }), text);
  return make("p", { class: "hint legend" }, entry("first", "vote"), entry("answer", "answer to the caller"), entry("second", "outcome told"));
}

/** Transactions of a subject, the latest first and open. */
export function list(transactions, actionsOf = () => []) {
  const [latest, ...before] = transactions.toReversed();
  if (!latest) return [make("p", { class: "none" }, "Nobody knows a transaction of it.")];
  const parts = [render(latest, actionsOf(latest))];
  for (const one of before) {
    parts.push(make("details", {}, make("summary", {}, "An attempt before: ", outcomeChip(one.outcome)), render(one, actionsOf(one))));
  }
  return parts;
}

const WATCH_MS = 9000;
let watching = 0;

/** True when the latest transaction has ended. */
function isWhole(transactions) {
  const latest = transactions.at(-1);
  return latest !== undefined && latest.logs.some((log) => log.ended_ms > 0);
}

/**
 * Shows an order's transactions until the latest has ended, for nine seconds at most. A later call replaces an earlier
 * one.
 */
export function watch(orderId, { settled }) {
  watching += 1;
  const mine = watching;
  const place = by("transactions");
  const state = { settled };
  place.classList.remove("empty");
  place.setAttribute("aria-busy", "true");
  place.replaceChildren(make("p", { class: "none" }, "Asking the journals…"));
  const told = (async () => {
    let until = performance.now() + WATCH_MS;
    let shown = "";
    for (let wait = 250; mine === watching; wait = Math.min(wait * 1.4, 1200)) {
      await new Promise((done) => setTimeout(done, wait));
      if (mine !== watching) return;
      let transactions;
      try {
        ({ transactions } = await get(`/console/api/orders/${segment(orderId)}/transactions`));
      } catch (refusal) {
        if (refusal.status !== 429 && refusal.status !== 503 && refusal.status !== 0) throw refusal;
        continue;
      }
      if (mine !== watching) return;
      const text = JSON.stringify(transactions);
      if (text !== shown && (transactions.length > 0 || state.settled)) {
        shown = text;
        place.replaceChildren(...list(transactions));
      }
      if (!state.settled) until = performance.now() + WATCH_MS;
      const known = isWhole(transactions) && state.settled;
      if (known) announce(summary(transactions.at(-1)));
      if (known || performance.now() > until) break;
    }
  })().finally(() => mine === watching && place.removeAttribute("aria-busy"));
  told.catch((refusal) => place.replaceChildren(make("p", { class: "none" }, refusal.words ?? refusal.message)));
  return { told, settle: () => { state.settled = true; } };
}

function summary(transaction) {
  const [word] = OUTCOMES[transaction.outcome] ?? OUTCOMES.UNKNOWN;
  const votes = remembered(transaction).filter((branch) => branch.vote === "YES").length;
  return `Transaction ${word.toLowerCase()}: ${votes} of ${transaction.branches.length} branches voted yes.`;
}
