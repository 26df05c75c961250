"""A traffic's averages: what an average request costs is enough to leave out what can't win."""

from __future__ import annotations

from dataclasses import dataclass

from tercet.traffic.scripts import CHARACTERS_A_TOKEN
from tercet.traffic.spec import TrafficSpec


@dataclass(frozen=True, slots=True)
class Means:
    """An average request: `new` tokens that no cache holds, `prefix` before them, `output` tokens, `images`."""

    new: float
    prefix: float
    output: float
    images: float

    @property
    def context(self) -> float:
        """Tokens behind an average decode step."""
        return self.prefix + self.new + self.output / 2


def means_of(traffic: TrafficSpec) -> Means:
    """Return the averages over turns. Pictures' own tokens are not among them; real texts count four characters each
    token, as in the simulator."""
    if traffic.dataset is not None:
        return _of_scripts(traffic)
    workload, turns = traffic.workload, traffic.turns
    new, output = workload.inputs.mean, workload.outputs.mean
    pictures = workload.pictures
    images = 0.0 if pictures is None else (pictures.low + pictures.high) / 2 / turns
    prefix = (turns - 1) / 2 * (new + output) + workload.prefix_tokens / turns
    return Means(new - workload.prefix_tokens / turns, prefix, output, images)


def _of_scripts(traffic: TrafficSpec) -> Means:
    assert traffic.dataset is not None
    news, prefixes, outputs = [], [], []
    for script in traffic.dataset.scripts:
        prefix = 0
        for turn in script.turns:
            characters = len(turn.text or "") + len(turn.messages or "")
            new = turn.input_tokens or max(1, characters // CHARACTERS_A_TOKEN)
            news.append(new)
            prefixes.append(prefix)
            outputs.append(turn.output_tokens)
            prefix += new + turn.output_tokens
    count = len(news)
    return Means(sum(news) / count, sum(prefixes) / count, sum(outputs) / count, 0.0)
