"""Findings, and the measurements that rules share."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Literal, NamedTuple

from energyscape.doctor.probes import Probes
from energyscape.doctor.record import Record

Severity = Literal["warn", "act"]

CALM: Final = 2.8
r"""The noise over the drift of a sound step: :math:`\eta = v_{\min} / 4`."""


class Setting(NamedTuple):
    """A setting of the recipe, and its value."""

    setting: str  # Its name, such as ``train.learning_rate``
    value: float | str | bool | None

    def __str__(self) -> str:
        """Return the setting as a flag of the command line."""
        return f"--{self.setting} {self.value if isinstance(self.value, str) else str(self.value).lower()}"


class Finding(NamedTuple):
    """A fault of a run."""

    rule: str  # Its name in `rules.RULES`
    severity: Severity  # ``act``: the run or its samples are lost; ``warn``: they are impaired
    symptom: str  # The visible effect
    evidence: str  # The measurement, in words
    cause: str  # The most likely cause
    remedy: tuple[Setting, ...]  # The settings to change
    advice: str  # The remedy in words, with flags
    numbers: dict[str, float]  # The measurement, as numbers

    @property
    def flags(self) -> str:
        """The remedy as flags of the command line."""
        return " ".join(map(str, self.remedy))


Rule = Callable[[Record, Probes], Finding | None]
"""Maps a record and probes to a finding, or none; also none if data for the rule are missing."""

Advice = Sequence[Setting | str]
"""The settings to change, and words between them; words that begin with a comma follow without a space."""


def finding(
    rule: str,
    act: bool,
    symptom: str,
    evidence: Sequence[str],
    cause: str,
    *,
    advice: Advice,
    numbers: Mapping[str, float | None],
) -> Finding | None:
    """Return a finding; none without evidence. Empty words and unknown numbers are left out."""
    settings = tuple(each for each in advice if isinstance(each, Setting))
    words = " ".join(map(str, advice)).replace(" ,", ",")
    known = {name: value for name, value in numbers.items() if value is not None}
    found = "; ".join(each for each in evidence if each)
    severity: Severity = "act" if act else "warn"
    return Finding(rule, severity, symptom, found, cause, settings, words, known) if found else None


class Range(NamedTuple):
    """The healthy values of a number, and the values beyond which the run is lost."""

    least: float
    most: float
    low: float  # Act below it
    high: float  # Act above it


def above(most: float, act: float = math.inf) -> Range:
    """Return a range without a lower end."""
    return Range(-math.inf, most, -math.inf, act)


def below(least: float, act: float = -math.inf) -> Range:
    """Return a range without an upper end."""
    return Range(least, math.inf, act, math.inf)


class Limit(NamedTuple):
    """A rule: a number that must stay in a range, and the sentences of its finding.

    In evidence and cause ``{v}`` stands for the number, ``{r}`` for the record and ``{p}`` for the probes.
    """

    measure: Callable[[Record, Probes], float | None]  # The number, or none if unknown
    range: Range
    symptom: str
    evidence: str
    cause: str
    advice: Callable[[Record, Probes], Advice]  # The better settings
    more: Callable[[Record, Probes], Sequence[str]] = lambda *_: ()  # Further evidence
    key: str = "value"  # Name of the number, for machines

    def rule(self, name: str) -> Rule:
        """Return the rule."""

        def rule(record: Record, probes: Probes) -> Finding | None:
            value, limit = self.measure(record, probes), self.range
            if value is None or limit.least <= value <= limit.most:
                return None
            words = {"v": value, "r": record, "p": probes}
            evidence = [self.evidence.format(**words), *self.more(record, probes)]
            act, advice = not limit.low <= value <= limit.high, self.advice(record, probes)
            return finding(
                name, act, self.symptom, evidence, self.cause.format(**words), advice=advice, numbers={self.key: value}
            )

        return rule


def table(rules: Sequence[Rule], limits: Mapping[str, Limit]) -> dict[str, Rule]:
    """Return rules by name."""
    return {rule.__name__: rule for rule in rules} | {name: limit.rule(name) for name, limit in limits.items()}


def rounded(value: float, digits: int = 2) -> float:
    """Return a number with few significant digits, whole where it can be."""
    number = float(f"{value:.{digits}g}")
    return int(number) if number.is_integer() else number


def kernel(record: Record, setting: str, value: float) -> Setting:
    """Return a setting of the chains' kernel; a step size is given as η."""
    if setting == "step_size" and record.step_size and record.typed:
        value = record.typed[0] * (value / record.step_size) ** record.typed[1]
    return Setting(f"{record.chains}.kernel.{record.inner}{setting}", rounded(value))


def rate(record: Record, factor: float) -> Setting:
    """Return the learning rate times a factor."""
    return Setting("train.learning_rate", rounded((record.learning_rate or 1e-3) * factor))
