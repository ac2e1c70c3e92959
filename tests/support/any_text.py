"""Any text for a property. `st.text()` alone looks through all of Unicode first: 2 s of CPU in each process."""

from __future__ import annotations

from hypothesis import strategies as st

CHARACTERS = st.characters(exclude_categories=["Cs"])  # all that UTF-8 has


def texts(min_size: int = 0, max_size: int | None = None) -> st.SearchStrategy[str]:
    """Any text."""
    return st.text(CHARACTERS, min_size=min_size, max_size=max_size)
