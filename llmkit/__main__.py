"""`python -m llmkit`: the command, under whatever name the package has."""

from __future__ import annotations

from .cli import run

if __name__ == "__main__":
    run()
