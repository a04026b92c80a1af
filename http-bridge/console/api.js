// Calls to this server: refusals become text, and calls that it could not answer yet are repeated.

/** How often a call is tried when the shop is too busy or a part of it is away. */
const TRIES_MAX = 4;
const KEY = "till.key";

/** Why a call was not answered with success, in words. */
export class Refusal extends Error {
  constructor(status, problem) {
    const title = problem?.title ?? `The server answered ${status}`;
    super(title);
    this.status = status;
    this.reason = problem?.reason ?? "";
    this.title = title;
    this.detail = problem?.detail ?? "";
    const advice = this.reason === "NO_API_KEY" ? "Enter one under Operate." : "";
    this.words = [title, this.detail, advice].filter(Boolean).join(". ").replace(/\.\. /g, ". ");
  }
}

/** The operator's key, for as long as this tab is open. */
export const key = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  set: (value) => (value ? sessionStorage.setItem(KEY, value) : sessionStorage.removeItem(KEY)),
};

function unique() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return `console-${Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("")}`;
}

const pause = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));

async function answerOf(response) {
  const kind = response.headers.get("content-type") ?? "";
  const body = kind.includes("json") ? await response.json().catch(() => undefined) : await response.text();
  if (response.ok) return body;
  throw Object.assign(new Refusal(response.status, typeof body === "object" ? body : undefined), {
    after: Number(response.headers.get("retry-after")) || 1,
  });
}

async function send(method, path, headers) {
  try {
    return await fetch(path, { method, headers, cache: "no-store", credentials: "same-origin" });
  } catch {
    throw Object.assign(new Refusal(0, { title: "The bridge does not answer", detail: "It may be starting, or gone." }), { after: 1 });
  }
}

async function once(method, path, headers) {
  return answerOf(await send(method, path, headers));
}

/** A read that also returns the token of the content, so that a checkout can buy exactly what is shown. */
export async function getTagged(path) {
  const response = await send("GET", path, credentials());
  return { found: await answerOf(response), etag: response.headers.get("etag") };
}

/** A call that only reads. */
export function get(path) {
  return once("GET", path, credentials());
}

/** A call that changes something: it takes effect once, however often it is repeated. */
export async function post(path, more = {}) {
  const headers = { "Idempotency-Key": unique(), ...credentials(), ...more };
  for (let tries = 1; ; tries += 1) {
    try {
      return await once("POST", path, headers);
    } catch (refusal) {
      const later = refusal.status === 503 || refusal.status === 429 || refusal.status === 0;
      if (!later || tries >= TRIES_MAX) throw refusal;
      await pause(refusal.after * 1000);
    }
  }
}

function credentials() {
  const secret = key.get();
  return secret ? { Authorization: `Bearer ${secret}` } : {};
}

/** An id as a part of a path. */
export const segment = (id) => encodeURIComponent(id);
