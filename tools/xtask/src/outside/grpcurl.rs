//! grpcurl: uses reflection, and calls every service with JSON, like a person at a shell.

use std::{path::Path, process::Command};

use serde_json::{Value, json};

use super::go::Module;
use crate::{
    command,
    report::{Outcome, Part, Tally},
    roles::{self, Role},
    shop::Shop,
    workspace::Workspace,
};

pub(crate) const GRPCURL: Module =
    Module::new("github.com/fullstorydev/grpcurl", "v1.9.3", &["./cmd/grpcurl"]);

/// Installs grpcurl if it is missing, then makes the calls.
pub(super) fn check(workspace: &Workspace, shop: &Shop) -> Part {
    let Some(program) = GRPCURL.program(workspace)? else {
        return Ok(Outcome::NotRun("go is not installed".to_owned()));
    };
    let grpc = Grpcurl { program: &program, shop };
    let mut tally = Tally::default();
    for Role { name, services, .. } in roles::grpc() {
        tally.check(name, grpc.lists(name, services));
    }
    tally.check("a checkout in JSON", grpc.buys());
    tally.check("a refusal in JSON", grpc.is_refused());
    tally.check("an unknown item", grpc.names_what_is_missing());
    Ok(Outcome::Ran(tally))
}

struct Grpcurl<'a> {
    program: &'a Path,
    shop: &'a Shop,
}

impl Grpcurl<'_> {
    fn run(&self, role: &str, before: &[&str], after: &[&str]) -> Result<(bool, String), String> {
        let mut command = Command::new(self.program);
        command.args(["-plaintext", "-max-time", "20"]).args(before);
        command.arg(self.shop.address(role)?).args(after);
        command::quietly(&mut command)
    }

    /// Calls a method; returns the answer, or grpcurl's text about the refusal.
    fn call(&self, role: &str, method: &str, request: &Value) -> Result<Value, String> {
        let data = request.to_string();
        let (succeeded, text) = self.run(role, &["-emit-defaults", "-d", &data], &[method])?;
        if succeeded {
            serde_json::from_str(&text).map_err(|error| format!("{method}: {error}: {text}"))
        } else {
            Err(text)
        }
    }

    /// Makes a call that must be refused; returns grpcurl's text about it.
    fn refused(&self, role: &str, method: &str, request: &Value) -> Result<String, String> {
        match self.call(role, method, request) {
            Ok(answer) => Err(format!("{method} was not refused: {answer}")),
            Err(text) => Ok(text),
        }
    }

    fn lists(&self, role: &str, services: &[&str]) -> Result<(), String> {
        let (_, listed) = self.run(role, &[], &["list"])?;
        for service in services {
            expect(&listed, service)?;
            let (_, described) = self.run(role, &[], &["describe", service])?;
            expect(&described, &format!("{service} is a service"))?;
        }
        let health = "grpc.health.v1.Health/Check";
        let answer = self.call(role, health, &json!({"service": services[0]}))?;
        equal("status", &answer["status"], &json!("SERVING"))?;
        if services.contains(&"till.participant.v1.ParticipantService") {
            let method = "till.participant.v1.ParticipantService/Describe";
            let described = self.call(role, method, &json!({}))?;
            equal("service", &described["service"], &json!(role))?;
        }
        Ok(())
    }

    /// Makes an order of one item for a user with this credit; returns order, item and user.
    fn order(&self, credit: u64) -> Result<[Value; 3], String> {
        let stock = |method: &str, request: Value| {
            self.call("stock", &format!("till.stock.v1.StockService/{method}"), &request)
        };
        let payment = |method: &str, request: Value| {
            self.call("payment", &format!("till.payment.v1.PaymentService/{method}"), &request)
        };
        let order = |method: &str, request: Value| {
            self.call("order", &format!("till.order.v1.OrderService/{method}"), &request)
        };
        let item = stock("CreateItem", json!({"price": 5}))?["itemId"].clone();
        stock("AddStock", json!({"itemId": item, "amount": 3}))?;
        let user = payment("CreateUser", json!({}))?["userId"].clone();
        if credit > 0 {
            payment("AddFunds", json!({"userId": user, "amount": credit}))?;
        }
        let made = order("CreateOrder", json!({"userId": user}))?["orderId"].clone();
        let line = json!({"orderId": made, "itemId": item, "quantity": 2});
        let added = order("AddItem", line)?;
        equal("total cost", &added["totalCost"], &json!("10"))?;
        Ok([made, item, user])
    }

    fn buys(&self) -> Result<(), String> {
        let [order, item, user] = self.order(25)?;
        let checkout = "till.coordinator.v1.CoordinatorService/Checkout";
        let request = json!({"orderId": order});
        let bought = self.call("coordinator", checkout, &request)?;
        equal("already paid", &bought["alreadyPaid"], &json!(false))?;
        let again = self.call("coordinator", checkout, &request)?;
        equal("already paid", &again["alreadyPaid"], &json!(true))?;
        self.finds(&order, true, &item, "1", &user, "15")
    }

    fn is_refused(&self) -> Result<(), String> {
        let [order, item, user] = self.order(9)?;
        let checkout = "till.coordinator.v1.CoordinatorService/Checkout";
        let text = self.refused("coordinator", checkout, &json!({"orderId": order}))?;
        expect(&text, "FailedPrecondition")?;
        expect(&text, "OUT_OF_CREDIT")?;
        self.finds(&order, false, &item, "3", &user, "9")
    }

    fn finds(
        &self,
        order: &Value,
        paid: bool,
        item: &Value,
        stock: &str,
        user: &Value,
        credit: &str,
    ) -> Result<(), String> {
        let method = "till.order.v1.OrderService/GetOrder";
        let found = self.call("order", method, &json!({"orderId": order}))?;
        equal("paid", &found["order"]["paid"], &json!(paid))?;
        let method = "till.stock.v1.StockService/GetItem";
        let found = self.call("stock", method, &json!({"itemId": item}))?;
        equal("stock", &found["item"]["stock"], &json!(stock))?;
        let method = "till.payment.v1.PaymentService/GetUser";
        let found = self.call("payment", method, &json!({"userId": user}))?;
        equal("credit", &found["user"]["credit"], &json!(credit))
    }

    fn names_what_is_missing(&self) -> Result<(), String> {
        let method = "till.stock.v1.StockService/GetItem";
        let text = self.refused("stock", method, &json!({"itemId": "no-such-item"}))?;
        expect(&text, "NotFound")?;
        expect(&text, "ITEM_NOT_FOUND")?;
        let text = self.refused("stock", method, &json!({"itemId": ""}))?;
        expect(&text, "InvalidArgument")?;
        expect(&text, "item_id")
    }
}

fn expect(text: &str, part: &str) -> Result<(), String> {
    if text.contains(part) { Ok(()) } else { Err(format!("no `{part}` in: {text}")) }
}

fn equal(what: &str, found: &Value, wanted: &Value) -> Result<(), String> {
    if found == wanted { Ok(()) } else { Err(format!("{what} is {found}, not {wanted}")) }
}
