"""Why one step takes longer than another: the difference by cause."""

from __future__ import annotations

from dataclasses import dataclass

from vtrain_sim.results import Document, Result, Row
from vtrain_sim.validate.account import Account, place

SCHEMA = "vtrain.difference/1"
# Smaller ones, as part of all changes, are shown together.
_LEAST_SHARE = 0.01
# What describes the same thing as another setting, or follows from others.
_FOLLOWS = ("padded_vocab_size",)


@dataclass(frozen=True)
class Cause:
    """Seconds of a step that have one cause, in both.

    >>> import vtrain as vt
    >>> job = vt.job("gpt3-1.3b", cluster="dgx-a100-80gb", gpus=8, tp=2, mbs=1, gbs=16)
    >>> causes = {cause.name: cause for cause in vt.compare(job, job.with_(tp=4)).causes}
    >>> causes["tp communication"].difference_s > 0
    True
    """

    name: str
    a_s: float
    b_s: float

    @property
    def difference_s(self) -> float:
        """How much more it is in b.

        >>> import vtrain as vt
        >>> job = vt.job("gpt3-1.3b", cluster="dgx-a100-80gb", gpus=8, tp=2, mbs=1, gbs=16)
        >>> vt.compare(job, job).causes[0].difference_s
        0.0
        """
        return self.b_s - self.a_s


@dataclass(frozen=True, repr=False)
class Difference(Result):
    """Two steps, and where the difference between their times comes from; seconds.

    a, b: where the time of each goes; name_a, name_b: what they are called. causes: in a fixed order; their differences
    add up to that of the steps. sentences: the largest ones in words.

    >>> import vtrain as vt
    >>> job = vt.job("gpt3-1.3b", cluster="dgx-a100-80gb", gpus=8, tp=2, mbs=1, gbs=16)
    >>> difference = vt.compare(job, job.with_(tp=4))
    >>> abs(sum(cause.difference_s for cause in difference.causes) - difference.difference_s) < 1e-12
    True
    >>> difference.sentences[0]
    'tp communication takes ... more, ... of the difference (... to ...; tp 2 to 4)'
    """

    a: Account
    b: Account
    name_a: str
    name_b: str
    sentences: tuple[str, ...] = ()

    @property
    def difference_s(self) -> float:
        """How much longer b's step takes.

        >>> import vtrain as vt
        >>> job = vt.job("gpt3-1.3b", cluster="dgx-a100-80gb", gpus=8, mbs=1, gbs=16)
        >>> vt.compare(job, job.with_(recompute="full")).difference_s > 0
        True
        """
        return self.b.step_s - self.a.step_s

    @property
    def causes(self) -> tuple[Cause, ...]:
        """All causes that either of them has: compute, communication, all else.

        >>> import vtrain as vt
        >>> job = vt.job("gpt3-1.3b", cluster="dgx-a100-80gb", gpus=8, mbs=1, gbs=16)
        >>> vt.compare(job, job.with_(recompute="full")).causes[0].name
        'matrix products'
        """
        names = {**self.a.causes, **self.b.causes}
        both = [(name, self.a.causes.get(name, 0.0), self.b.causes.get(name, 0.0)) for name in names]
        both.sort(key=lambda cause: place((cause[0], max(cause[1:]))))
        return tuple(Cause(*cause) for cause in both)

    @property
    def settings(self) -> dict[str, tuple[object, object]]:
        """What differs between their configurations, where both are known.

        >>> import vtrain as vt
        >>> job = vt.job("gpt3-1.3b", cluster="dgx-a100-80gb", gpus=8, tp=2, mbs=1, gbs=16)
        >>> vt.compare(job, job.with_(tp=4)).settings
        {'tp': (2, 4), 'dp': (4, 2)}
        """
        a, b = self.a.settings, self.b.settings
        return {name: (a[name], b[name]) for name in a if name in b and a[name] != b[name] and name not in _FOLLOWS}

    @property
    def shown(self) -> tuple[Cause, ...]:
        """The causes, with those that hardly differ together as one.

        >>> import vtrain as vt
        >>> job = vt.job("gpt3-1.3b", cluster="dgx-a100-80gb", gpus=8, tp=2, mbs=1, gbs=16)
        >>> difference = vt.compare(job, job.with_(tp=4))
        >>> len(difference.shown) < len(difference.causes)
        True
        """
        changes = sum(abs(cause.difference_s) for cause in self.causes)
        small = [cause for cause in self.causes if abs(cause.difference_s) <= _LEAST_SHARE * changes]
        if len(small) < 2:
            return self.causes
        rest = Cause(f"{len(small)} others", sum(c.a_s for c in small), sum(c.b_s for c in small))
        return (*(cause for cause in self.causes if cause not in small), rest)

    @property
    def work(self) -> str:
        """That seconds alone do not compare the two, where their tokens per step or their GPUs differ; else empty.

        >>> import vtrain as vt
        >>> job = vt.job("gpt3-1.3b", cluster="dgx-a100-80gb", gpus=8, mbs=1, gbs=16)
        >>> vt.compare(job, job.with_(recompute="full")).work
        ''
        """
        a, b = self.a, self.b
        pairs = ((a.tokens, b.tokens, "tokens"), (a.num_gpus, b.num_gpus, "GPUs"))
        unlike = [f"{what} ({one:,} to {other:,})" for one, other, what in pairs if one and other and one != other]
        if not unlike:
            return ""
        return f"the steps differ in {' and '.join(unlike)}: their seconds are of unlike work, compare tokens/s per GPU"

    @property
    def remarks(self) -> tuple[str, ...]:
        """What to keep in mind when reading it.

        >>> import vtrain as vt
        >>> job = vt.job("gpt3-1.3b", cluster="dgx-a100-80gb", gpus=8, mbs=1, gbs=16)
        >>> vt.compare(job, job.with_(gbs=32)).remarks[0]
        'the steps differ in tokens (... to ...): their seconds are of unlike work, compare tokens/s per GPU'
        """
        work = [self.work] if self.work else []
        return (*work, *self.a.remarks, *(remark for remark in self.b.remarks if remark not in self.a.remarks))

    def to_dict(self) -> Document:
        """The machine-readable result, schema vtrain.difference/1."""
        return {
            "schema": SCHEMA,
            "a": _side(self.name_a, self.a),
            "b": _side(self.name_b, self.b),
            "difference_s": self.difference_s,
            "settings": {name: {"a": a, "b": b} for name, (a, b) in self.settings.items()},
            "causes": self.rows(),
            "sentences": list(self.sentences),
            "remarks": list(self.remarks),
        }

    def summary(self) -> dict[str, object]:
        """Both steps and the difference."""
        return {
            "a": self.name_a,
            "b": self.name_b,
            "a_s": self.a.step_s,
            "b_s": self.b.step_s,
            "difference_s": self.difference_s,
        }

    def rows(self) -> list[Row]:
        """One row per cause."""
        return [{"cause": c.name, "a_s": c.a_s, "b_s": c.b_s, "difference_s": c.difference_s} for c in self.causes]


def _side(name: str, account: Account) -> Row:
    return {
        "name": name,
        "captured": account.captured,
        "step_s": account.step_s,
        "stage": account.stage,
        "num_gpus": account.num_gpus or None,
        "tokens": account.tokens or None,
        "tokens_per_s_per_gpu": account.tokens_per_s_per_gpu,
        "peak_bytes": account.peak_bytes or None,
        "fits": account.fits,
    }
