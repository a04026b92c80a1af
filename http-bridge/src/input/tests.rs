use super::*;

fn input(template: &str, path: &str) -> Input {
    Input {
        method: Method::POST,
        template: template.to_owned(),
        parameters: parameters(template, path),
        key: None,
        repeated: false,
        keep_log: None,
        if_match: None,
        arrived: Instant::now(),
        caller: Caller::default(),
    }
}

#[test]
fn percent_decoding_is_strict() {
    for (text, decoded) in [
        ("abc", Some("abc")),
        ("a%20b", Some("a b")),
        ("%C3%A9", Some("é")),
        ("a%2Fb", Some("a/b")),
        ("%", None),
        ("a%2", None),
        ("a%zz", None),
        ("%+1", None),
        ("%C3", None),
        ("%é0", None),
    ] {
        assert_eq!(decode(text).as_deref(), decoded, "{text:?}");
    }
}

#[test]
fn two_spellings_of_a_path_are_one_call() {
    let template = "/stock/add/{item_id}/{amount}";
    let call = |path| {
        let mut input = input(template, path);
        input.amount("amount").unwrap();
        input.call()
    };
    assert_eq!(call("/stock/add/a%62/0007"), "POST /stock/add/ab/7");
    assert_eq!(call("/stock/add/ab/7"), "POST /stock/add/ab/7");
}

#[test]
fn a_call_fits_what_the_coordinator_takes() {
    let id = "x".repeat(types::id::ID_LEN_MAX);
    let path = format!("/payment/pay/{id}/{id}/{AMOUNT_MAX}");
    let input = input("/payment/pay/{user_id}/{order_id}/{amount}", &path);
    assert!(input.call().len() <= 1024);
}

#[test]
fn numbers_are_plain_and_in_range() {
    let number = |text: &str| {
        let mut input = input("/stock/batch_init/{n}", &format!("/stock/batch_init/{text}"));
        input.count().map_err(|problem| problem.body().detail)
    };
    assert_eq!(number("0"), Ok(0));
    assert_eq!(number("10000000"), Ok(10_000_000));
    assert_eq!(number("10000001"), Err("n must be at most 10000000".to_owned()));
    assert_eq!(number("9007199254740992"), Err("n must be at most 10000000".to_owned()));
    assert_eq!(number("1e3"), Err("n must be a plain decimal integer".to_owned()));
    assert_eq!(number("%C3"), Err("n must be percent-encoded UTF-8".to_owned()));
}

#[test]
fn a_trusted_correlation_id_comes_second() {
    let mut headers = HeaderMap::new();
    headers.insert(X_REQUEST_ID, HeaderValue::from_static("correlation"));
    assert_eq!(key(&headers, false), (None, false));
    let (found, repeated) = key(&headers, true);
    assert_eq!((found.unwrap().1, repeated), (HeaderValue::from_static("correlation"), false));
    headers.append(IDEMPOTENCY_KEY, HeaderValue::from_static("one"));
    headers.append(IDEMPOTENCY_KEY, HeaderValue::from_static("two"));
    let (found, repeated) = key(&headers, true);
    assert_eq!((found.unwrap().1, repeated), (HeaderValue::from_static("one"), true));
}
