"""What engines in lower precision may cost, and the report on what they do cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from clcr_export.proof import ParityError


@dataclass(frozen=True)
class Limits:
    """What a precision may cost, and what the negative control must break to be seen above it."""

    points: float  # of macro-F1
    outputs: Mapping[str, float]  # by kind of output: root mean square of the difference over that of the output
    batched: float  # a stream among three against the stream alone, largest absolute difference
    broken_state: str  # zeroed at every tick, level by level


# docs/export.md, "Lower precision", has the reason of each figure.
_EXACT = {"present": 0.0, "budget": 1e-6}  # sums of masks: nothing in them is rounded
LIMITS = {
    "fp16": Limits(
        points=0.5,
        outputs={"shared": 3e-3, "private": 3e-3, "alpha": 2e-2, **_EXACT}
        | {"probs": 1e-3, "omega": 1e-3, "beta": 1e-3, "eta": 1e-3},
        batched=1.6e-2,
        broken_state="vision_conv_1",
    ),
    "int8": Limits(
        points=1.5,
        outputs={"shared": 0.25, "private": 0.25, "alpha": 0.4, **_EXACT}
        | {"probs": 0.1, "omega": 0.1, "beta": 0.1, "eta": 0.1},
        batched=0.5,
        broken_state="acoustic_pool",
    ),
}


@dataclass
class Report:
    """What a lower precision is made of and what it costs; plain values, which go into provenance.precision."""

    mode: str
    shares: dict[str, dict[str, float]]  # by engine: share of the multiply-adds by type
    bytes: dict[str, int]  # by engine
    limits: dict[str, Any]
    parity: dict[str, float] = field(default_factory=dict)  # relative, by output; half rounded as hardware rounds it
    written: dict[str, float] = field(default_factory=dict)  # the same of the files as ONNX Runtime runs them
    largest: dict[str, float] = field(default_factory=dict)  # absolute, by output, of `parity`
    batched: dict[str, float] = field(default_factory=dict)  # by engine
    control: dict[str, float] = field(default_factory=dict)  # broken chains: worst difference in units of its limit
    task: dict[str, dict[str, Any]] = field(default_factory=dict)  # by pack
    alone: dict[str, dict[str, Any]] = field(default_factory=dict)  # after a failure: each engine alone
    calibration: dict[str, Any] = field(default_factory=dict)

    def failures(self) -> list[str]:
        """What is over its limit, in words."""
        if not (self.parity and self.written and self.batched and self.control and self.task):
            return ["nothing was compared"]
        found = self.over("parity", self.parity) + self.over("written", self.written)
        most = self.limits["batched"]
        found += [
            f"batched {n}: differs by {w:.1e}, {most} is allowed" for n, w in self.batched.items() if not w <= most
        ]
        found += [f"negative control {n!r} went unnoticed" for n, ratio in self.control.items() if not ratio > 1.0]
        return found + self.lost(self.task)

    def over(self, kind: str, figures: Mapping[str, float]) -> list[str]:
        """The outputs that differ by more than they may, the worst first, in words; differences are relative."""
        bad = [name for name, worst in figures.items() if not worst <= self.allowed(name)]
        bad.sort(key=lambda name: -figures[name] / (self.allowed(name) or 1e-9))
        return [f"{kind} {name}: differs by {figures[name]:.1e}, {self.allowed(name):.0e} is allowed" for name in bad]

    def lost(self, task: Mapping[str, Mapping[str, Any]]) -> list[str]:
        """The packs on which macro-F1 falls by more than it may, in words."""
        most = self.limits["points"]
        return [
            f"macro-F1 on {name} falls by {scores['drop_points']:.2f} points, {most} are allowed"
            for name, scores in task.items()
            if not scores["drop_points"] <= most
        ]

    def allowed(self, name: str) -> float:
        """The limit of an output such as level2.alpha_vision."""
        limit: float = self.limits["outputs"][name.partition(".")[2].partition("_")[0]]
        return limit

    def lines(self) -> list[str]:
        """A short table for a terminal."""
        text = [f"  {'engine':<10}{'bytes':>12}  multiply-adds by type"]
        for name, shares in self.shares.items():
            kinds = ", ".join(f"{kind} {share:.1%}" for kind, share in shares.items())
            text.append(f"  {name:<10}{self.bytes[name]:>12}  {kinds}")
        for kind, figures in (("parity", self.parity), ("written", self.written)):
            name = max(figures, key=lambda key: figures[key] / (self.allowed(key) or 1.0))
            text.append(f"  {kind:<10}worst {figures[name]:.1e} of {self.allowed(name):.0e} at {name}")
        for name, ratio in self.control.items():
            text.append(f"  control   {name}: {ratio:.1f} times its limit{'' if ratio > 1.0 else ', UNNOTICED'}")
        for name, scores in self.task.items():
            before, after = scores["macro_f1"]["fp32"], scores["macro_f1"][self.mode]
            text.append(
                f"  macro-F1  {name}, {scores['clips']} clips: fp32 {before:.4f}, {self.mode} {after:.4f}, "
                f"{scores['changed']} answers changed"
            )
        for name, said in self.alone.items():
            more = f" (and {len(said['fails']) - 1} more)" if len(said["fails"]) > 1 else ""
            text.append(f"  alone     {name}: {said['fails'][0] + more if said['fails'] else 'passes'}")
        return text

    def plain(self) -> dict[str, Any]:
        """The report as JSON values."""
        return asdict(self)


class PrecisionError(ParityError):
    """A lower precision that is not good enough; `report` says by how much and which engines make it so."""

    def __init__(self, report: Report) -> None:
        first, *more = report.failures()
        blamed = [name for name, said in report.alone.items() if said["fails"]]
        where = f"alone, {' and '.join(blamed)} would fail" if blamed else "no engine would fail alone"
        also = f" (and {len(more)} more)" if more else ""
        super().__init__(f"{report.mode}: {first}{also}; {where}; no bundle written, fp32 needs no gate")
        self.report = report
