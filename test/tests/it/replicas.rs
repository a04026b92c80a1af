//! Which silence makes a role pass a replica over, and which does not.

use std::{sync::Arc, time::Duration};

use http::StatusCode;
use testkit::{MemKv, TokioClock};
use types::Clock;

use crate::in_process::Shop;

/// The price of an item waits for a transaction that is about to change the item, for longer than
/// order asks once.
#[tokio::test(start_paused = true)]
async fn a_replica_whose_price_waits_keeps_its_shards() {
    let clock: Arc<dyn Clock> = Arc::new(TokioClock::default());
    let shop = Shop::open(&MemKv::new(Arc::clone(&clock)), &clock);
    tokio::time::sleep(Duration::from_secs(5)).await;
    let id = async |call, field: &str| {
        let (status, body) = shop.call(call, "").await;
        assert_eq!(status, StatusCode::OK, "{body}");
        serde_json::from_str::<serde_json::Value>(&body).unwrap()[field]
            .to_string()
            .replace('"', "")
    };
    let item = id("POST /stock/item/create/2", "item_id").await;
    let order = id("POST /orders/create/u", "order_id").await;
    shop.hang("/till.stock.v1.StockService/GetItem");
    let add = format!("POST /orders/addItem/{order}/{item}/1");
    let (status, body) = shop.call(&add, "").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{body}");
    assert_eq!(shop.replicas_that_hung(), 1);
}
