"""The consistency test, both variants, over real processes."""

import pytest
from run_consistency_test import Plan, run, table


@pytest.mark.parametrize(
    ("items", "stock"), [(1, 100), (100, 1)], ids=["1-item-of-which-100", "100-items-of-which-1"]
)
async def test_replies_and_database_agree(any_shop, items, stock):
    lines, figures = await run(Plan.at(any_shop.url, items=items, stock=stock, seed=items))
    print(table(lines))
    print(figures)
    assert all(line.good for line in lines), "\n" + table(lines)


async def test_a_tight_market_of_larger_orders_agrees(any_shop):
    lines, _ = await run(
        Plan.at(any_shop.url, items=5, stock=30, price=2, users=50, credit=7, orders=500, fill="batch", seed=3)
    )
    assert all(line.good for line in lines), "\n" + table(lines)
