"""vtrain's offline side: catalog of profiles and simulator of LLM training. Never imports torch."""

__version__ = "0.1.0"
