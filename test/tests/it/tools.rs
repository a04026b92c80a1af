//! What the command-line tools say when they get no answer.
//!
//! Goal: the error names what to look at, and a script can tell by the exit code. Method: the
//! executable itself, against a shop and against a port where nothing listens.

use std::net::{Ipv4Addr, TcpListener};

use system_test::process::{Shop, till};

/// The exit code and the standard error of a command, which must print nothing on standard output.
fn failed(args: &[&str]) -> (Option<i32>, String) {
    let output = till(args);
    assert!(output.stdout.is_empty(), "{}", String::from_utf8_lossy(&output.stdout));
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn an_unanswered_question_names_the_coordinator_that_was_asked() {
    // A port that was free just now, so that nothing else listens there.
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
    let coordinator = free.to_string();
    for question in [
        &["explain", "NOBODY"][..],
        &["list"],
        &["resolve", "01010101-0101-0101-0101-010101010101"],
    ] {
        let asked = [&["tx"][..], question, &["--coordinator", &coordinator][..]].concat();
        let (code, said) = failed(&asked);
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains(&format!("coordinator {coordinator}: ")), "{said}");
        assert!(said.contains("Connection refused"), "{said}");
    }
}

#[test]
fn explaining_an_unknown_transaction_is_a_failure() {
    let shop = Shop::start();
    let coordinator = shop.address("coordinator");
    for subject in ["NOBODY", "01010101-0101-0101-0101-010101010101"] {
        let (code, said) = failed(&["tx", "explain", subject, "--coordinator", &coordinator]);
        assert_eq!(code, Some(1), "{said}");
        let address = coordinator.trim_start_matches("http://");
        assert!(said.contains(&format!("coordinator {address}: ")), "{said}");
    }
}

#[test]
fn the_limits_on_the_page_are_those_in_force() {
    let docs = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/");
    let page = |name: &str| std::fs::read_to_string(format!("{docs}{name}")).unwrap();
    let (rest, grpc) = (page("rest.md"), page("grpc.md"));
    let grouped = |number: u64| {
        let digits = number.to_string();
        let groups: Vec<&str> = digits
            .as_bytes()
            .rchunks(3)
            .rev()
            .map(|group| str::from_utf8(group).unwrap())
            .collect();
        groups.join(",")
    };
    let kib = |bytes: usize| bytes / 1024;
    assert_eq!(types::AMOUNT_MAX, (1 << 53) - 1);
    for line in [
        format!("| an id | {} bytes |", types::id::ID_LEN_MAX),
        "| an amount, a price, a quantity | 2^53 - 1 |".to_owned(),
        "| the units of an item, the credit of a user | 2^53 - 1 at a time, with what unfinished \
         checkouts have set aside | 409 `OVERFLOW` |"
            .to_owned(),
        // What was ever added is counted in 64 bits.
        "| what an item or user ever got, since it was made or `batch_init` overwrote it | 2^64 - \
         1, less what was taken off outside of checkouts; so a payment that was cancelled does not \
         count | 409 `OVERFLOW` |"
            .to_owned(),
        format!("| an order | {} lines;", order::rules::LINES_MAX),
        format!("| a checkout | {} branches:", proto::convert::BRANCHES_MAX),
        format!("| `n` of a `batch_init` | {} |", grouped(proto::convert::BATCH_COUNT_MAX)),
        format!("| a request's head, its body | {} KiB each |", kib(http_bridge::BODY_BYTES_MAX)),
    ] {
        assert!(rest.contains(&line), "docs/rest.md has no line that begins with {line}");
    }
    let message = format!("A request has up to {} MiB,", kib(kib(rpc::MESSAGE_BYTES_MAX)));
    assert!(grpc.contains(&message), "docs/grpc.md does not say: {message}");
}
