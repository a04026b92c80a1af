//! The kinds of errors, and the reasons of refusals.

use std::{borrow::Cow, collections::BTreeMap, error::Error, fmt};

/// The kind of an error. Every error of every crate has one. Two total functions map it: to a gRPC
/// status (in `rpc`) and to an HTTP status (in `http-bridge`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ErrorKind {
    /// Malformed; the same request never succeeds.
    InvalidInput,
    /// The object of the request does not exist.
    NotFound,
    /// A definite business answer (no stock, no credit). May succeed later, when the facts have
    /// changed.
    Rejected,
    /// The object to create already exists.
    AlreadyExists,
    /// The state is not the one that the caller has seen. Read again, then decide.
    Changed,
    /// Other work is in the way, or the request is based on outdated data. Retried internally. Only
    /// a caller that made its own plan or chose shards itself sees it, and must do so again.
    Contended,
    /// Too much work at once; nothing was begun. Retry later.
    Overloaded,
    /// Something required is not available now. Retry with the same request id.
    Unavailable,
    /// The caller's time has run out. Retry with the same request id.
    Deadline,
    /// The request id belongs to another call. Never succeeds.
    RequestIdReused,
    /// The caller may not do this.
    Forbidden,
    /// A bug or damaged data; a person must look.
    Internal,
}

impl ErrorKind {
    /// All kinds, for tables.
    pub const ALL: [Self; 12] = [
        Self::InvalidInput,
        Self::NotFound,
        Self::Rejected,
        Self::AlreadyExists,
        Self::Changed,
        Self::Contended,
        Self::Overloaded,
        Self::Unavailable,
        Self::Deadline,
        Self::RequestIdReused,
        Self::Forbidden,
        Self::Internal,
    ];
}

/// An error that knows its kind and its stable reason.
pub trait Classify {
    /// The kind, which decides the status codes.
    fn kind(&self) -> ErrorKind;
    /// A stable upper-case code for programs: the `reason` of `google.rpc.ErrorInfo` and of a
    /// problem body.
    fn reason(&self) -> Cow<'static, str>;
    /// Ids and amounts for people. They travel in `ErrorInfo.metadata`, never in a REST body.
    fn metadata(&self) -> BTreeMap<String, String> {
        BTreeMap::new()
    }
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $text:literal, $kind:ident, $title:literal;)*) => {
        /// Why something was refused. Append-only: clients match on the text.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Reason {
            $($(#[$doc])* $name,)*
        }

        impl Reason {
            /// All reasons, for tables.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The stable text.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// The kind that the reason implies.
            pub const fn kind(self) -> ErrorKind {
                match self { $(Self::$name => ErrorKind::$kind,)* }
            }

            /// A sentence for people, without ids or amounts.
            pub const fn title(self) -> &'static str {
                match self { $(Self::$name => $title,)* }
            }

            /// The reason with this text; none if the text is unknown.
            pub fn parse(text: &str) -> Option<Self> {
                match text { $($text => Some(Self::$name),)* _ => None }
            }
        }
    };
}

reasons! {
    /// The available and the held units together are fewer than were asked for.
    OutOfStock = "OUT_OF_STOCK", Rejected, "There is not enough stock";
    /// The available and the held credit together are less than was asked for.
    OutOfCredit = "OUT_OF_CREDIT", Rejected, "The user does not have enough credit";
    /// An order without lines cannot be checked out.
    EmptyOrder = "EMPTY_ORDER", Rejected, "The order has no items";
    /// The order is already paid.
    AlreadyPaid = "ALREADY_PAID", Rejected, "The order has already been paid";
    /// A stored order names a user who does not exist.
    UnknownUser = "UNKNOWN_USER", Rejected, "The order's user does not exist";
    /// A stored order names an item that does not exist.
    UnknownItem = "UNKNOWN_ITEM", Rejected, "An item of the order does not exist";
    /// A sum would exceed 2^53 - 1.
    Overflow = "OVERFLOW", Rejected, "The result would be too large";
    /// The item is not in the order.
    NotInOrder = "NOT_IN_ORDER", Rejected, "The item is not in the order";
    /// There is no payment to give back.
    NotPaid = "NOT_PAID", Rejected, "There is no such payment";
    /// The order has more lines than a checkout can hold.
    OrderTooLarge = "ORDER_TOO_LARGE", Rejected, "The order has too many lines";
    /// The order changed between being read and being locked. Retried internally.
    OrderChanged = "ORDER_CHANGED", Contended, "The order has changed";
    /// The order does not match the caller's token. Nothing was tried.
    OrderModified = "ORDER_MODIFIED", Changed, "The order is not as it was seen";
    /// Another attempt of the call has already succeeded. Handled internally.
    AlreadyDone = "ALREADY_DONE", Contended, "The call has already succeeded";
    /// A Prepare asks a shard for something on another shard, because its coordinator assumes
    /// another number of shards. Retried internally.
    WrongShard = "WRONG_SHARD", Contended, "The shards have changed";
    /// No order with this id.
    OrderNotFound = "ORDER_NOT_FOUND", NotFound, "There is no such order";
    /// No item with this id.
    ItemNotFound = "ITEM_NOT_FOUND", NotFound, "There is no such item";
    /// No user with this id.
    UserNotFound = "USER_NOT_FOUND", NotFound, "There is no such user";
    /// A field cannot be converted.
    InvalidArgument = "INVALID_ARGUMENT", InvalidInput, "The request is malformed";
    /// The request id was used for another call.
    RequestIdReused = "REQUEST_ID_REUSED", RequestIdReused, "The request id was used for another call";
    /// Refused before any work began.
    Overloaded = "OVERLOADED", Overloaded, "The service is overloaded";
    /// Something that is needed is not available now.
    Unavailable = "UNAVAILABLE", Unavailable, "The service is temporarily unavailable";
    /// A decision may exist. Repeat the call with the same request id.
    OutcomeUnknown = "OUTCOME_UNKNOWN", Deadline, "The outcome is not known yet";
    /// The time in which the call could take effect is over. This attempt did nothing.
    Expired = "EXPIRED", Deadline, "The time for this call is over";
    /// The caller may not do this.
    Forbidden = "FORBIDDEN", Forbidden, "The caller may not do this";
    /// A bug or damaged data.
    Internal = "INTERNAL", Internal, "Something went wrong inside";
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A definite answer other than success, with details for people.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", reason.title())]
pub struct Refusal {
    /// The reason, for programs.
    pub reason: Reason,
    /// Ids and amounts, for people.
    pub metadata: BTreeMap<String, String>,
}

impl Refusal {
    /// A refusal without details.
    pub const fn new(reason: Reason) -> Self {
        Self { reason, metadata: BTreeMap::new() }
    }

    /// Adds a detail for people.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl fmt::Display) -> Self {
        self.metadata.insert(name.to_owned(), value.to_string());
        self
    }
}

impl Classify for Refusal {
    fn kind(&self) -> ErrorKind {
        self.reason.kind()
    }

    fn reason(&self) -> Cow<'static, str> {
        Cow::Borrowed(self.reason.as_str())
    }

    fn metadata(&self) -> BTreeMap<String, String> {
        self.metadata.clone()
    }
}

/// Formats an error and its causes on one line. Text that an error and its cause share appears
/// once.
pub fn chain(error: &dyn Error) -> String {
    let mut told = vec![error.to_string()];
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        let last = told.last().map(String::as_str).unwrap_or_default();
        if said.starts_with(last) {
            told.pop();
            told.push(said);
        } else if !last.ends_with(&said) {
            told.push(said);
        }
        cause = error.source();
    }
    told.join(": ")
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("outer")]
    struct Outer(#[source] io::Error);

    /// Its text ends with that of its cause.
    #[derive(Debug, thiserror::Error)]
    #[error("outer: {0}")]
    struct Whole(#[source] io::Error);

    #[test]
    fn a_failure_is_told_with_its_causes() {
        let error = Outer(io::Error::other("inner"));
        assert_eq!(chain(&error), "outer: inner");
        let error = Outer(io::Error::other(Outer(io::Error::other("outer: inner"))));
        assert_eq!(chain(&error), "outer: inner");
        assert_eq!(chain(&Whole(io::Error::other("inner"))), "outer: inner");
    }
}
