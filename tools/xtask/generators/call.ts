// An order, made and found by openapi-fetch over the types that openapi-typescript made.

import createClient from "openapi-fetch";
import type { components, paths } from "./shop.js";

declare const process: { argv: string[] };

function done<T>(answer: { data?: T; error?: unknown }): T {
  if (answer.data === undefined) throw new Error(JSON.stringify(answer.error));
  return answer.data;
}

const client = createClient<paths>({ baseUrl: process.argv[2] });
const item = done(await client.POST("/stock/item/create/{price}", { params: { path: { price: 5 } } }));
const order = done(
  await client.POST("/orders/create/{user_id}", { params: { path: { user_id: "somebody" } } }),
);
const line = { order_id: order.order_id, item_id: item.item_id, quantity: 2 };
const text: string = done(
  await client.POST("/orders/addItem/{order_id}/{item_id}/{quantity}", {
    params: { path: line },
    parseAs: "text",
  }),
);
if (!text.endsWith("price updated to: 10")) throw new Error(text);
const found = done(
  await client.GET("/orders/find/{order_id}", { params: { path: { order_id: order.order_id } } }),
);
// A pair by its type, too: an id and a number of units.
const pair: [string, number] & components["schemas"]["OrderFound"]["items"][number] = [
  item.item_id,
  2,
];
if (JSON.stringify(found.items) !== JSON.stringify([pair]) || found.total_cost !== 10) {
  throw new Error(JSON.stringify(found));
}
