use tonic_types::StatusExt as _;
use types::Refusal;

use super::*;

#[derive(Debug)]
struct Sample {
    kind: ErrorKind,
    reason: &'static str,
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the text")
    }
}

impl Classify for Sample {
    fn kind(&self) -> ErrorKind {
        self.kind
    }

    fn reason(&self) -> Cow<'static, str> {
        self.reason.into()
    }

    fn metadata(&self) -> BTreeMap<String, String> {
        BTreeMap::from([("item_id".to_owned(), "7".to_owned())])
    }
}

fn sample(kind: ErrorKind) -> Sample {
    // These kinds share their code with a more common one, so only the reason tells them apart.
    let reason = if kind == ErrorKind::RequestIdReused {
        Reason::RequestIdReused.as_str()
    } else if kind == ErrorKind::Changed {
        Reason::OrderModified.as_str()
    } else {
        "SAMPLE"
    };
    Sample { kind, reason }
}

#[test]
fn the_code_of_every_kind_is_golden() {
    let lines = ErrorKind::ALL.map(|kind| {
        let retry = retry_after(kind).map_or("-", |_| "retry");
        format!("{kind:?} {:?} {retry}\n", code(kind))
    });
    let table = lines.concat();
    assert_eq!(
        table,
        "InvalidInput InvalidArgument -\n\
         NotFound NotFound -\n\
         Rejected FailedPrecondition -\n\
         AlreadyExists AlreadyExists -\n\
         Changed FailedPrecondition -\n\
         Contended Aborted -\n\
         Overloaded ResourceExhausted retry\n\
         Unavailable Unavailable retry\n\
         Deadline DeadlineExceeded retry\n\
         RequestIdReused AlreadyExists -\n\
         Forbidden PermissionDenied -\n\
         Internal Internal -\n"
    );
}

#[test]
fn every_kind_comes_back_as_it_went() {
    for kind in ErrorKind::ALL {
        let error = sample(kind);
        let failure = Failure::from_status(&to_status(&error));
        assert_eq!(failure.kind, kind);
        assert_eq!(failure.reason, error.reason);
        assert_eq!(failure.metadata, error.metadata());
        assert_eq!(failure.retry_after, retry_after(kind));
        // It stays the same when a caller in the middle passes it on.
        assert_eq!(Failure::from_status(&to_status(&failure)), failure);
    }
}

#[test]
fn every_reason_of_a_refusal_comes_back_as_it_went() {
    for reason in Reason::ALL {
        let refusal = Refusal::new(*reason).with("order_id", "42");
        let failure = Failure::from_status(&to_status(&refusal));
        assert_eq!(Reason::parse(&failure.reason), Some(*reason));
        assert_eq!(failure.kind, reason.kind());
        assert_eq!(failure.metadata["order_id"], "42");
    }
}

#[test]
fn the_text_of_an_internal_error_stays_inside() {
    let status = to_status(&sample(ErrorKind::Internal));
    assert_eq!(status.message(), Reason::Internal.title());
    assert_eq!(to_status(&sample(ErrorKind::Rejected)).message(), "the text");
}

#[test]
fn a_malformed_field_is_named() {
    let status = invalid_field("quantity", "must be at least 1");
    assert_eq!(status.code(), Code::InvalidArgument);
    assert_eq!(status.message(), "quantity must be at least 1");
    let failure = Failure::from_status(&status);
    assert_eq!(failure.reason, "INVALID_ARGUMENT");
    assert_eq!(failure.fields, [("quantity".to_owned(), "must be at least 1".to_owned())]);
}

#[test]
fn other_clients_read_the_details() {
    let status = to_status(&sample(ErrorKind::Overloaded));
    let details = status.get_error_details();
    let info = details.error_info().unwrap();
    assert_eq!((info.reason.as_str(), info.domain.as_str()), ("SAMPLE", "till"));
    assert_eq!(info.metadata["item_id"], "7");
    assert_eq!(details.retry_info().unwrap().retry_delay, Some(RETRY_AFTER));
    let status = invalid_field("price", "is missing");
    let violations = status.get_error_details().bad_request().unwrap().field_violations.clone();
    assert_eq!(violations[0].field, "price");
}

#[test]
fn the_same_error_is_the_same_bytes() {
    let refusal = || {
        ["e", "d", "c", "b", "a"]
            .iter()
            .fold(Refusal::new(Reason::OutOfStock), |refusal, name| refusal.with(name, 1))
    };
    let first = to_status(&refusal());
    for _ in 0..20 {
        assert_eq!(to_status(&refusal()).details(), first.details());
    }
}

#[test]
fn a_bare_status_is_read_by_its_code() {
    let kind = |status: Status| Failure::from_status(&status).kind;
    assert_eq!(kind(Status::unavailable("gone")), ErrorKind::Unavailable);
    assert_eq!(kind(Status::internal("oops")), ErrorKind::Internal);
    assert_eq!(kind(Status::cancelled(EXPIRED)), ErrorKind::Deadline);
    assert_eq!(kind(Status::cancelled("")), ErrorKind::Unavailable);
    let broken = Status::from_error("connection reset".into());
    assert_eq!(kind(broken), ErrorKind::Unavailable);
    let foreign = ErrorInfo {
        reason: "REQUEST_ID_REUSED".to_owned(),
        domain: "elsewhere".to_owned(),
        metadata: BTreeMap::new(),
    };
    let body = details::Status {
        code: Code::AlreadyExists.into(),
        message: String::new(),
        details: vec![details::pack(&foreign)],
    };
    let status = Status::with_details(Code::AlreadyExists, "", body.encode_to_vec().into());
    assert_eq!(kind(status), ErrorKind::AlreadyExists);
}

#[test]
fn a_known_reason_under_the_code_of_another_kind_does_not_decide() {
    let refusal = to_status(&Refusal::new(Reason::OutOfStock));
    let status = Status::with_details(Code::Unavailable, "", refusal.details().to_vec().into());
    assert_eq!(Failure::from_status(&status).kind, ErrorKind::Unavailable);
}

#[test]
fn damaged_details_leave_the_code() {
    let status = Status::with_details(Code::NotFound, "no", vec![0xff, 0xff, 0xff].into());
    assert_eq!(Failure::from_status(&status).kind, ErrorKind::NotFound);
}
