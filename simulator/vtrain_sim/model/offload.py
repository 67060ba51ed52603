"""What goes between a device and the memory of its host: activations, and the states of an optimizer that runs there.

Copies have a stream of their own. Transformer Engine spreads those of N of L layers evenly over the L layers
(--cpu-offloading-num-layers): beside each layer goes N / L of what one keeps, and the compute stream waits for it at
the layer's end. Megatron-Core's fine-grained offloading copies the inputs of single modules when a layer's forward pass
is done, and back beside the backward pass before; the last layer of a chunk keeps what it has.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from vtrain_sim.model.program import Communication, Compute, Item, Program, Wait
from vtrain_sim.model.shard import Shard
from vtrain_sim.specs.groups import Group

# The link to the host, which only its own device uses.
HOST = "host"
_LINK = Group(HOST, 1, 1)
COPY, UPDATE, OVERLAPPED_UPDATE = "copy", "host_update", "overlapped_host_update"
# Bytes of an element: gradients on their way out, updated parameters on their way back (Megatron-Core's
# HybridDeviceOptimizer converts both before they go), and what Adam reads and writes of gradient, parameter and
# moments.
GRADIENT_BYTES, PARAMETER_BYTES, ADAM_BYTES = 4, 2, 28
# What each module's name says, as items of a layer's program whose saved tensors it is.
_ITEMS = {
    "attn_norm": ("input_layernorm",),
    "qkv_linear": ("linear_qkv", "linear_q_down", "linear_kv_down"),
    "mlp_norm": ("pre_mlp_layernorm",),
    "expert_fc1": ("experts_fc1",),
    "moe_act": ("experts_activation",),
}
# An activation, and the bounds of its input that are kernels of their own.
_OF_ACTIVATION = ("activation", "clamp")


def offloaded_bytes(shard: Shard, program: Program) -> int:
    """Bytes of a layer that its offloaded modules keep in the host's memory."""
    spec = shard.spec
    sizes: list[int] = []
    saves = _saves(program)
    for module in spec.offload_modules:
        sizes += [saves.get(name, 0) for name in _ITEMS.get(module, ())]
    if "core_attn" in spec.offload_modules and "core_attention" in saves:
        output = shard.tokens * shard.model.attention_width // shard.tp * shard.size
        inputs = saves["core_attention"] - output
        sizes.append(inputs)
        if "attn_proj" in spec.offload_modules:
            sizes.append(output + saves.get("linear_proj", 0))
    return sum(size for size in sizes if size >= spec.min_offloaded_tensor_size * shard.size)


def _saves(program: Program) -> Counter[str]:
    """Bytes that items of a layer keep, by name; what is between the experts' products apart from other activations."""
    saves: Counter[str] = Counter()
    product = ""
    for item in program.forward:
        between = item.name in _OF_ACTIVATION
        if not between:
            product = item.name
        if isinstance(item, Compute) and item.saves:
            name = "experts_activation" if between and product.startswith("experts_fc1") else item.name
            saves[name] += item.saves
    return saves


def with_layers_offloaded(program: Program, share: float) -> Program:
    """A layer beside which a share of what one keeps goes to the host, and comes back in its backward pass."""
    copy = Communication("offload", COPY, _LINK, round(share * program.saved_bytes), blocking=False)
    forward, backward = (_beside(copy, items) for items in (program.forward, program.backward))
    return replace(program, forward=forward, backward=backward)


def with_modules_offloaded(shard: Shard, program: Program) -> Program:
    """A layer whose offloaded modules keep nothing on the device."""
    nbytes = offloaded_bytes(shard, program)
    if not nbytes:
        return program
    copy = Communication("offload", COPY, _LINK, nbytes, blocking=False)
    return replace(
        program,
        name=f"{program.name}_offloading",
        forward=(*program.forward, copy),
        backward=_beside(copy, program.backward),
        checkpoint_bytes=program.kept_bytes - nbytes,
    )


def _beside(copy: Communication, items: Sequence[Item]) -> tuple[Item, ...]:
    return (copy, *items, Wait(copy.name))


def host_update(count: int, overlapped: bool) -> list[Item]:
    """The update of so many parameters on the host: gradients there, Adam, parameters back; one after the other, or
    parameter by parameter beside each other."""
    if overlapped:
        return [Communication("host_optimizer", OVERLAPPED_UPDATE, _LINK, count * ADAM_BYTES)]
    return [
        Communication("gradients_to_host", COPY, _LINK, count * GRADIENT_BYTES),
        Communication("host_optimizer", UPDATE, _LINK, count * ADAM_BYTES),
        Communication("parameters_from_host", COPY, _LINK, count * PARAMETER_BYTES),
    ]
