use super::*;

/// Calls that follow each other, each alone.
fn history(calls: Vec<(Ask, Said)>) -> History {
    let timed = calls.into_iter().zip((0..).step_by(2));
    let entries = timed.map(|((ask, said), began)| {
        let (ended, said) = (Some(began + 1), Some(said));
        Entry { ask, began, ended, said, quiet: true }
    });
    History { entries: entries.collect(), ..History::default() }
}

/// What the judge says of item 1 if order 1, which holds a unit of it at last, is drawn this often
/// and bought each time.
fn problems(draws: usize) -> Vec<String> {
    let order = || "1".to_owned();
    let buy = || (Ask::Checkout(order(), None), Said::Done);
    let mut calls = vec![(Ask::InitStock(6), Said::Done), (Ask::InitUsers(12), Said::Done)];
    for _ in 1..draws {
        calls.extend([(Ask::InitOrders, Said::Done), buy()]);
    }
    calls.extend([
        (Ask::InitOrders, Said::Done),
        (Ask::AddItem(order(), 1, 1), Said::Amount(6)),
        buy(),
        (Ask::FindItem(1), Said::Amount(6)),
    ]);
    let bought = Order { lines: vec![(0, 2), (1, 1)], paid: true };
    let closed = BTreeMap::from([(order(), (bought, 0))]);
    judge(&history(calls), &closed, true).problems
}

/// An order that was drawn again was bought twice, and the end does not tell of the first time.
#[test]
fn what_was_added_to_an_order_that_is_drawn_again_is_left_to_the_audit() {
    let told = problems(1);
    assert!(told.iter().any(|problem| problem.starts_with("Item(1) cannot")), "{told:?}");
    assert_eq!(problems(2), Vec::<String>::new());
}
