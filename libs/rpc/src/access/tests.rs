use super::*;

fn peer(identity: &str) -> Peer {
    Peer(Some(identity.parse().unwrap()))
}

/// One method for each case of the table, with everyone who may call it.
const EDGES: &[(&str, &[&str])] = &[
    ("till.order.v1.OrderService/GetOrder", &["http-bridge", "client/x", "coordinator"]),
    ("till.order.v1.OrderService/AddItem", &["http-bridge", "client/x"]),
    ("till.order.v1.OrderService/BatchInit", &["http-bridge", "client/x"]),
    ("till.stock.v1.StockService/GetItem", &["http-bridge", "client/x", "order"]),
    ("till.stock.v1.StockService/SubtractStock", &["http-bridge", "client/x"]),
    ("till.payment.v1.PaymentService/GetUser", &["http-bridge", "client/x"]),
    ("till.payment.v1.PaymentService/Pay", &["http-bridge", "client/x"]),
    ("till.coordinator.v1.CoordinatorService/Checkout", &["http-bridge", "client/x"]),
    ("till.coordinator.v1.CoordinatorService/ClaimRequestId", &["http-bridge", "client/x"]),
    (
        "till.coordinator.v1.CoordinatorService/Resolve",
        &["order", "stock", "payment", "participant/x"],
    ),
    ("till.coordinator.v1.TransactionService/RunTransaction", &["client/x"]),
    ("till.coordinator.v1.TransactionService/ExplainTransaction", &["operator/x", "http-bridge"]),
    ("till.coordinator.v1.TransactionService/ListUnresolved", &["operator/x", "http-bridge"]),
    ("till.coordinator.v1.TransactionService/ResolveById", &["operator/x", "http-bridge"]),
    (
        "till.participant.v1.ParticipantService/Describe",
        &["http-bridge", "client/x", "order", "coordinator", "operator/x"],
    ),
    ("till.participant.v1.ParticipantService/Prepare", &["coordinator"]),
    ("till.participant.v1.ParticipantService/Commit", &["coordinator"]),
    ("till.participant.v1.ParticipantService/Abort", &["coordinator"]),
    ("till.participant.v1.ParticipantService/Query", &["coordinator"]),
    ("till.participant.v1.ParticipantService/Forget", &["coordinator"]),
    ("till.participant.v1.ParticipantService/Apply", &["coordinator"]),
    ("till.bundle.v1.BundleService/Call", &["http-bridge"]),
];

const EVERYBODY: [&str; 8] = [
    "order",
    "stock",
    "payment",
    "coordinator",
    "http-bridge",
    "participant/x",
    "client/x",
    "operator/x",
];

#[test]
fn each_edge_is_open_to_those_who_need_it_and_closed_to_all_others() {
    for (method, allowed) in EDGES {
        let path = format!("/{method}");
        for caller in EVERYBODY {
            let checked = check(Some(&peer(caller)), &path);
            assert_eq!(checked.is_ok(), allowed.contains(&caller), "{caller} -> {method}");
        }
        assert!(check(Some(&Peer(None)), &path).is_err(), "nobody -> {method}");
        assert!(check(None, &path).is_err(), "unknown -> {method}");
    }
}

#[test]
fn what_the_table_does_not_name_is_refused() {
    for path in [
        "/till.order.v2.OrderService/GetOrder",
        "/till.order.v1.OrderServiceX/GetOrder",
        "/",
        "",
        "till.order.v1.OrderService/GetOrder",
        "/grpc.health.v1.HealthX/Check",
        "/grpc.channelz.v1.Channelz/GetServers",
        // No role's package.
        "/till.loyalty.v1.LoyaltyService/Award",
    ] {
        for caller in EVERYBODY {
            assert!(check(Some(&peer(caller)), path).is_err(), "{caller} -> {path}");
        }
    }
}

#[test]
fn health_and_reflection_are_free() {
    for path in [
        "/grpc.health.v1.Health/Check",
        "/grpc.health.v1.Health/Watch",
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    ] {
        assert!(check(None, path).is_ok(), "{path}");
        assert!(check(Some(&Peer(None)), path).is_ok(), "{path}");
    }
}

#[test]
fn identities_are_read_exactly() {
    for text in EVERYBODY {
        assert_eq!(text.parse::<Identity>().unwrap().to_string(), text);
    }
    let long = format!("operator/{}", "a".repeat(65));
    for text in [
        "",
        "Order",
        "order/",
        "order/x",
        "participant",
        "participant/",
        "participant/a/b",
        "participant/a b",
        "operator/é",
        "coordinator ",
        &long,
    ] {
        assert!(text.parse::<Identity>().is_err(), "{text:?}");
    }
}

#[test]
fn the_store_is_open_to_those_who_keep_data_there_and_to_operators() {
    for caller in EVERYBODY {
        let may = ["order", "stock", "payment", "coordinator", "operator/x"].contains(&caller);
        let checked = check_store(&caller.parse().unwrap());
        assert_eq!(checked.is_ok(), may, "{caller}");
    }
}

#[test]
fn only_names_of_the_trust_domain_count() {
    let read = |uri| Identity::from_uri(uri, "till");
    assert_eq!(read("spiffe://till/order"), Some("order".parse()));
    assert_eq!(read("spiffe://till/nobody"), Some("nobody".parse()));
    for foreign in [
        "spiffe://tilly/order",
        "spiffe://evil/till/order",
        "spiffe://till.evil/order",
        "spiffe://till",
        "https://till/order",
        "SPIFFE://till/order",
        "order",
    ] {
        assert_eq!(read(foreign), None, "{foreign}");
    }
}
