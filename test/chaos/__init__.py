"""A shop under faults and a mixed load, and a ledger of all answers."""
