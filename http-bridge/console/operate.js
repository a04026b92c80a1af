// What operators look at: whether the books agree, what is unresolved, and what became of a transaction.

import { get, key, post, segment } from "./api.js";
import { Wrong, announce, by, handle, make, say, shortId } from "./dom.js";
import { list } from "./transaction.js";

const LOOK_EVERY = 10_000;
const INVARIANTS = {
  I1: "stock: what was put in is there, held or sold",
  I2: "credit: what was added is there, held or spent",
  I3: "amounts are in range",
  I4: "a paid order was bought exactly once",
  I5: "a transaction has one outcome everywhere",
  I7: "holds end with their transaction",
  I8: "no vote is left open",
  R: "every record can be read",
};

let situation;
let timer;

export function begin(told) {
  situation = told;
  handle(by("unlock"), "submit", "locked-said", unlock);
  handle(by("refresh"), "click", "operate-said", async () => {
    await lookIfOpen();
    announce("Looked again");
  });
  handle(by("explain"), "submit", "explain-said", explain);
}

export function enter() {
  lookIfOpen().catch((refusal) => say("operate-said", refusal.words ?? refusal.message, "bad"));
  timer = setInterval(() => document.hidden || refresh(), LOOK_EVERY);
}

export function leave() {
  clearInterval(timer);
}

/** The periodic refresh: it shows an error, but does not announce it again and again. */
async function refresh() {
  if (by("operations").hidden) return;
  try {
    await look();
  } catch (refusal) {
    if (refusal.reason === "NO_API_KEY") {
      relock();
      return;
    }
    by("operate-said").hidden = false;
    by("operate-said").dataset.kind = "bad";
    by("operate-said").textContent = refusal.words ?? refusal.message;
  }
}

function lock() {
  by("locked").hidden = false;
  by("operations").hidden = true;
  by("refresh").hidden = true;
  const byKey = situation.operator_key === true;
  by("unlock").hidden = !byKey;
  by("locked-words").textContent = byKey
    ? "This part asks for the API key of the bridge. It is kept until you close this tab."
    : "This part is not served here, but on the admin listener of the bridge, which only operators reach: under /console there. The commands till tx and till audit do the same.";
}

/** The key that opened this view is no longer valid. */
function relock() {
  key.set("");
  lock();
  say("locked-said", "The key does not count any more. Enter the new one.", "bad");
}

async function lookIfOpen() {
  const now = await get("/console/api/state");
  if (!now.operator) {
    lock();
    return;
  }
  by("locked").hidden = true;
  by("locked-said").hidden = true;
  by("operations").hidden = false;
  by("refresh").hidden = false;
  await look();
}

async function unlock() {
  const field = by("key");
  const told = field.value.trim();
  if (!told) throw new Wrong(field, "Write the key.");
  // Anything else is not a key, and could not be sent in a header.
  if (!/^[\x21-\x7e]{16,512}$/.test(told)) throw new Wrong(field, "This is not the key.");
  key.set(told);
  const now = await get("/console/api/state");
  if (!now.operator) {
    key.set("");
    throw new Wrong(field, "This is not the key.");
  }
  field.value = "";
  await lookIfOpen();
  announce("Unlocked");
  by("main").focus();
}

async function look() {
  const [audit, unresolved] = await Promise.all([get("/console/api/audit"), get("/console/api/unresolved")]);
  showAudit(audit);
  showUnresolved(unresolved);
  by("operate-said").hidden = true;
}

function showAudit({ every_s: every, last, silent }) {
  const parts = [];
  if (last) {
    const clean = last.findings.length === 0;
    parts.push(make(
      "p", { class: "head" },
      make("span", { class: "chip", "data-kind": clean ? "good" : "bad" }, clean ? "The books agree" : "The books do not agree"),
      ` As of ${new Date(last.at_ms).toLocaleString()}, read in ${last.took_ms.toLocaleString("en")} ms; ${last.unresolved} unresolved then.`,
    ));
    if (!clean) {
      parts.push(make("ul", {}, ...last.findings.map(({ invariant, count }) => make("li", {}, make("strong", {}, invariant), ` ${INVARIANTS[invariant] ?? ""}: broken ${count} times`))));
      parts.push(make("p", {}, "Run ", make("code", {}, "till audit"), " to see every offender with its records."));
    }
  } else if (every > 0) {
    parts.push(make("p", {}, "The first audit has not ended yet."));
  } else {
    parts.push(make("p", {}, "No coordinator audits by itself. Start one with ", make("code", {}, "--audit-every-s 300"), ", or run ", make("code", {}, "till audit"), "."));
  }
  if (every > 0) parts.push(make("p", { class: "hint" }, `Audited every ${every} s.`));
  if (silent > 0) parts.push(make("p", { class: "hint" }, `${silent} replicas of the coordinator did not answer.`));
  by("audit").replaceChildren(...parts);
}

function showUnresolved({ transactions, left_out: more }) {
  const place = by("unresolved");
  if (place.contains(document.activeElement)) {
    // Do not take the focus away; the next refresh shows what changed.
    if (place.dataset.shown === JSON.stringify(transactions)) return;
  }
  place.dataset.shown = JSON.stringify(transactions);
  if (transactions.length === 0) {
    place.replaceChildren(make("p", { class: "none" }, "Nothing is unresolved."));
    return;
  }
  const rows = transactions.map((one) => {
    const late = one.deadline_ms ? Math.round((Date.now() - one.deadline_ms) / 1000) : undefined;
    const votes = one.branches.map((branch) => `${branch.branch} ${branch.vote || branch.state.toLowerCase()}`).join(", ");
    return make(
      "tr", {},
      make("th", { scope: "row" }, shortId(one.tx_id)),
      make("td", {}, one.order_id ? shortId(one.order_id) : "–"),
      make("td", {}, votes),
      make("td", { class: "right" }, late === undefined ? "–" : late > 0 ? `${late} s ago` : `in ${-late} s`),
      make("td", { class: "row" }, explainButton(one.tx_id), resolveButton(one.tx_id)),
    );
  });
  place.replaceChildren(make(
    "div", { class: "wide", tabindex: "0", role: "group", "aria-labelledby": "unresolved-title" },
    make(
      "table", {},
      make("thead", {}, make("tr", {}, ...["Transaction", "Order", "Votes", "Deadline", "What to do"].map((name) => make("th", { scope: "col" }, name)))),
      make("tbody", {}, ...rows),
    ),
  ));
  if (more > 0) place.append(make("p", { class: "hint" }, `And ${more} more.`));
}

function explainButton(id) {
  const button = make("button", { type: "button", class: "quiet", "aria-label": `Explain ${id}` }, "Explain");
  handle(button, "click", "explain-said", async () => {
    by("subject").value = id;
    await showExplained(id);
    by("explained").scrollIntoView({ block: "nearest" });
  });
  return button;
}

function resolveButton(id) {
  const button = make("button", { type: "button", "aria-label": `Resolve ${id}` }, "Resolve");
  handle(button, "click", "operate-said", async () => {
    const { outcome, missing } = await post(`/console/api/transactions/${segment(id)}/resolve`, { "Till-Console": "1" });
    const words = { COMMITTED: "It is committed, everywhere.", ABORTED: "It is aborted, everywhere.", UNDECIDED: `Nobody may decide yet: ${missing.join(", ")} may still vote.`, UNKNOWN: "Nobody knows it." };
    await look();
    say("operate-said", words[outcome] ?? outcome, outcome === "UNDECIDED" ? "wait" : "good");
    if (by("subject").value.trim() === id) await showExplained(id);
  });
  return button;
}

async function explain() {
  const field = by("subject");
  const id = field.value.trim();
  if (!id) throw new Wrong(field, "Write the id of a transaction or of an order.");
  await showExplained(id);
}

async function showExplained(id) {
  const { transactions } = await get(`/console/api/transactions/${segment(id)}`);
  const actions = (one) => (one.outcome === "UNDECIDED" ? [resolveButton(one.tx_id)] : []);
  by("explained").replaceChildren(...list(transactions, actions));
  announce(transactions.length === 0 ? "Nobody knows a transaction of it." : `${transactions.length} found.`);
}
