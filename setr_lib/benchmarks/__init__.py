"""Benchmarks: one class per kind of data set, and the evaluation sets that settings make of them.

What belongs here: reading and checking of annotation files, what a benchmark measures, official counts,
submissions, where images come from. Nothing that needs a model, and no computation over rankings
(``setr_lib.evaluation``). Polars and NumPy are imported inside the functions: listing the evaluation sets
costs next to nothing.
"""

from setr_lib.benchmarks.benchmark import Benchmark, ImageSource, OfficialFile
from setr_lib.benchmarks.errors import DatasetError
from setr_lib.benchmarks.folder_gallery import folder_rules
from setr_lib.benchmarks.metrics import (
    Average,
    MeanAveragePrecisionAt,
    Metric,
    RecallAt,
    SubsetRecallAt,
    TrapezoidalAveragePrecision,
    mean_average_precisions,
    recalls,
)
from setr_lib.benchmarks.ranking_lists import RankingError, RankingFile, RankingFileError, RankingLists
from setr_lib.benchmarks.records import ImageRecord, QueryRecord, TripletRecord, image_names, images_in
from setr_lib.benchmarks.registry import benchmark_kinds, benchmark_of
from setr_lib.benchmarks.sets import (
    EvaluationSet,
    SplitAverage,
    averages,
    evaluation_set,
    evaluation_sets,
    headlines,
    named_sets,
    set_of_split,
    train_set,
    training_pixels,
)
from setr_lib.benchmarks.source import DataSource

__all__ = [
    "Average",
    "Benchmark",
    "DataSource",
    "DatasetError",
    "EvaluationSet",
    "ImageRecord",
    "ImageSource",
    "MeanAveragePrecisionAt",
    "Metric",
    "OfficialFile",
    "QueryRecord",
    "RankingError",
    "RankingFile",
    "RankingFileError",
    "RankingLists",
    "RecallAt",
    "SplitAverage",
    "SubsetRecallAt",
    "TrapezoidalAveragePrecision",
    "TripletRecord",
    "averages",
    "benchmark_kinds",
    "benchmark_of",
    "evaluation_set",
    "evaluation_sets",
    "folder_rules",
    "headlines",
    "image_names",
    "images_in",
    "mean_average_precisions",
    "named_sets",
    "recalls",
    "set_of_split",
    "train_set",
    "training_pixels",
]
