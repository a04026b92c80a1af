//! The parameters of paths, as they are documented. [`crate::input`] enforces their limits; a test
//! walks the edges of every documented range.

use utoipa::IntoParams;

macro_rules! parameter {
    ($(#[$doc:meta])* $holder:ident, $name:ident: $kind:ty, $($schema:tt)*) => {
        #[derive(IntoParams)]
        #[into_params(parameter_in = Path)]
        #[allow(dead_code, reason = "documents a parameter; `input` reads it")]
        pub(super) struct $holder {
            $(#[$doc])*
            #[param($($schema)*)]
            $name: $kind,
        }
    };
}

parameter! {
    /// Names an order: an opaque text of at most 128 bytes, percent-encoded where the path needs
    /// it. Orders of a batch_init are called "0", "1" and so on.
    OrderIdIn, order_id: String,
    min_length = 1, max_length = 128, pattern = r"^[^/\x00-\x1f\x7f-\x9f]+$", example = "17"
}
parameter! {
    /// Names an item: an opaque text of at most 128 bytes, percent-encoded where the path needs it.
    /// Items of a batch_init are called "0", "1" and so on.
    ItemIdIn, item_id: String,
    min_length = 1, max_length = 128, pattern = r"^[^/\x00-\x1f\x7f-\x9f]+$", example = "4"
}
parameter! {
    /// Names a user: an opaque text of at most 128 bytes, percent-encoded where the path needs it.
    /// Users of a batch_init are called "0", "1" and so on.
    UserIdIn, user_id: String,
    min_length = 1, max_length = 128, pattern = r"^[^/\x00-\x1f\x7f-\x9f]+$", example = "23"
}
parameter! {
    /// Units of an item.
    QuantityIn, quantity: u64, minimum = 1, maximum = 9_007_199_254_740_991_i64, example = 2
}
parameter! {
    /// Units of an item.
    UnitsIn, amount: u64, minimum = 1, maximum = 9_007_199_254_740_991_i64, example = 10
}
parameter! {
    /// Minor units of money.
    MoneyIn, amount: u64, minimum = 1, maximum = 9_007_199_254_740_991_i64, example = 500
}
parameter! {
    /// Minor units of money for one unit.
    PriceIn, price: u64, minimum = 0, maximum = 9_007_199_254_740_991_i64, example = 5
}
parameter! {
    /// Number of records.
    CountIn, n: u64, minimum = 0, maximum = 10_000_000, example = 1000
}
parameter! {
    /// Number of items to draw from: "0" to this number minus 1.
    ItemCountIn, n_items: u64, minimum = 1, maximum = 9_007_199_254_740_991_i64, example = 1000
}
parameter! {
    /// Number of users to draw from: "0" to this number minus 1.
    UserCountIn, n_users: u64, minimum = 1, maximum = 9_007_199_254_740_991_i64, example = 1000
}
parameter! {
    /// Minor units of money for one unit.
    ItemPriceIn, item_price: u64, minimum = 0, maximum = 9_007_199_254_740_991_i64, example = 5
}
parameter! {
    /// Units of each item.
    StartingStockIn, starting_stock: u64, minimum = 0, maximum = 9_007_199_254_740_991_i64, example = 1000
}
parameter! {
    /// Minor units of money of each user.
    StartingMoneyIn, starting_money: u64, minimum = 0, maximum = 9_007_199_254_740_991_i64, example = 1000
}
parameter! {
    /// The last segment of a problem's type.
    SlugIn, slug: String, min_length = 1, example = "out-of-stock"
}

/// A header, which the macro above does not support.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[allow(dead_code, reason = "documents a parameter; `input` reads it")]
pub(super) struct KeepLogIn {
    /// 1 keeps a step-by-step log of the checkout, which the console and `till tx explain` show.
    /// Without the header, logs are kept only of checkouts that were retried, resolved, slow or
    /// broke a rule, and of one in a thousand.
    #[param(rename = "Till-Keep-Log", pattern = "^1$", example = "1", nullable = false)]
    keep_log: Option<String>,
}

/// As [`KeepLogIn`].
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[allow(dead_code, reason = "documents a parameter; `input` reads it")]
pub(super) struct IfMatchIn {
    /// The ETag with which the order was read, or a list of ETags; `*` matches any order. The order
    /// is bought only if its content is that of one of them.
    #[param(rename = "If-Match", nullable = false)]
    if_match: Option<String>,
}
