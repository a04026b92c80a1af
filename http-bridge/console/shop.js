// The try-it shop: a customer, items, an order, and its checkout, all through the REST API.

import { get, getTagged, post, segment } from "./api.js";
import { Wrong, announce, by, cents, handle, make, money, say, shortId, units } from "./dom.js";
import { watch } from "./transaction.js";

let customer;
const items = new Map();
let order;

export function begin(situation) {
  if (!situation.shop) return;
  handle(by("create-user"), "submit", "customer-said", createCustomer);
  handle(by("add-funds"), "submit", "customer-said", addFunds);
  handle(by("create-item"), "submit", "items-said", () => createItem(amountOf("price")));
  handle(by("create-order"), "submit", "order-said", createOrder);
  handle(by("checkout"), "submit", "order-said", checkOut);
  handle(by("another"), "click", "order-said", createOrder);
  handle(by("example"), "click", "customer-said", example);
  handle(by("watch"), "submit", "watch-said", lookAtAnother);
}

function amountOf(id) {
  const amount = cents(by(id).value);
  if (amount === undefined) throw new Wrong(by(id), "Write an amount such as 12.50.");
  return amount;
}

async function createCustomer() {
  const { user_id: id } = await post("/payment/create_user");
  customer = { id, credit: 0 };
  by("create-user").hidden = true;
  by("customer").hidden = false;
  by("user-id").textContent = id;
  by("make-order").disabled = false;
  by("order-hint").hidden = true;
  showCredit();
  say("customer-said", "The customer is there, without credit so far.");
  by("funds").focus();
}

function showCredit() {
  by("credit").textContent = money(customer.credit);
}

async function addFunds() {
  const amount = amountOf("funds");
  if (amount === 0) throw new Wrong(by("funds"), "Add at least 0.01.");
  await addCredit(amount);
  say("customer-said", `The credit is ${money(customer.credit)} now.`);
}

async function addCredit(amount) {
  await post(`/payment/add_funds/${segment(customer.id)}/${amount}`);
  await readCustomer();
}

async function readCustomer() {
  const found = await get(`/payment/find_user/${segment(customer.id)}`);
  customer.credit = found.credit;
  showCredit();
}

async function createItem(price) {
  const { item_id: id } = await post(`/stock/item/create/${price}`);
  const item = { id, price, stock: 0, name: `Item ${items.size + 1}` };
  items.set(id, item);
  by("items").hidden = false;
  by("items").append(rowOf(item));
  say("items-said", `${item.name} is there, without stock so far.`);
  return item;
}

function rowOf(item) {
  const { name } = item;
  item.stockShown = make("dd", {}, "0");
  item.units = make("input", { inputmode: "numeric", autocomplete: "off", value: "10", size: 5, "aria-label": `Units for the stock of ${name}` });
  item.quantity = make("input", { inputmode: "numeric", autocomplete: "off", value: "1", size: 4, "aria-label": `Units of ${name} for the order` });
  const addStock = make("form", { class: "row", novalidate: true }, item.units, make("button", { type: "submit", class: "quiet", "aria-label": `Add stock of ${name}` }, "Add stock"));
  item.toOrder = make("button", { type: "submit", class: "quiet", "aria-label": `Add ${name} to the order`, disabled: !isOpen() }, "Add to order");
  const addToOrder = make("form", { class: "row", novalidate: true }, item.quantity, item.toOrder);
  handle(addStock, "submit", "items-said", async () => {
    const amount = unitsOf(item.units);
    await stockUp(item, amount);
    say("items-said", `${item.stock} units of ${name} are in stock now.`);
  });
  handle(addToOrder, "submit", "order-said", async () => {
    const amount = unitsOf(item.quantity);
    await addLine(item, amount);
    say("order-said", `${amount} × ${name} added. The order costs ${money(order.cost)}.`);
  });
  return make(
    "li", {},
    make("div", { class: "what" }, make("strong", {}, name), " ", shortId(item.id)),
    make("dl", { class: "facts" }, fact("Price", money(item.price)), make("div", {}, make("dt", {}, "In stock"), item.stockShown)),
    make("div", { class: "acts" }, addStock, addToOrder),
  );
}

function fact(name, value) {
  return make("div", {}, make("dt", {}, name), make("dd", {}, value));
}

function unitsOf(field) {
  const amount = units(field.value);
  if (amount === undefined) throw new Wrong(field, "Write a whole number of units, at least 1.");
  return amount;
}

async function stockUp(item, amount) {
  await post(`/stock/add/${segment(item.id)}/${amount}`);
  await readItem(item);
}

async function readItem(item) {
  const found = await get(`/stock/find/${segment(item.id)}`);
  item.stock = found.stock;
  item.stockShown.textContent = found.stock.toLocaleString("en");
}

const isOpen = () => order !== undefined && !order.paid;

async function createOrder() {
  const { order_id: id } = await post(`/orders/create/${segment(customer.id)}`);
  order = { id, paid: false, cost: 0, items: [] };
  by("create-order").hidden = true;
  by("order").hidden = false;
  by("order-id").textContent = id;
  showOrder();
  say("order-said", "The order is there. Add items to it.");
}

function showOrder() {
  const lines = order.items.map(([id, quantity]) => {
    const item = items.get(id);
    return make(
      "tr", {},
      make("th", { scope: "row" }, item?.name ?? shortId(id)),
      make("td", { class: "right" }, item ? money(item.price) : "–"),
      make("td", { class: "right" }, String(quantity)),
      make("td", { class: "right" }, item ? money(item.price * quantity) : "–"),
    );
  });
  if (lines.length === 0) lines.push(make("tr", {}, make("td", { colspan: 4, class: "none" }, "Nothing yet")));
  by("lines").replaceChildren(...lines);
  by("total").textContent = money(order.cost);
  by("buy").textContent = order.paid ? "Check out again" : "Check out";
  by("another").hidden = !order.paid;
  for (const item of items.values()) item.toOrder.disabled = !isOpen();
}

async function addLine(item, amount) {
  await post(`/orders/addItem/${segment(order.id)}/${segment(item.id)}/${amount}`);
  await readOrder();
}

async function readOrder() {
  const { found, etag } = await getTagged(`/orders/find/${segment(order.id)}`);
  Object.assign(order, { paid: found.paid, cost: found.total_cost, items: found.items, etag });
  showOrder();
}

async function checkOut() {
  const { id } = order;
  const was = order.paid;
  for (const place of ["customer-said", "items-said", "order-said"]) by(place).hidden = true;
  showVerdict("asking", "Checking out", "");
  const began = performance.now();
  const watching = watch(id, { settled: false });
  try {
    // Buy exactly what is shown, or nothing.
    const asSeen = order.etag ? { "If-Match": order.etag } : {};
    await post(`/orders/checkout/${segment(id)}`, { "Till-Keep-Log": "1", ...asSeen });
    const took = `${Math.max(1, Math.round(performance.now() - began))} ms`;
    if (was) showVerdict("good", "Paid before", "It was paid already: nothing is charged twice.");
    else showVerdict("good", "Paid", `Stock and credit were taken together, and the answer came after ${took}.`);
  } catch (refusal) {
    showVerdict("bad", refusal.title ?? "The checkout failed", refusal.detail ?? "");
  }
  watching.settle();
  await Promise.allSettled([readOrder(), readCustomer(), ...[...items.values()].map(readItem)]);
}

function showVerdict(kind, title, detail) {
  const verdict = by("verdict");
  verdict.hidden = false;
  verdict.dataset.kind = kind;
  verdict.replaceChildren(make("strong", {}, title), detail ? make("span", {}, detail) : "");
  verdict.scrollIntoView({ block: "nearest" });
  announce([title, detail].filter(Boolean).join(". "), kind === "bad");
}

async function lookAtAnother() {
  const field = by("watch-id");
  const id = field.value.trim();
  if (!id) throw new Wrong(field, "Write the id of an order.");
  by("verdict").hidden = true;
  await watch(id, { settled: true }).told;
}

async function example() {
  if (!customer) await createCustomer();
  await addCredit(10_000);
  const first = await createItem(1250);
  await stockUp(first, 10);
  const second = await createItem(499);
  await stockUp(second, 3);
  if (!isOpen()) await createOrder();
  await addLine(first, 2);
  await addLine(second, 1);
  for (const id of ["items-said", "order-said"]) by(id).hidden = true;
  say("customer-said", "A customer with credit, two items in stock and an order are there. Check it out.");
  by("buy").focus();
}
