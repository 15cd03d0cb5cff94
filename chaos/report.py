"""What a run comes to: text for people, JSON for programs, and a picture."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from chaos.failover import Failover, failover_ms, percentile
from chaos.ledger import count_lost, count_twice
from chaos.run import Outcome
from chaos.schedule import Kind

#: Seconds of one bar of answers.
BIN = 1.0
#: Colours of the marks: one for each kind, as distinct to the colour-blind as ten can be,
#: with a letter besides.
MARKS = {
    Kind.WORKER_KILL: ("K", "#d55e00"),
    Kind.WORKER_FREEZE: ("F", "#0072b2"),
    Kind.WORKER_STOP: ("T", "#009e73"),
    Kind.CHILD_CRASH: ("c", "#e69f00"),
    Kind.CHILD_HANG: ("h", "#cc79a7"),
    Kind.LINK_RESET: ("R", "#56b4e9"),
    Kind.LINK_STALL: ("S", "#5d4a9c"),
    Kind.LINK_CORRUPT: ("X", "#8c6d1f"),
    Kind.BROKER_KILL: ("B", "#000000"),
    Kind.BROKER_FREEZE: ("Z", "#7f7f7f"),
}


def totals(outcome: Outcome) -> str:
    """The line everything else explains."""
    sent = len(outcome.records)
    answered = sum(bool(record.finals) for record in outcome.records)
    lost, twice = count_lost(outcome.records), count_twice(outcome.records)
    return f"{sent} sent, {answered} answered, {lost} lost, {twice} answered twice"


def text(outcome: Outcome) -> str:
    """The whole report."""
    lines = [totals(outcome), "", *_table(outcome.failovers()), "", *_notes(outcome)]
    broken = outcome.breaches()
    if broken:
        lines += ["", f"{len(broken)} promises broken:", *(f"  {what}" for what in broken[:30])]
        if len(broken) > 30:
            lines.append(f"  and {len(broken) - 30} more")
    else:
        lines += ["", "All promises kept."]
    return "\n".join(lines)


def _table(table: list[Failover]) -> list[str]:
    rows = [f"{'failover, ms':<16}{'median':>8}{'p99':>8}{'max':>8}{'n':>5}{'limit':>8}"]
    for row in table:
        limit = f"{row.limit_ms:8.0f}" if row.limit_ms is not None else f"{'-':>8}"
        rows.append(
            f"{row.what:<16}{row.median:8.1f}{row.p99:8.1f}{max(row.samples):8.1f}"
            f"{len(row.samples):5d}{limit}"
        )
    return rows


def _notes(outcome: Outcome) -> list[str]:
    missed = sum(bool(hit.missed) for hit in outcome.injected)
    latencies = [1000 * (r.finals[0].at - r.sent) for r in outcome.records if r.finals]
    moved = [
        1000 * (r.finals[0].at - r.sent)
        for r in outcome.records
        if r.finals and r.finals[0].attempts > 1
    ]
    lines = [f"{len(outcome.injected)} faults, {missed} of them met nobody"]
    if latencies:
        lines.append(f"latency {_spread(latencies)}")
    if moved:
        lines.append(f"of requests that moved {_spread(moved)}")
    refused = Counter(r.finals[0].code for r in outcome.records if r.finals)
    del refused["ok"]
    if refused:
        lines.append("refused: " + ", ".join(f"{n} {code}" for code, n in refused.items()))
    lines.append(f"the probe sent {outcome.resent} requests again, under the same id")
    lines.append(f"at the end: {outcome.machine}")
    if (seen := outcome.overload) is not None:
        lines.append(
            f"overload: peak {seen.peak:.1f}/s, offered {seen.offered:.1f}/s, answered"
            f" {seen.goodput:.1f}/s ({seen.goodput / seen.peak if seen.peak else 0:.0%}),"
            f" {seen.busy} got 503 in {seen.busy_p99_ms:.0f} ms (p99)"
        )
    return lines


def _spread(values: list[float]) -> str:
    median, p99 = percentile(values, 50), percentile(values, 99)
    return f"{median:.0f} ms median, {p99:.0f} ms p99, {max(values):.0f} ms max (n={len(values)})"


def as_json(outcome: Outcome) -> dict[str, Any]:
    """The figures, for `--json`."""
    seen = outcome.overload
    plan = outcome.plan
    return {
        "seed": plan.seed,
        "seconds": plan.seconds,
        "rate": plan.rate,
        "workers": plan.workers,
        "brokers": plan.brokers,
        "sent": len(outcome.records),
        "answered": sum(bool(record.finals) for record in outcome.records),
        "lost": count_lost(outcome.records),
        "twice": count_twice(outcome.records),
        "resent": outcome.resent,
        "machine": outcome.machine,
        "failed": Counter(r.finals[0].code for r in outcome.records if r.finals),
        "faults": [
            {
                "at_s": round(hit.at, 3),
                "kind": hit.fault.kind.value,
                "name": hit.name,
                "missed": hit.missed,
                "failover_ms": failover_ms(hit, outcome.injected, outcome.events, outcome.records),
            }
            for hit in outcome.injected
        ],
        "failover_ms": {
            row.what.strip(): {
                "median": round(row.median, 1),
                "p99": round(row.p99, 1),
                "max": round(max(row.samples), 1),
                "n": len(row.samples),
                "limit": row.limit_ms,
            }
            for row in outcome.failovers()
        },
        "overload": None
        if seen is None
        else {
            "peak_per_s": round(seen.peak, 1),
            "offered_per_s": round(seen.offered, 1),
            "goodput_per_s": round(seen.goodput, 1),
            "busy": seen.busy,
            "busy_p99_ms": round(seen.busy_p99_ms, 1),
            "unexpected": seen.unexpected,
        },
        "breaches": outcome.breaches(),
    }


def save_json(outcome: Outcome, path: Path) -> None:
    """Write `as_json`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(as_json(outcome), indent=2) + "\n")


def plot(outcome: Outcome, path: Path) -> None:
    """Answers a second with the faults above them; workers ready beneath."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (top, bottom) = pyplot.subplots(
        2, 1, sharex=True, figsize=(12, 6), height_ratios=(4, 1), layout="constrained"
    )
    bins: dict[str, Counter[int]] = defaultdict(Counter)
    for record in outcome.records:
        for final in record.finals[:1]:
            bins["answered" if final.code == "ok" else "failed"][int(final.at / BIN)] += 1
        bins["sent"][int(record.sent / BIN)] += 1
    last = max((max(counts) for counts in bins.values()), default=0) + 1
    times = [BIN * n for n in range(last + 1)]
    for name, colour in (("sent", "#999999"), ("answered", "#0b6e4f"), ("failed", "#c1121f")):
        values = [bins[name][n] / BIN for n in range(last + 1)]
        top.step(times, values, where="post", color=colour, label=name)
    _mark_faults(top, outcome)
    top.set_ylabel("requests/s")
    top.set_ylim(bottom=0)
    if outcome.ready_over_time:
        at, ready = zip(*outcome.ready_over_time, strict=True)
        bottom.step(at, ready, where="post", color="#333333")
    bottom.set_ylabel("workers ready")
    bottom.set_ylim(0, outcome.plan.workers + 0.5)
    bottom.set_xlabel("seconds")
    plan = outcome.plan
    figure.suptitle(f"seed {plan.seed}, {plan.brokers} broker(s): {totals(outcome)}")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)
    pyplot.close(figure)


def _mark_faults(axes: Any, outcome: Outcome) -> None:
    seen: set[Kind] = set()
    for hit in outcome.injected:
        letter, colour = MARKS[hit.fault.kind]
        label = None if hit.fault.kind in seen else f"{letter}  {hit.fault.kind.value}"
        seen.add(hit.fault.kind)
        style = ":" if hit.missed else "-"
        axes.axvline(hit.at, color=colour, linewidth=1, linestyle=style, alpha=0.7, label=label)
        axes.text(
            hit.at, 1.0, letter, color=colour, transform=axes.get_xaxis_transform(), ha="center",
            va="bottom", fontsize=8,
        )  # fmt: skip
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=8, frameon=False)
