"""Load for a shop that somebody else runs, upgrades and breaks."""
