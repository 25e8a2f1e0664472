"""The mathematics: advantages, losses, corrections, divergences, as pure functions."""
