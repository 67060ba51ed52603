"""Under which conditions jobs shared a cluster, in sentences."""

from __future__ import annotations

from vtrain_sim.decide.fleet import FleetResult
from vtrain_sim.decide.fleet import policies as cluster_policies
from vtrain_sim.decide.fleet.checkpoints import Checkpoints
from vtrain_sim.report.tables import counted


def said(result: FleetResult) -> list[str]:
    """The trace, placement, tenants, failures and restarts, each where there is something to say."""
    return [s for s in (*result.notes, _placed(result), _shared(result), _failing(result), _restarting(result)) if s]


def _placed(result: FleetResult) -> str:
    conditions = result.conditions
    if conditions.placement is None:
        return ""
    whole = [name for name in result.outcomes if cluster_policies.get(name).whole_nodes]
    elastic = f"; {' and '.join(whole)}: whole nodes" if whole and conditions.unit(result.num_gpus) > 1 else ""
    migrating = "; gangs move to fewer nodes where it pays" if conditions.migrate else ""
    return (
        f"placement {conditions.placement.name}: {conditions.placement.says} (nodes of {conditions.gpus_per_node} GPUs)"
        f"{elastic}{migrating}"
    )


def _shared(result: FleetResult) -> str:
    quotas = result.conditions.quotas
    if not quotas:
        return ""
    of_tenants = ", ".join(f"{tenant} {gpus:,}" for tenant, gpus in quotas.items())
    rest = result.num_gpus - sum(quotas.values())
    return f"quotas, GPUs: {of_tenants}" + (f"; {rest:,} are nobody's" if rest else "") + "; what is idle is lent"


def _failing(result: FleetResult) -> str:
    breakdowns = result.conditions.breakdowns
    if breakdowns is None:
        return ""
    promising = [name for name in result.outcomes if cluster_policies.get(name).whole_nodes]
    promise = f"; {' and '.join(promising)} promise deadlines only as long as nothing fails" if promising else ""
    return (
        f"failures: of a GPU every {breakdowns.gpu_mtbf_hours:,g} h on average, with its node, which is back after "
        f"{breakdowns.repair_hours:g} h; a job goes on from its last checkpoint, at the best interval{promise}"
    )


def _restarting(result: FleetResult) -> str:
    checkpoints = result.conditions.checkpoints
    if checkpoints.restart_s is not None:
        return f"a change of GPUs takes {checkpoints.restart_s:g} s (checkpoint and restart)"
    return (
        f"a change of GPUs takes {checkpoints.startup_s:g} s, and a checkpoint written and read: {_sizes(checkpoints)}"
    )


def _sizes(checkpoints: Checkpoints) -> str:
    """How long the smallest and the largest checkpoint take."""
    by_size = sorted(checkpoints.state_bytes.items(), key=lambda kind: kind[1])
    ends = {by_size[0][0][0]: by_size[0], by_size[-1][0][0]: by_size[-1]} if by_size else {}
    each = [f"{size / 1e9:,.0f} GB ({model})" for model, (_, size) in ends.items()]
    return f"{' to '.join(each)} at {checkpoints.node_bytes_per_s / 1e9:g} GB/s a node"


def counts_said(result: FleetResult) -> str:
    """The numbers of GPUs that a job may have."""
    counts = ", ".join(f"{count:,}" for count in result.counts)
    return (
        f"a job has one of these numbers of GPUs, none between: {counts} (where it fits, and is faster than on fewer)"
    )


def gpus_of(result: FleetResult) -> str:
    """The cluster in a few words."""
    return f"{counted(result.num_gpus, 'GPUs')} of {result.cluster}"
