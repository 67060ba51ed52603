"""A study: the best plans of many models on many clusters, unit by unit, here or on a Ray cluster.

Every unit (one model, cluster and global batch) is one file in the output directory, written whole when
it is done: a study that was interrupted goes on where it stopped, and who ran a unit does not matter.
"""

from vtrain_sim.decide.study.file import of_models, read_study
from vtrain_sim.decide.study.result import StudyResult
from vtrain_sim.decide.study.run import others_in, run_study
from vtrain_sim.decide.study.unit import Unit, run_unit

__all__ = ["StudyResult", "Unit", "of_models", "others_in", "read_study", "run_study", "run_unit"]
