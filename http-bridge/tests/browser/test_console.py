"""The console in a browser: purchases by keyboard alone, every view in every size and colour scheme, and axe-core."""

import json
import re

import pytest
from conftest import ADMIN, GUARDED, KEY, Console

TX_ID = "0193517c-6f2a-7cc0-98d1-2b1f3c4d5e6f"
OTHER = "0193517c-7000-7cc0-98d1-2b1f3c4d5e6f"


def set_up(console: Console) -> None:
    """The example of the page: a customer, two items and an order."""
    console.open("shop")
    console.page.get_by_role("button", name="Set up an example").click()
    console.wait_text("#customer-said", "Check it out.")


def buy(console: Console) -> None:
    """Checks the order out, and waits until its transaction has ended."""
    console.page.get_by_role("button", name="Check out").click()
    console.wait_text("#verdict", "Paid")
    console.wait_text("#transactions", "The caller is told: paid")
    console.wait_text("#transactions", "has committed")


def test_a_purchase_needs_no_mouse_and_is_said_aloud(console: Console) -> None:
    """Customer, funds, item, stock, order, lines, checkout, and the votes: keys only."""
    console.open("shop")
    console.press("Create a customer")
    console.wait_said("The customer is there")
    console.page.keyboard.press("Control+a")
    console.page.keyboard.type("20.00")
    console.press("Add funds")
    console.wait_said("The credit is 20.00 now.")
    console.write("Price", "7.25")
    console.press("Create an item", "Space")
    console.wait_said("Item 1 is there")
    console.write("Units for the stock of Item 1", "5")
    console.page.keyboard.press("Enter")
    console.wait_said("5 units of Item 1 are in stock now.")
    console.press("Make an order")
    console.wait_said("The order is there")
    console.page.locator("#items-title").scroll_into_view_if_needed()
    console.tab_to("Units of Item 1 for the order", backwards=True)
    console.page.keyboard.press("Control+a")
    console.page.keyboard.type("2")
    console.press("Add Item 1 to the order")
    console.wait_said("The order costs 14.50.")
    console.press("Check out")
    console.wait_said("Paid. Stock and credit were taken together")
    console.wait_said("Transaction committed: 3 of 3 branches voted yes.")
    assert console.page.locator("#credit").inner_text() == "5.50"
    assert console.page.locator("#items dd").nth(1).inner_text() == "3"
    rows = console.page.locator("#transactions tbody tr")
    branches = [rows.nth(at).inner_text() for at in range(rows.count())]
    assert len(branches) == 3
    for service, row in zip(("order", "stock", "payment"), branches):
        assert re.match(rf"{service}/\d+\s+Yes", row), row
    steps = console.page.locator("#transactions ol li").all_inner_texts()
    told = next(at for at, step in enumerate(steps) if "The caller is told: paid" in step)
    votes = [at for at, step in enumerate(steps) if "votes yes" in step]
    assert len(votes) == 3 and max(votes) < told, steps


def test_a_second_checkout_charges_nothing(console: Console) -> None:
    """The page says so, and the credit stays."""
    set_up(console)
    buy(console)
    credit = console.page.locator("#credit").inner_text()
    console.page.get_by_role("button", name="Check out again").click()
    console.wait_text("#verdict", "nothing is charged twice")
    assert console.page.locator("#credit").inner_text() == credit


def test_a_refusal_is_told_in_words(console: Console) -> None:
    """Four units of an item of which there are three: the page shows a sentence, not a code, and stock and credit are
    unchanged."""
    console.expected = ["409"]
    set_up(console)
    console.page.get_by_label("Units of Item 2 for the order").fill("3")
    console.page.get_by_role("button", name="Add Item 2 to the order").click()
    console.wait_text("#lines", "4")
    console.page.get_by_role("button", name="Check out").click()
    console.wait_text("#verdict", "There is not enough stock")
    console.wait_text("#transactions", "Aborted")
    console.wait_text("#transactions", "No: not enough stock")
    console.wait_said("There is not enough stock. Fewer units are left than were asked for.")
    assert console.page.locator("#credit").inner_text() == "100.00"
    console.check()
    console.shoot("refused")


def test_what_is_no_amount_is_said_at_its_field(console: Console) -> None:
    """Nothing is sent, the field is marked and has the focus."""
    console.open("shop")
    price = console.page.get_by_label("Price")
    price.fill("a lot")
    price.press("Enter")
    console.wait_said("Write an amount such as 12.50.")
    assert price.get_attribute("aria-invalid") == "true"
    assert price.evaluate("field => field === document.activeElement")
    console.check()


def test_the_shop_is_legible_everywhere(every: Console) -> None:
    """Empty and after a purchase."""
    every.open("shop")
    every.check()
    every.shoot("shop-empty")
    set_up(every)
    buy(every)
    every.page.wait_for_timeout(300)
    every.check()
    every.shoot("shop")


def test_throughput_latency_and_outcomes_move(every: Console) -> None:
    """The test makes load, and the numbers follow it."""
    every.open("live")
    every.page.wait_for_function("document.querySelector('#active').textContent !== '–'")
    load = """async () => {
        const id = async path => Object.values(await (await fetch(path, { method: 'POST' })).json())[0];
        const user = await id('/payment/create_user');
        for (let i = 0; i < 8; i += 1) {
            const order = await id(`/orders/create/${user}`);
            await fetch(`/orders/find/${order}`);
            await fetch(`/orders/checkout/${order}`, { method: 'POST' });
        }
    }"""
    every.expected = ["409"]
    for _ in range(3):
        every.page.evaluate(load)
        every.page.wait_for_timeout(1500)
    rate = every.page.locator("#rate")
    every.page.wait_for_function("parseFloat(document.querySelector('#rate').textContent) > 0")
    assert rate.inner_text() != "–"
    assert every.page.locator("#median").inner_text().endswith("ms")
    every.wait_text("#outcomes", "the order was empty")
    assert every.page.locator("#rate-plot polyline").count() > 0
    every.check()
    every.shoot("live")


def test_the_public_is_told_where_operators_look(every: Console) -> None:
    """The page contains nothing that only operators may see."""
    every.open("operate")
    every.wait_text("#locked", "For operators")
    assert every.page.locator("#operations").is_hidden()
    every.check()
    every.shoot("operate-locked")


def test_views_are_links_with_a_place_in_the_history(console: Console) -> None:
    """By keyboard, and back."""
    console.open("shop")
    console.press("Live")
    console.wait_text("h1", "Live")
    assert console.page.title() == "Live · Till console"
    assert console.page.evaluate("document.activeElement.id") == "main"
    assert console.page.locator("nav [aria-current=page]").inner_text() == "Live"
    console.page.go_back()
    console.wait_text("h1", "Try the shop")


def test_the_first_tab_leads_past_the_navigation(console: Console) -> None:
    """People who cannot see the page expect that."""
    console.open("shop")
    console.press("Skip to the content")
    assert console.page.evaluate("document.activeElement.id") == "main"
    console.page.keyboard.press("Tab")
    assert console.page.evaluate("document.activeElement.id") == "example"


def branch(name: str, state: str, vote: str = "", **more: str) -> dict:
    """What one branch says."""
    said = {"branch": name, "service": name.split("/")[0], "state": state, "vote": vote}
    return said | {"reason": "", "since_ms": 1, "blocked_by": "", "problem": ""} | more


def unresolved(tx_id: str) -> dict:
    """An unresolved transaction."""
    step = {"after_ms": 2, "branch": "order/3", "what": "sent Prepare"}
    log = {"attempt": 1, "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736", "began_ms": 1, "ended_ms": 0}
    log |= {"outcome": "", "reasons": ["SLOW"], "steps": [step], "steps_left_out": 0}
    said = [branch("order/3", "PREPARED", "YES"), branch("stock/7", "ABSENT", blocked_by=OTHER)]
    known = {"tx_id": tx_id, "outcome": "UNDECIDED", "order_id": "o-17", "deadline_ms": 1_000}
    return known | {"branches": said, "logs": [log]}


@pytest.fixture
def troubled(every: Console):
    """A shop whose coordinator reports two unresolved transactions, and books that do not agree."""
    state = {"open": [unresolved(TX_ID), unresolved(OTHER)], "resolved": []}
    finding = {"invariant": "I2", "count": 3}
    audit = {"at_ms": 1_790_000_000_000, "took_ms": 812, "unresolved": 2, "findings": [finding]}

    def answer(route) -> None:
        path = route.request.url.split("/console/api/")[1]
        if path.endswith("/resolve"):
            assert route.request.headers["till-console"] == "1"
            state["resolved"].append(path.split("/")[1])
            state["open"] = state["open"][1:]
            body = {"outcome": "ABORTED", "missing": []}
        elif path == "unresolved":
            body = {"transactions": state["open"], "left_out": 0}
        elif path == "audit":
            body = {"every_s": 300, "last": audit, "silent": 0}
        elif path == "state":
            body = {"version": "0", "shop": True, "operator": True}
        else:
            body = {"transactions": [unresolved(TX_ID)], "left_out": 0}
        route.fulfill(body=json.dumps(body), headers={"content-type": "application/json"})

    every.page.route(re.compile("/console/api/"), answer)
    every.state = state
    yield every


def test_an_operator_explains_and_resolves_by_keyboard(troubled: Console) -> None:
    """And the page shows the outcome."""
    troubled.open("operate")
    troubled.wait_text("#audit", "The books do not agree")
    troubled.wait_text("#audit", "broken 3 times")
    troubled.press(f"Explain {TX_ID}")
    troubled.wait_text("#explained", "Somebody may still vote.")
    troubled.wait_text("#explained", "waits for another")
    troubled.check()
    troubled.shoot("operate")
    troubled.tab_to("Look again", backwards=True)
    troubled.press(f"Resolve {TX_ID}")
    troubled.wait_said("It is aborted, everywhere.")
    assert troubled.state["resolved"] == [TX_ID]
    assert troubled.page.locator("#unresolved tbody tr").count() == 1


if ADMIN:

    def test_operators_look_through_their_own_door(console: Console) -> None:
        """On the admin listener the page has no Shop view, and shows the coordinator's real answers."""
        console.open(base=ADMIN)
        console.wait_text("h1", "Operate")
        assert console.page.locator("#to-shop").is_hidden()
        console.wait_text("#unresolved", "Nothing is unresolved.")
        console.wait_text("#audit", "audit")
        console.check()


if GUARDED:

    def test_a_key_opens_the_operator_part(every: Console) -> None:
        """A wrong key is reported at its field; the right one is kept for this tab only."""
        every.open("operate", GUARDED)
        every.wait_text("#locked", "asks for the API key")
        assert every.page.locator("#operations").is_hidden()
        for wrong in ("not-the-key-of-this-shop", "kurz", "Schlüssel aus Umlauten"):
            every.write("API key", wrong)
            every.page.keyboard.press("Enter")
            every.wait_text("#locked-said", "This is not the key.")
            assert every.page.locator("#key").get_attribute("aria-invalid") == "true"
            assert every.page.locator("#operations").is_hidden()
        every.wait_said("This is not the key.")
        every.check()
        every.shoot("operate-key")
        every.write("API key", KEY)
        every.page.keyboard.press("Enter")
        every.wait_text("#unresolved", "Nothing is unresolved.")
        every.wait_text("#audit", "audit")
        every.wait_said("Unlocked")
        every.check()
        every.page.reload()
        every.wait_text("#unresolved", "Nothing is unresolved.")
        assert every.page.evaluate("localStorage.length + document.cookie.length") == 0
        assert KEY not in every.page.url

    def test_who_has_no_key_buys_nothing(console: Console) -> None:
        """And the page says where to enter a key; with it the shop works."""
        console.expected = ["401"]
        console.open("shop", GUARDED)
        console.page.get_by_role("button", name="Set up an example").click()
        console.wait_said("Enter one under Operate.")
        console.open("operate", GUARDED)
        console.write("API key", KEY)
        console.page.keyboard.press("Enter")
        console.wait_text("#unresolved", "Nothing is unresolved.")
        console.page.get_by_role("link", name="Shop").click()
        console.page.get_by_role("button", name="Set up an example").click()
        console.wait_text("#customer-said", "Check it out.")
        buy(console)

    def test_a_key_that_counts_no_more_locks_again(console: Console) -> None:
        """At the next refresh, with a message."""
        console.expected = ["401"]
        console.open("operate", GUARDED)
        console.write("API key", KEY)
        console.page.keyboard.press("Enter")
        console.wait_text("#unresolved", "Nothing is unresolved.")
        console.page.evaluate("sessionStorage.setItem('till.key', 'a-key-of-yesterday')")
        console.wait_text("#locked-said", "does not count any more")
        assert console.page.locator("#operations").is_hidden()
