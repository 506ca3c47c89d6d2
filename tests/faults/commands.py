"""The commands that are disturbed: small ones that write every kind of file."""

from __future__ import annotations

WORLD = ("-d", "synthetic", "-p", "quick")
COMMANDS: dict[str, tuple[str, ...]] = {
    "prepare": ("prepare", "synthetic"),
    "run": ("run", "LightGCN", *WORLD, "--set", "training.epochs=4", "--json"),
    "reproduce": ("reproduce", *WORLD, "--runs-only", "--methods", "Popularity,LightGCN", "--jobs", "1"),
}
