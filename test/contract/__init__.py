"""The REST contract, call by call."""
