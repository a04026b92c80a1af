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

fn order() -> String {
    "1".to_owned()
}

fn buy() -> (Ask, Said) {
    (Ask::Checkout(order(), None), Said::Done)
}

/// What the judge says if order 1 is drawn, these calls follow, and it holds a unit of item 1 and
/// is paid at last.
fn problems(calls: Vec<(Ask, Said)>) -> Vec<String> {
    let begin = [
        (Ask::InitStock(6), Said::Done),
        (Ask::InitUsers(12), Said::Done),
        (Ask::InitOrders, Said::Done),
    ];
    let bought = Order { lines: vec![(0, 2), (1, 1)], paid: true };
    let closed = BTreeMap::from([(order(), (bought, 0))]);
    judge(&history(begin.into_iter().chain(calls).collect()), &closed, true).problems
}

/// The final state does not show what the first of two purchases took.
#[test]
fn what_was_added_to_an_order_that_is_drawn_again_is_left_to_the_audit() {
    let add = || (Ask::AddItem(order(), 1, 1), Said::Amount(6));
    let find = |units| (Ask::FindItem(1), Said::Amount(units));
    let again = (Ask::InitOrders, Said::Done);
    let told = problems(vec![buy(), find(6), again, add(), buy(), find(5)]);
    assert_eq!(told, Vec::<String>::new());
    let told = problems(vec![add(), buy(), find(6)]);
    assert!(told.iter().any(|problem| problem.starts_with("Item(1) cannot")), "{told:?}");
}
