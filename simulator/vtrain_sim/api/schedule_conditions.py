"""What `schedule` takes beside jobs and policies: nodes, tenants, failures and restarts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from vtrain_sim.api.machine import Machine
from vtrain_sim.decide.fleet import ClusterPolicy, Conditions, Job, Speeds, placement
from vtrain_sim.decide.fleet.breakdowns import Breakdowns
from vtrain_sim.decide.fleet.checkpoints import NODE_BYTES_PER_S, Checkpoints
from vtrain_sim.decide.fleet.placement.fragments import Fragment, fragmented, rack_gpus
from vtrain_sim.decide.fleet.traces import Recorded
from vtrain_sim.errors import UserError, nearest
from vtrain_sim.simulate.projection import Projector
from vtrain_sim.specs import ClusterSpec
from vtrain_sim.specs.checks import Range
from vtrain_sim.text_file import read_text

_RESTART, _BANDWIDTH = Range(0.0, 1e6), Range(1e-3, 1e6, or_zero=True)
# Seconds of a restart where nothing is said of it.
RESTART_S = 60.0
# Hours until a node is back, likewise.
REPAIR_HOURS = 4.0

Quotas = str | Path | Mapping[str, int]


def conditions_of(
    cluster: ClusterSpec,
    placed: str,
    migrate: bool,
    quotas: Quotas | None,
    gpu_mtbf_hours: float,
    repair_hours: float | None,
    restart_seconds: float | None,
    checkpoint_bandwidth: float,
) -> Conditions:
    """Conditions without the sizes of checkpoints, which speeds bring. Raises `UserError` for what is none."""
    if restart_seconds is not None:
        _RESTART.check("--restart-seconds", restart_seconds)
    _BANDWIDTH.check("--checkpoint-bandwidth", checkpoint_bandwidth)
    if repair_hours is not None and not gpu_mtbf_hours:
        raise UserError("--repair-hours needs --gpu-mtbf-hours: without failures nothing is repaired")
    if restart_seconds is not None and checkpoint_bandwidth and not gpu_mtbf_hours:
        raise UserError(
            "--restart-seconds and --checkpoint-bandwidth both say how long a restart takes: give one (with "
            "--gpu-mtbf-hours the bandwidth is also that of the checkpoints between failures)"
        )
    repair = REPAIR_HOURS if repair_hours is None else repair_hours
    breakdowns = Breakdowns(gpu_mtbf_hours, repair) if gpu_mtbf_hours else None
    derived = bool(checkpoint_bandwidth or breakdowns)
    restart = RESTART_S if restart_seconds is None and not derived else restart_seconds
    node_bytes = checkpoint_bandwidth * 1e9 or NODE_BYTES_PER_S
    return Conditions(
        Checkpoints(restart, {}, node_bytes, cluster.gpus_per_node),
        placement.get(placed),
        cluster.gpus_per_node,
        rack_gpus(cluster),
        migrate,
        quotas_of(quotas),
        breakdowns,
    )


def check_quotas(quotas: Mapping[str, int], policies: Mapping[str, ClusterPolicy]) -> None:
    """Raise `UserError` where a policy does not know quotas."""
    elastic = [name for name, policy in policies.items() if not policy.as_requested]
    if quotas and elastic:
        known = ",".join(name for name, policy in policies.items() if policy.as_requested)
        raise UserError(
            f"--quotas are kept by policies that give jobs the GPUs that they request, and {', '.join(elastic)} choose "
            f"their own: give --policies {known or 'fifo,srtf,edf,priority'}"
        )


def check_tenants(quotas: Mapping[str, int], jobs: Iterable[Job | Recorded]) -> None:
    """Raise `UserError` for quotas of tenants of whom no job is."""
    tenants = {job.tenant for job in jobs}
    for tenant in quotas:
        if tenant not in tenants:
            known = ", ".join(sorted(tenants - {""})[:8]) or "no tenants: a trace with a column tenant would"
            raise UserError(f"--quotas has tenant {tenant!r}{nearest(tenant, tenants - {''})}: the jobs have {known}")


def with_sizes(conditions: Conditions, speeds: Speeds) -> Conditions:
    """The conditions with the checkpoints of these kinds of jobs."""
    return replace(conditions, checkpoints=replace(conditions.checkpoints, state_bytes=speeds.state_bytes))


def projectors_of(machine: Machine, fragments: list[Fragment]) -> dict[Fragment, Projector]:
    """What projects jobs whose gangs lie so."""
    return {f: replace(machine, cluster=fragmented(machine.cluster, f)).projector for f in fragments}


def quotas_of(given: Quotas | None) -> dict[str, int]:
    """GPUs by tenant: a mapping, words (``a=256,b=128``), or a file of such, one a line. Raises `UserError`."""
    if given is None or given == "":
        return {}
    if isinstance(given, Mapping):
        return {str(tenant): _gpus(str(tenant), str(gpus)) for tenant, gpus in given.items()}
    text = str(given)
    if "=" not in text:
        text = read_text(Path(text))
    quotas: dict[str, int] = {}
    for line in text.splitlines():
        for word in filter(None, (w.strip() for w in line.partition("#")[0].split(","))):
            tenant, equals, gpus = (part.strip() for part in word.partition("="))
            if not equals or not tenant:
                raise UserError(f"--quotas has {word!r}: it takes a tenant and its GPUs, for example a=256,b=128")
            if tenant in quotas:
                raise UserError(f"--quotas has tenant {tenant!r} twice")
            quotas[tenant] = _gpus(tenant, gpus)
    return quotas


def _gpus(tenant: str, text: str) -> int:
    if not text.isdecimal() or len(text) > 9:
        raise UserError(f"--quotas has {text!r} for tenant {tenant!r}: it takes a whole number of GPUs of 0 or more")
    return int(text)
