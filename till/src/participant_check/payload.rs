//! Payloads as people write them: the message that a service takes, in protobuf's own JSON mapping.

use prost::Message as _;
use proto::{
    coordinator::v1::CheckoutPayload,
    order::v1::LockOrder,
    payment::v1::HoldCredit,
    stock::v1::{HoldStock, hold_stock},
};
use serde_json::{Map, Value};

/// A message that a service takes as its payload.
struct Kind {
    /// Its full name.
    name: &'static str,
    /// For people: an example payload, and what else it needs to get a YES.
    example: &'static str,
    /// Encodes the parsed JSON.
    encode: fn(Fields) -> FieldResult<Vec<u8>>,
}

type FieldResult<T> = Result<T, String>;

const ORDER: Kind = Kind {
    name: "till.order.v1.LockOrder",
    example: r#"{"orderId": "0", "etag": "..."}, as GetOrder tells it; with --primary"#,
    encode: |mut fields| {
        let (order_id, etag) = (fields.text("orderId")?, fields.text("etag")?);
        let version = fields.number("version")?;
        fields.end()?;
        Ok(LockOrder { order_id, version, etag }.encode_to_vec())
    },
};

const STOCK: Kind = Kind {
    name: "till.stock.v1.HoldStock",
    example: r#"{"lines": [{"itemId": "0", "quantity": "1"}]}, of an item that has ten of them"#,
    encode: |mut fields| {
        let mut lines = Vec::new();
        for mut line in fields.list("lines")? {
            let (item_id, quantity) = (line.text("itemId")?, line.number("quantity")?);
            line.end()?;
            lines.push(hold_stock::Line { item_id, quantity });
        }
        fields.end()?;
        Ok(HoldStock { lines }.encode_to_vec())
    },
};

const PAYMENT: Kind = Kind {
    name: "till.payment.v1.HoldCredit",
    example: r#"{"userId": "0", "amount": "1"}, of a user who has ten of them"#,
    encode: |mut fields| {
        let (user_id, amount) = (fields.text("userId")?, fields.number("amount")?);
        fields.end()?;
        Ok(HoldCredit { user_id, amount }.encode_to_vec())
    },
};

/// Payload of every other service that takes part in checkouts.
const CHECKOUT: Kind = Kind {
    name: "till.coordinator.v1.CheckoutPayload",
    example: r#"{"orderId": "0", "userId": "0", "totalCost": "1"}; other payloads by --payload-file"#,
    encode: |mut fields| {
        let (order_id, user_id) = (fields.text("orderId")?, fields.text("userId")?);
        let total_cost = fields.number("totalCost")?;
        fields.end()?;
        let payload = CheckoutPayload { order_id, user_id, total_cost, ..Default::default() };
        Ok(payload.encode_to_vec())
    },
};

fn of(service: &str) -> Kind {
    match service {
        "order" => ORDER,
        "stock" => STOCK,
        "payment" => PAYMENT,
        _ => CHECKOUT,
    }
}

/// Describes a payload for this service.
pub(super) fn hint(service: &str) -> String {
    let Kind { name, example, .. } = of(service);
    format!("--payload-json takes a {name} here, for instance {example}")
}

/// Encodes a JSON text as the payload for this service.
///
/// # Errors
/// What is wrong with the text, and what it should be. A retry does not help.
pub(super) fn from_json(service: &str, json: &str) -> FieldResult<Vec<u8>> {
    let Kind { name, example, encode } = of(service);
    let read = serde_json::from_str(json).map_err(|error| error.to_string());
    read.and_then(|value| encode(Fields::of(value)?)).map_err(|problem| {
        format!("--payload-json is no {name} in JSON ({problem}); for instance {example}")
    })
}

/// The fields of a message that are not read yet.
struct Fields(Map<String, Value>);

impl Fields {
    fn of(value: Value) -> FieldResult<Self> {
        match value {
            Value::Object(fields) => Ok(Self(fields)),
            other @ (Value::Null
            | Value::Bool(_)
            | Value::Number(_)
            | Value::String(_)
            | Value::Array(_)) => Err(format!("{other} is no object")),
        }
    }

    /// Takes a field by its name in JSON or in the contract. Null when it is absent.
    fn take(&mut self, name: &str) -> Value {
        let found = self.0.remove(name).or_else(|| self.0.remove(&snake_case(name)));
        found.unwrap_or_default()
    }

    fn text(&mut self, name: &str) -> FieldResult<String> {
        match self.take(name) {
            Value::Null => Ok(String::new()),
            Value::String(text) => Ok(text),
            other @ (Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_)) => {
                Err(format!("{name} is {other}, not a text"))
            }
        }
    }

    fn number(&mut self, name: &str) -> FieldResult<u64> {
        let value = self.take(name);
        let number = match &value {
            Value::Null => Some(0),
            Value::String(text) => text.parse().ok(),
            other @ (Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_)) => {
                other.as_u64()
            }
        };
        number.ok_or_else(|| format!("{name} is {value}, not an integer from 0"))
    }

    fn list(&mut self, name: &str) -> FieldResult<Vec<Self>> {
        match self.take(name) {
            Value::Null => Ok(Vec::new()),
            Value::Array(each) => each.into_iter().map(Self::of).collect(),
            other @ (Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_)) => {
                Err(format!("{name} is {other}, not a list"))
            }
        }
    }

    /// Fails when a field is left.
    fn end(self) -> FieldResult<()> {
        match self.0.keys().next() {
            Some(name) => Err(format!("it has no field {name}")),
            None => Ok(()),
        }
    }
}

/// A field's name in the contract.
fn snake_case(name: &str) -> String {
    let mut snake = String::with_capacity(name.len() + 1);
    for letter in name.chars() {
        if letter.is_ascii_uppercase() {
            snake.push('_');
        }
        snake.push(letter.to_ascii_lowercase());
    }
    snake
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_becomes_what_the_service_decodes() {
        let stock = from_json("stock", r#"{"lines": [{"itemId": "7", "quantity": "2"}]}"#);
        let held = HoldStock::decode(&*stock.unwrap()).unwrap();
        assert_eq!((held.lines[0].item_id.as_str(), held.lines[0].quantity), ("7", 2));
        // Names may be those of the contract, and numbers may be numbers.
        let payment = from_json("payment", r#"{"user_id": "7", "amount": 3}"#).unwrap();
        let held = HoldCredit::decode(&*payment).unwrap();
        assert_eq!((held.user_id.as_str(), held.amount), ("7", 3));
        let order = from_json("order", r#"{"orderId": "7", "etag": "e"}"#).unwrap();
        assert_eq!(LockOrder::decode(&*order).unwrap().etag, "e");
        let other = from_json("loyalty", r#"{"orderId": "7", "totalCost": "5"}"#).unwrap();
        assert_eq!(CheckoutPayload::decode(&*other).unwrap().total_cost, 5);
    }

    #[test]
    fn what_is_none_is_refused_with_what_it_should_be() {
        for (service, json) in [
            ("stock", ""),
            ("stock", "units"),
            ("stock", "[]"),
            ("stock", r#"{"item": "7"}"#),
            ("stock", r#"{"lines": [{"itemId": "7", "units": 1}]}"#),
            ("stock", r#"{"lines": []} more"#),
            ("payment", r#"{"userId": 7}"#),
            ("payment", r#"{"userId": "7", "amount": -1}"#),
        ] {
            let said = from_json(service, json).unwrap_err();
            let helps = said.contains(of(service).name) && said.contains("for instance");
            assert!(helps, "{json}: {said}");
        }
    }
}
