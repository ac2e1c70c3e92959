"""Runs of what is trained for itself (clcr.training.part), whichever part it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from clcr.training import checkpoint
from close import assert_close


def check_that_resuming_goes_on(train: Callable[..., str], recipe: Any) -> None:
    """A run that is stopped after two steps and resumed ends with the weights of one that was not."""
    train(Path("whole"), recipe, resume=False)
    assert train(Path("parts"), recipe, resume=False, until_step=2) == "stopped"
    assert train(Path("parts"), recipe, resume=True) == "finished"
    whole, parts = (checkpoint.read_tensors(Path(run, "last/model.safetensors")) for run in ("whole", "parts"))
    for name, tensor in whole.items():
        assert_close(tensor, parts[name], atol=1e-5, rtol=1e-4, msg=name)
