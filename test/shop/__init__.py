"""What the tests share: a shop of real processes, a client, and the published contract."""
