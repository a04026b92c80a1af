"""An order, made and found by the client that openapi-python-client made."""

import sys

from till_client import Client
from till_client.api.orders import add_item, create_order, find_order
from till_client.api.stock import create_item

with Client(base_url=sys.argv[1], raise_on_unexpected_status=True) as client:
    item = create_item.sync(price=5, client=client)
    order = create_order.sync(user_id="somebody", client=client)
    text = add_item.sync(order_id=order.order_id, item_id=item.item_id, quantity=2, client=client)
    assert text.endswith("price updated to: 10"), text
    found = find_order.sync(order_id=order.order_id, client=client)
    assert found.items == [[item.item_id, 2]], found
    assert (found.total_cost, found.paid) == (10, False), found
