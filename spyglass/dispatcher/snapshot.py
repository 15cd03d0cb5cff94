"""The picture of the fleet behind the status page, `/v1/status` and the metrics."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from spyglass import __version__
from spyglass.dispatcher.dispatcher import Dispatcher
from spyglass.dispatcher.journal import Departed, Event
from spyglass.dispatcher.pools import Pool
from spyglass.dispatcher.quarantine import Suspect
from spyglass.dispatcher.stats import percentile
from spyglass.dispatcher.trend import Trend
from spyglass.dispatcher.worker_state import Worker


def snapshot(dispatcher: Dispatcher, now: float) -> dict[str, Any]:
    """Everything the broker knows, as JSON-ready data.

    Times are ages in seconds (`_s`) or milliseconds (`_ms`), never times of day.
    """
    journal = dispatcher.journal
    oldest = [at for pool in dispatcher.pools.values() if (at := pool.oldest_arrival()) is not None]
    return {
        "broker": {
            "version": __version__,
            "state": "draining" if dispatcher.stopping else "serving",
            "uptime_s": _age(dispatcher.started, now),
        },
        "workers": [_worker(w, now) for w in sorted(dispatcher.workers.values(), key=_by_name)],
        "departed": [_departed(gone, now) for gone in reversed(journal.departed)],
        "queue": {
            "waiting": dispatcher.waiting,
            "waiting_bytes": dispatcher.jobs.waiting_bytes,
            "max_waiting": dispatcher.policy.max_waiting,
            "oldest_wait_s": _age(min(oldest), now) if oldest else 0.0,
            "in_flight": dispatcher.open_requests - dispatcher.waiting,
        },
        "models": [_model(pool, dispatcher) for pool in dispatcher.pools.values()],
        "counters": asdict(journal.counters),
        "trend": _trend(dispatcher.trend, now),
        "events": [_event(event, now) for event in reversed(journal.events)],
        "quarantine": [_suspect(each, now) for each in dispatcher.jobs.quarantine.entries(now)],
    }


def _trend(trend: Trend, now: float) -> dict[str, list[float]]:
    """One column for each figure: a list of objects would be three times as long."""
    samples = trend.samples
    return {
        "ago_s": [_age(sample.at, now) for sample in samples],
        "waiting": [sample.waiting for sample in samples],
        "in_flight": [sample.in_flight for sample in samples],
        "answered": [sample.answered for sample in samples],
    }


def _age(then: float, now: float) -> float:
    return round(now - then, 3)


def _by_name(worker: Worker) -> tuple[str, str]:
    return worker.name, worker.id


def _worker(worker: Worker, now: float) -> dict[str, Any]:
    recent = sorted(worker.latencies)
    return {
        "id": worker.id,
        "name": worker.name,
        "host": worker.hello.host,
        "pid": worker.hello.pid,
        "model": worker.hello.model,
        "digest": worker.hello.digest,
        "state": worker.state,
        "processes": worker.hello.processes,
        "slots": worker.hello.credit,
        "credit": worker.credit,
        "in_flight": len(worker.in_flight),
        "done": worker.done,
        "failed": worker.failed,
        "mean_ms": round(1000 * sum(recent) / len(recent), 2) if recent else None,
        "p50_ms": round(1000 * percentile(recent, 0.5), 2) if recent else None,
        "p95_ms": round(1000 * percentile(recent, 0.95), 2) if recent else None,
        "last_heartbeat_s": _age(worker.silence.last_message, now),
        "uptime_s": _age(worker.joined, now),
    }


def _departed(gone: Departed, now: float) -> dict[str, Any]:
    return {
        "name": gone.name,
        "host": gone.host,
        "reason": gone.reason,
        "ago_s": _age(gone.at, now),
        "done": gone.done,
        "failed": gone.failed,
    }


def _event(event: Event, now: float) -> dict[str, Any]:
    return {
        "id": event.number,
        "ago_s": _age(event.at, now),
        "text": event.text,
        "outcome": event.outcome,
    }


def _suspect(suspect: Suspect, now: float) -> dict[str, Any]:
    return {
        "sha256": suspect.sha256,
        "left_s": _age(now, suspect.until),
        "workers": [loss.worker for loss in suspect.losses],
        "refused": suspect.refused,
    }


def _model(pool: Pool, dispatcher: Dispatcher) -> dict[str, Any]:
    return {
        "name": pool.model,
        "digest": pool.digest,
        "workers": len(pool.workers),
        "waiting": pool.waiting,
        "default": pool is dispatcher.pools.default(),
    }
