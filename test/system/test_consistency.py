"""The consistency test, both variants, over real processes."""

import asyncio

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


@pytest.mark.parametrize("role", ["coordinator", "order", "stock", "payment", "dev-kv"])
async def test_replies_and_database_agree_when_the_only_process_of_a_role_is_killed(small_shop, role):
    """The client's connections end at the bridge, so whichever process dies behind it, every client gets an answer."""

    async def kill():
        await asyncio.sleep(0.3)
        await asyncio.to_thread(small_shop.kill, next(iter(small_shop.children(role))))

    lines, figures = await run(Plan.at(small_shop.url, seed=1), meanwhile=kill)
    print(figures)
    assert all(line.good for line in lines), "\n" + table(lines)
