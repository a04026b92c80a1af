//! Turns an order into a plan: the branches, and what each must set aside.

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message;
use proto::{
    InvalidField,
    convert::{self, BRANCHES_MAX},
    coordinator::v1::{CheckoutPayload, checkout_payload},
    order::v1::{LockOrder, Order},
    payment::v1::HoldCredit,
    stock::v1::{HoldStock, hold_stock},
};
use types::{
    Branch, ItemId, OrderId, Quantity, Reason, Refusal, Role, Service, ShardId, UserId, shard_of,
};

/// The number of shards of each service.
#[derive(Debug, Clone)]
pub struct Shards {
    /// Of the order service.
    pub order: u16,
    /// Of the stock service.
    pub stock: u16,
    /// Of the payment service.
    pub payment: u16,
    /// Of each other participant in checkouts.
    pub others: Vec<(Service, u16)>,
}

/// The services that have messages of their own for a checkout. Others get a [`CheckoutPayload`].
pub(crate) const PLANNED: [Role; 3] = [Role::Order, Role::Stock, Role::Payment];

/// The services of a checkout.
#[derive(Debug, Clone)]
pub struct Services {
    /// The order service, whose branch is the primary.
    pub order: Service,
    /// The stock service, with a branch for each shard that holds one of the items.
    pub stock: Service,
    /// The payment service, with one branch for the user.
    pub payment: Service,
}

impl Services {
    /// The [`PLANNED`] services, under their published names.
    pub fn named() -> Self {
        let [order, stock, payment] = PLANNED.map(Service::from);
        Self { order, stock, payment }
    }

    /// The branch that holds an order.
    pub fn order_branch(&self, order_id: &OrderId, shards: &Shards) -> Branch {
        let shard = shard_of(order_id.as_str(), shards.order);
        Branch { service: self.order.clone(), shard }
    }
}

/// Branches, the primary first, each with its payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The participants; the primary comes first.
    pub branches: Vec<Branch>,
    /// The payload of each branch, in the same order.
    pub payloads: Vec<Bytes>,
}

/// Why an order has no plan.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// The order cannot be bought, for a business reason.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The order service sent a field that does not convert.
    #[error("the order does not convert")]
    Invalid(#[from] InvalidField),
}

/// Makes the plan to buy an order as it was read.
///
/// # Errors
/// [`PlanError`]; a retry helps only after the order has changed.
pub fn of(order: &Order, services: &Services, shards: &Shards) -> Result<Plan, PlanError> {
    let order_id: OrderId = convert::order_id("order_id", &order.order_id)?;
    let user_id: UserId = convert::user_id("user_id", &order.user_id)?;
    if order.lines.is_empty() {
        return Err(Refusal::new(Reason::EmptyOrder).with("order_id", order_id).into());
    }
    let lock = LockOrder {
        order_id: order_id.to_string(),
        version: order.version,
        etag: order.etag.clone(),
    };
    let hold = HoldCredit { user_id: user_id.to_string(), amount: order.total_cost };
    let mut plan = Plan { branches: Vec::new(), payloads: Vec::new() };
    let order_shard = shard_of(order_id.as_str(), shards.order);
    plan.add(&services.order, order_shard, &lock);
    for (shard, hold) in stock_by_shard(order, shards.stock)? {
        plan.add(&services.stock, shard, &hold);
    }
    plan.add(&services.payment, shard_of(user_id.as_str(), shards.payment), &hold);
    if !shards.others.is_empty() {
        let payload = payload_of(order);
        for (service, shards) in &shards.others {
            plan.add(service, shard_of(user_id.as_str(), *shards), &payload);
        }
    }
    if plan.branches.len() > BRANCHES_MAX {
        return Err(Refusal::new(Reason::OrderTooLarge).with("order_id", order_id).into());
    }
    Ok(plan)
}

impl Plan {
    fn add(&mut self, service: &Service, shard: ShardId, payload: &impl Message) {
        self.branches.push(Branch { service: service.clone(), shard });
        self.payloads.push(payload.encode_to_vec().into());
    }
}

/// The payload for participants without a message of their own.
fn payload_of(order: &Order) -> CheckoutPayload {
    let lines = order.lines.iter().map(|line| checkout_payload::Line {
        item_id: line.item_id.clone(),
        quantity: line.quantity,
        price: line.price,
    });
    CheckoutPayload {
        order_id: order.order_id.clone(),
        user_id: order.user_id.clone(),
        total_cost: order.total_cost,
        lines: lines.collect(),
    }
}

/// What each shard of stock must set aside. Lines of the same item are summed.
fn stock_by_shard(order: &Order, shards: u16) -> Result<BTreeMap<ShardId, HoldStock>, PlanError> {
    let mut wanted: BTreeMap<ItemId, Quantity> = BTreeMap::new();
    for line in &order.lines {
        let item_id = convert::item_id("lines.item_id", &line.item_id)?;
        let quantity = convert::quantity("lines.quantity", line.quantity, 1)?;
        let sum = wanted.entry(item_id).or_insert(Quantity::ZERO);
        *sum = sum.checked_add(quantity).ok_or_else(|| Refusal::new(Reason::Overflow))?;
    }
    let mut holds: BTreeMap<ShardId, HoldStock> = BTreeMap::new();
    for (item_id, quantity) in wanted {
        let shard = shard_of(item_id.as_str(), shards);
        let line = hold_stock::Line { item_id: item_id.to_string(), quantity: quantity.get() };
        holds.entry(shard).or_default().lines.push(line);
    }
    Ok(holds)
}

#[cfg(test)]
mod tests {
    use proto::order::v1::order::Line;

    use super::*;

    const SHARDS: Shards = Shards { order: 4, stock: 4, payment: 4, others: Vec::new() };

    fn line(item_id: &str, quantity: u64) -> Line {
        Line { item_id: item_id.to_owned(), quantity, price: 1 }
    }

    fn order(lines: Vec<Line>) -> Order {
        Order {
            order_id: "o".to_owned(),
            user_id: "u".to_owned(),
            lines,
            total_cost: 7,
            version: 9,
            ..Order::default()
        }
    }

    #[test]
    fn the_order_is_the_primary_and_lines_of_one_item_are_summed() {
        let order = order(vec![line("a", 1), line("b", 2), line("a", 3)]);
        let plan = of(&order, &Services::named(), &SHARDS).unwrap();
        let services: Vec<_> = plan.branches.iter().map(|branch| branch.service.as_str()).collect();
        assert_eq!(services.first(), Some(&"order"));
        assert_eq!(services.last(), Some(&"payment"));
        let mut held = Vec::new();
        for (branch, payload) in plan.branches.iter().zip(&plan.payloads) {
            if branch.service.as_str() == "stock" {
                for line in HoldStock::decode(payload.clone()).unwrap().lines {
                    assert_eq!(branch.shard, shard_of(&line.item_id, 4));
                    held.push((line.item_id, line.quantity));
                }
            }
        }
        held.sort();
        assert_eq!(held, [("a".to_owned(), 4), ("b".to_owned(), 2)]);
    }

    #[test]
    fn an_extra_participant_gets_the_order() {
        let loyalty = Service::new("loyalty").unwrap();
        let shards = Shards { others: vec![(loyalty.clone(), 8)], ..SHARDS };
        let order = order(vec![line("a", 1), line("b", 2), line("a", 3)]);
        let plan = of(&order, &Services::named(), &shards).unwrap();
        let branch = plan.branches.last().unwrap();
        assert_eq!((&branch.service, branch.shard), (&loyalty, shard_of("u", 8)));
        let payload = CheckoutPayload::decode(plan.payloads.last().unwrap().clone()).unwrap();
        assert_eq!((payload.user_id.as_str(), payload.total_cost), ("u", 7));
        assert_eq!(payload.lines.len(), 3);
    }

    #[test]
    fn more_branches_than_a_transaction_may_have_are_refused() {
        let order = order((0..1_000).map(|number| line(&number.to_string(), 1)).collect());
        let shards = Shards { stock: 4_096, ..SHARDS };
        let Err(PlanError::Refused(refusal)) = of(&order, &Services::named(), &shards) else {
            panic!("a plan of more than {BRANCHES_MAX} branches");
        };
        assert_eq!(refusal.reason, Reason::OrderTooLarge);
        assert!(of(&order, &Services::named(), &SHARDS).is_ok());
    }

    #[test]
    fn an_empty_order_is_refused() {
        let refused = of(&order(Vec::new()), &Services::named(), &SHARDS).unwrap_err();
        let PlanError::Refused(refusal) = refused else { panic!("{refused:?}") };
        assert_eq!(refusal.reason, Reason::EmptyOrder);
    }
}
