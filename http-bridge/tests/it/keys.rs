//! Who may change anything when the bridge asks for a key.

use std::fs;

use http_bridge::key::Keys;
use tempfile::TempDir;

use crate::shop::Front;

pub(crate) const KEY: &str = "a-key-of-this-test";

/// Makes the bridge ask for [`KEY`]. Its file is in the directory.
pub(crate) fn guard(front: &Front) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("keys");
    fs::write(&path, KEY).unwrap();
    front.bridge.guard(Keys::load(&path).unwrap());
    directory
}

fn guarded() -> (Front, TempDir) {
    let front = Front::filled();
    let directory = guard(&front);
    (front, directory)
}

/// One call of every kind that changes something.
const CHANGES: [&str; 16] = [
    "POST /orders/create/1",
    "POST /orders/addItem/1/1/1",
    "POST /orders/addItem/1/1",
    "DELETE /orders/removeItem/1/0",
    "DELETE /orders/remove/1",
    "POST /orders/checkout/1",
    "POST /orders/batch_init/1/1/1/1",
    "POST /stock/item/create/1",
    "POST /stock/add/1/1",
    "POST /stock/subtract/1/1",
    "POST /stock/batch_init/1/1/1",
    "POST /payment/create_user",
    "POST /payment/add_funds/1/1",
    "POST /payment/pay/1/1",
    "POST /payment/batch_init/1/1",
    "POST /nowhere",
];

#[tokio::test]
async fn calls_that_change_something_need_the_key() {
    let (front, _directory) = guarded();
    for call in CHANGES {
        for headers in [
            &[][..],
            &[("authorization", "Bearer another-key-of-this-test")],
            &[("authorization", KEY)],
            &[("x-api-key", KEY)],
        ] {
            let answer = front.call_with(call, headers).await;
            assert_eq!(answer.outcome(), (401, "NO_API_KEY".to_owned()), "{call} {headers:?}");
            assert_eq!(answer.header("www-authenticate"), "Bearer");
        }
    }
    assert!(!front.world.state().orders["1"].paid);
    assert_eq!(front.world.state().items["1"].stock, 10);
}

#[tokio::test]
async fn the_key_opens_them() {
    let (front, _directory) = guarded();
    let told = format!("Bearer {KEY}");
    let answer = front.call_with("POST /orders/checkout/1", &[("authorization", &told)]).await;
    assert_eq!(answer.status, 200);
    let answer = front.call_with("POST /nowhere", &[("authorization", &told)]).await;
    assert_eq!(answer.status, 404);
}

#[tokio::test]
async fn reading_is_free() {
    let (front, _directory) = guarded();
    for call in ["GET /orders/find/1", "HEAD /stock/find/1", "GET /healthz", "GET /openapi.json"] {
        assert_eq!(front.call(call).await.status, 200, "{call}");
    }
}

#[tokio::test]
async fn without_keys_everybody_may_call() {
    let front = Front::filled();
    let answer = front.call_with("POST /orders/checkout/1", &[("authorization", "Bearer x")]).await;
    assert_eq!(answer.status, 200);
}
