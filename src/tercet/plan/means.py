"""A traffic's averages: what an average request costs is enough to leave out what can't win."""

from __future__ import annotations

from dataclasses import dataclass

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


def straight_share(traffic: TrafficSpec, threshold: int) -> float:
    """Return the share of requests that may go straight to D under ppd: later turns that can have fewer new tokens than
    `threshold`."""
    if traffic.dataset is None:
        turns = traffic.turns
        return (turns - 1) / turns if traffic.workload.inputs.low < threshold else 0.0
    later = [turn.new_tokens for script in traffic.dataset.scripts for turn in script.turns[1:]]
    count = sum(len(script.turns) for script in traffic.dataset.scripts)
    return sum(new < threshold for new in later) / count


def _of_scripts(traffic: TrafficSpec) -> Means:
    assert traffic.dataset is not None
    news, prefixes, outputs = [], [], []
    for script in traffic.dataset.scripts:
        prefix = 0
        for turn in script.turns:
            new = turn.new_tokens
            news.append(new)
            prefixes.append(prefix)
            outputs.append(turn.output_tokens)
            prefix += new + turn.output_tokens
    count = len(news)
    images = sum(turn.images for turn in traffic.dataset.turns)
    return Means(sum(news) / count, sum(prefixes) / count, sum(outputs) / count, images / count)
