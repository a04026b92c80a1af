"""Load for a shop that others run, upgrade and break."""
