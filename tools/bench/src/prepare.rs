//! Fills the shop before the clock starts.

use crate::{
    call::{Call, Reply},
    client::Endpoints,
    progress::Progress,
    workload::{Stockroom, Workload},
};

/// Price of every item.
const PRICE: u64 = 1;
/// Stock of an item and credit of a user, as in the course's stress test.
const STOCK: u64 = 1_000_000;
const CREDIT: u64 = 1_000_000;
/// A hot item sells two units per order.
const HOT_STOCK: u64 = 1_000_000_000;
/// Up to this many orders are created one by one, with three calls each; more by `batch_init`.
const ONE_BY_ONE_MAX: u64 = 2_000;
/// Number of orders that lack stock, and of those that lack credit: enough that two callers rarely
/// use the same one at once.
const LACKING: usize = 500;
/// Growth factor of the number of items from one level of popularity to the next.
const ZIPF_STEP: u64 = 4;

/// Numbers of orders, items and users.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sizes {
    pub(crate) orders: u64,
    pub(crate) items: u64,
    pub(crate) users: u64,
}

/// Fills the shop, and shows progress. Overwrites data with the same ids.
///
/// # Errors
/// The first call that failed, in words.
pub(crate) async fn prepare(
    endpoints: &Endpoints,
    workload: Workload,
    sizes: Sizes,
) -> Result<Stockroom, String> {
    let items = if workload == Workload::Hot { 1 } else { sizes.items };
    let stock = if workload == Workload::Hot { HOT_STOCK } else { STOCK };
    let Sizes { orders, users, .. } = sizes;
    let mut fills = vec![
        Call::FillStock { count: items, stock, price: PRICE },
        Call::FillUsers { count: users, credit: CREDIT },
    ];
    let one_by_one = workload == Workload::Fresh && orders <= ONE_BY_ONE_MAX;
    match workload {
        Workload::Zipf => fills.extend(zipf(orders, items, users)),
        Workload::Mixed => {}
        Workload::Fresh if one_by_one => {}
        Workload::Fresh
        | Workload::Hot
        | Workload::Find
        | Workload::Stress
        | Workload::Scenarios => {
            fills.push(Call::FillOrders { count: orders, items, users, price: PRICE });
        }
    }
    fill(endpoints, fills).await?;
    let ids = |count: u64| (0..count).map(|id| id.to_string()).collect::<Vec<_>>();
    let mut room = Stockroom { items, stock, users, credit: CREDIT, ..Stockroom::default() };
    room.orders = match workload {
        Workload::Mixed => Vec::new(),
        Workload::Fresh if one_by_one => {
            let wanted = (0..orders).map(|number| spread(number, items, users)).collect();
            make(endpoints, "orders of two items", wanted).await?
        }
        Workload::Fresh => of_two_items(endpoints, ids(orders)).await?,
        Workload::Hot
        | Workload::Zipf
        | Workload::Find
        | Workload::Stress
        | Workload::Scenarios => ids(orders),
    };
    let buyable = room.orders.len();
    room.lacking_stock = buyable..buyable;
    room.lacking_credit = buyable..buyable;
    if workload == Workload::Scenarios {
        lack(endpoints, &mut room).await?;
    }
    Ok(room)
}

/// Makes these calls one after the other, because orders need the prices of items.
async fn fill(endpoints: &Endpoints, fills: Vec<Call>) -> Result<(), String> {
    let progress = Progress::new("batch_init", fills.len());
    for call in fills {
        endpoints.one(call).await?;
        progress.step();
    }
    Ok(())
}

/// Orders in which some items are far more popular than others, by `batch_init` alone.
///
/// Each fill overwrites the first orders of the fill before, and draws from fewer items: from the
/// first ... 16, 4, 1. Every level keeps the same number of orders. So an item's share falls with
/// its rank in steps, as by Zipf's law with exponent 1: a mixture of uniform draws over prefixes
/// whose lengths grow geometrically.
fn zipf(orders: u64, items: u64, users: u64) -> Vec<Call> {
    let mut widths = vec![items];
    let mut width = 1;
    let mut narrow = Vec::new();
    while width < items {
        narrow.push(width);
        width *= ZIPF_STEP;
    }
    widths.extend(narrow.into_iter().rev());
    let levels = widths.len() as u64;
    let fills = widths.iter().zip((1..=levels).rev());
    fills
        .map(|(width, left)| Call::FillOrders {
            count: orders * left / levels,
            items: *width,
            users,
            price: PRICE,
        })
        .filter(|call| !matches!(call, Call::FillOrders { count: 0, .. }))
        .collect()
}

/// A user and two different items for an order, each in turn, so that none is hot.
fn spread(number: u64, items: u64, users: u64) -> (String, [String; 2]) {
    let items = items.max(2);
    let first = number * 2 % items;
    let second = (first + 1) % items;
    ((number % users.max(1)).to_string(), [first.to_string(), second.to_string()])
}

/// Creates orders call by call; returns their ids.
async fn make(
    endpoints: &Endpoints,
    what: &str,
    wanted: Vec<(String, [String; 2])>,
) -> Result<Vec<String>, String> {
    let calls = wanted.iter().map(|(user, _)| Call::CreateOrder { user: user.clone() }).collect();
    let ids = made(&endpoints.all(what, calls).await?)?;
    // One item after the other: two additions to one order at once would only wait for each other.
    for line in 0..2 {
        let call = |(id, (_, items)): (&String, &(String, [String; 2]))| Call::AddItem {
            order: id.clone(),
            item: items[line].clone(),
        };
        endpoints.all("their items", ids.iter().zip(&wanted).map(call).collect()).await?;
    }
    Ok(ids)
}

fn made(replies: &[Reply]) -> Result<Vec<String>, String> {
    replies.iter().map(|reply| reply.id().map_err(|trouble| trouble.to_string())).collect()
}

/// Those of `batch_init`'s orders that have two different items. It draws both items at random, so
/// they may be equal.
async fn of_two_items(endpoints: &Endpoints, ids: Vec<String>) -> Result<Vec<String>, String> {
    let calls = ids.iter().map(|id| Call::FindOrder { order: id.clone() }).collect();
    let found = endpoints.all("orders of two items", calls).await?;
    let mut kept = Vec::with_capacity(ids.len());
    for (id, reply) in ids.into_iter().zip(found) {
        if reply.order().map_err(|trouble| trouble.to_string())?.lines.len() == 2 {
            kept.push(id);
        }
    }
    Ok(kept)
}

/// Adds orders of items without stock, and orders of users without credit.
async fn lack(endpoints: &Endpoints, room: &mut Stockroom) -> Result<(), String> {
    let items = vec![Call::CreateItem { price: PRICE }; 16];
    let users = vec![Call::CreateUser; 16];
    let empty = made(&endpoints.all("items without stock", items).await?)?;
    let broke = made(&endpoints.all("users without credit", users).await?)?;
    let plain = |number: usize| spread(number as u64, room.items, room.users);
    let no_stock = (0..LACKING).map(|number| {
        let (user, [first, _]) = plain(number);
        (user, [first, empty[number % empty.len()].clone()])
    });
    let no_stock = no_stock.collect();
    let no_credit =
        (0..LACKING).map(|number| (broke[number % broke.len()].clone(), plain(number).1));
    let no_credit = no_credit.collect();
    let no_stock = make(endpoints, "orders lacking stock", no_stock).await?;
    let no_credit = make(endpoints, "orders lacking credit", no_credit).await?;
    let buyable = room.orders.len();
    room.lacking_stock = buyable..buyable + no_stock.len();
    room.orders.extend(no_stock);
    room.lacking_credit = room.lacking_stock.end..room.lacking_stock.end + no_credit.len();
    room.orders.extend(no_credit);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_of_popularity_share_the_orders_evenly() {
        let fills = zipf(100, 64, 10);
        let shape = |call: &Call| {
            let Call::FillOrders { count, items, .. } = call else { panic!("{call:?}") };
            (*count, *items)
        };
        let shapes: Vec<_> = fills.iter().map(shape).collect();
        assert_eq!(shapes, [(100, 64), (75, 16), (50, 4), (25, 1)]);
    }

    #[test]
    fn an_order_made_one_by_one_has_two_different_items() {
        for number in 0..20 {
            for items in [1, 2, 3, 8] {
                let (_, [first, second]) = spread(number, items, 4);
                assert_ne!(first, second, "{number} of {items}");
            }
        }
    }
}
