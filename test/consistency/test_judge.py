"""The consistency test finds planted mismatches, each by the line that is meant for it."""

import pytest
from run_consistency_test import Order, Plan, judge_database, judge_replies


def shop(sold, users=4, items=2, stock=2):
    """Four users of credit 1 who want items in turn; the first `sold` get theirs."""
    plan = Plan.at("", items=items, stock=stock, users=users, orders=users)
    orders = [Order(f"o{n}", f"u{n}", f"i{n % items}", "sold" if n < sold else "refused") for n in range(users)]
    stocks = {f"i{n}": stock for n in range(items)}
    credits = {f"u{n}": 1 for n in range(users)}
    for order in orders[:sold]:
        stocks[order.item_id] -= 1
        credits[order.user_id] -= 1
    return plan, orders, stocks, credits, [n < sold for n in range(users)]


def bad(plan, orders, stocks, credits, paids):
    sales = [order for order in orders if order.said != "refused"]
    lines = [*judge_replies(plan, orders, sales), *judge_database(plan, orders, sales, stocks, credits, paids)]
    return {line.name for line in lines if not line.good}


def test_a_sound_shop_passes():
    assert bad(*shop(sold=4)) == set()
    assert bad(*shop(sold=2, items=1, stock=2)) == set()


@pytest.mark.parametrize(
    ("plant", "seen"),
    [
        (lambda s: s[2].update(i0=1), "units gone from the stock"),
        (lambda s: s[2].update(i0=1, i1=-1), "items whose stock is not what the replies say"),
        (lambda s: s[3].update(u0=1), "credit spent"),
        (lambda s: s[3].update(u0=1, u1=-1), "users whose credit is not what the replies say"),
        (lambda s: s[4].__setitem__(0, False), "orders whose paid mark is not what the reply said"),
        (lambda s: setattr(s[1][0], "said", "unclear"), "replies that leave the buyer in the dark"),
        (lambda s: setattr(s[1][0], "said", "nothing"), "replies that leave the buyer in the dark"),
        (lambda s: setattr(s[1][0], "said", "refused"), "units gone from the stock"),
        (lambda s: setattr(s[1][0], "user_id", "u1"), "users who bought more than they can pay"),
        (lambda s: setattr(s[1][0], "item_id", "i1"), "items sold more often than they were there"),
    ],
)
def test_a_planted_mismatch_is_seen(plant, seen):
    state = shop(sold=4)
    plant(state)
    assert seen in bad(*state)


def test_a_false_refusal_is_seen():
    assert bad(*shop(sold=3)) == {"orders refused that could still be bought"}
    assert "sales by the replies" in bad(*shop(sold=1, items=1, stock=2))
