"""A shop under faults, a mixed load upon it, and a ledger of everything that was said."""
