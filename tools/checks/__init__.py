"""What scripts/check runs beside ruff and mypy."""
