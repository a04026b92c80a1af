use super::*;

fn line(item_id: &str, quantity: u64, price: u64) -> Line {
    Line { item_id: item_id.to_owned(), quantity, price }
}

#[test]
fn lines_of_one_item_are_one_pair_in_the_order_of_first_addition() {
    let lines = vec![line("b", 1, 5), line("a", 2, 3), line("b", 4, 6)];
    assert_eq!(merged(lines), [("b".to_owned(), 5), ("a".to_owned(), 2)]);
}

#[test]
fn a_sum_that_no_client_could_read_stays_apart() {
    let lines = vec![line("a", AMOUNT_MAX, 0), line("a", 1, 0)];
    assert_eq!(merged(lines), [("a".to_owned(), AMOUNT_MAX), ("a".to_owned(), 1)]);
}
