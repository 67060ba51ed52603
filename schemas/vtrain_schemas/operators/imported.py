"""Kinds that only imported traces have, by the operator's name alone: they have no shape and no cost model."""

from __future__ import annotations

from vtrain_schemas.operators.registry import OperatorKind, register

for _name, _meaning in {
    "other": "an operator that vtrain does not model",
    "communication": "a call of a communication library, see the collectives table",
    "view": "an operator that changes shapes or allocates, without work on the device",
    "memory": "a copy or a fill",
    "softmax": "softmax or cross entropy",
    "convolution": "convolution",
    "reduction": "a sum or another reduction",
    "elementwise": "element by element: adds, products, activations",
    "autograd": "a node of the backward pass, around its operators",
}.items():
    register(OperatorKind(_name, _meaning))
