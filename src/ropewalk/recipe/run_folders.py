"""The only place that knows file names inside a run's folder; the trees stand above the classes."""

from ropewalk.recipe.measurements import read_origin, read_records, require_same_run
from ropewalk.recipe.run_folder import PipelineFolder, StageFolder
from ropewalk.recipe.search_folder import RunFolder

__all__ = ["PipelineFolder", "RunFolder", "StageFolder", "read_origin", "read_records", "require_same_run"]
